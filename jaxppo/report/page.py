"""The report of a run: one self-contained HTML file that opens without a network.

The same data always give the same bytes. Everything that a user wrote (symbols, names, configuration) is escaped.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from plotly.offline import get_plotlyjs

from jaxppo.backtest import by_regime
from jaxppo.backtest.inspection import Inspection
from jaxppo.backtest.mask_attribution import MaskEffect
from jaxppo.report import (
    capacity as capacity_section,
)
from jaxppo.report import (
    drawdowns as drawdown_report,
)
from jaxppo.report import (
    figures,
    limits,
    selection,
)
from jaxppo.report import (
    monitor as monitored,
)
from jaxppo.report.formatting import (
    METRICS,
    MISSING,
    escaped,
    flat_rows,
    interval_text,
    is_sharpe,
    metric_label,
    number,
    number_text,
    percent,
)
from jaxppo.report.inspection import TITLES, inspection_figures

_STYLE = pathlib.Path(__file__).with_name("report.css")


@dataclasses.dataclass(frozen=True, eq=False)
class ReportData:
    """What a report shows, as plain arrays and numbers: n bars, A assets.

    Attributes:
      title: of the run.
      timestamps: `[n + 1]` datetime64, the start of the first bar traded included; empty for a market without times.
      equity: strategy -> `[n + 1]` currency, the starting equity included; the first strategy is the agent, the others
        are its baselines under the same costs.
      weights: `[n, A]` weights of the agent at the close of each bar, fraction of equity, negative when short.
      symbols: A names.
      costs: kind -> `[n]` costs of the agent per bar, currency.
      training: rows of `metrics.jsonl`; may be empty.
      metrics: strategy -> metric -> value; None or NaN where it is undefined.
      intervals: strategy -> metric -> (low, high); every Sharpe ratio in `metrics` needs one (NaN ends if undefined).
      data_report: what the loader counted and repaired.
      config_yaml: the resolved configuration.
      warnings: what the reader must know before believing the rest; shown in red.
      sharpe_differences: baseline -> (low, high) of the agent's Sharpe ratio less that of the baseline, from paired
        resampling; may be empty.
      level: coverage of all the intervals, in (0, 1).
      inspection: what the policy looks at; None leaves it out.
      masks: mask -> what it did; empty without masks, None where it is not known.
      watched: strategy -> watched limit -> its figures, see `jaxppo.report.monitor`; empty without limits.
      stopped: the breach that stopped the agent; None without one.
      constraints: constraint -> limit, measured, multiplier, held and infeasible, as in summary.json; may be empty.
      selection: period -> what it is worth after all that was looked at, as in summary.json; may be empty.
      sections: more sections, title -> HTML.
      capacity: other costs and capital, see `jaxppo.backtest.capacity.costs_and_capital`; None leaves them out.
      by_regime: strategy -> regime -> figures, see `jaxppo.backtest.by_regime`; may be empty.
      regimes: `[n + 1]` int, the regime known at each point of the equity, position in `jaxppo.envs.market.features.REGIMES`; -1
        where none is, as it is everywhere by default.

    Raises:
      ValueError: if lengths do not fit together, or a Sharpe ratio comes without its interval.
    """

    title: str
    timestamps: np.ndarray
    equity: Mapping[str, np.ndarray]
    weights: np.ndarray
    symbols: tuple[str, ...]
    costs: Mapping[str, np.ndarray]
    training: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, Mapping[str, float | None]]
    intervals: Mapping[str, Mapping[str, tuple[float | None, float | None]]]
    data_report: Mapping[str, Any]
    config_yaml: str
    warnings: tuple[str, ...] = ()
    sharpe_differences: Mapping[str, tuple[float | None, float | None]] = dataclasses.field(default_factory=dict)
    level: float = 0.95
    inspection: Inspection | None = None
    masks: Mapping[str, MaskEffect] | None = dataclasses.field(default_factory=dict)
    watched: Mapping[str, monitored.Figures] = dataclasses.field(default_factory=dict)
    stopped: Mapping[str, Any] | None = None
    constraints: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    selection: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    sections: Mapping[str, str] = dataclasses.field(default_factory=dict)
    capacity: Mapping[str, Any] | None = None
    by_regime: Mapping[str, by_regime.Figures] = dataclasses.field(default_factory=dict)
    regimes: np.ndarray | None = None

    def __post_init__(self) -> None:
        n, n_assets = np.shape(self.weights)
        if self.regimes is None:
            object.__setattr__(self, "regimes", np.full(n + 1, -1))
        if not self.equity or n < 1:
            raise ValueError("a report needs the equity of at least one strategy over at least one bar")
        lengths = {f"equity[{name!r}]": len(values) for name, values in self.equity.items()}
        lengths["regimes"] = len(self.regimes)
        if len(self.timestamps):
            lengths["timestamps"] = len(self.timestamps)
        wrong = [f"{name} has {length} points, not {n + 1}" for name, length in lengths.items() if length != n + 1]
        wrong += [
            f"costs[{kind!r}] has {len(paid)} bars, not {n}" for kind, paid in self.costs.items() if len(paid) != n
        ]
        if wrong:
            raise ValueError(f"the weights have {n} bars, but {'; '.join(wrong)}")
        if len(self.symbols) != n_assets:
            raise ValueError(f"weights have {n_assets} assets but there are {len(self.symbols)} symbols")
        for strategy, values in self.metrics.items():
            bare = [name for name in values if is_sharpe(name) and name not in self.intervals.get(strategy, {})]
            if bare:
                raise ValueError(f"{bare[0]} of {strategy!r} has no interval; no Sharpe ratio is shown without one")

    @property
    def agent(self) -> str:
        """Name of the strategy under test."""
        return next(iter(self.equity))

    @property
    def points(self) -> np.ndarray:
        """`[n + 1]` time axis of the equity: timestamps, or bar numbers from 0."""
        return self.timestamps if len(self.timestamps) else np.arange(len(self.weights) + 1)


def write_report(path: str | os.PathLike[str], data: ReportData) -> None:
    """Writes the report, replacing the file; the folder is made if it is missing.

    Args:
      path: of the HTML file, about 5 MB, most of which is plotly itself.
      data: what it shows.

    Raises:
      OSError: if the file cannot be written.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(data), encoding="utf-8")


def render(data: ReportData) -> str:
    """The report as HTML text; see `write_report`."""
    sections = (
        (
            "Equity and drawdown",
            figures.as_html("equity", figures.equity_figure(data.points, data.equity, data.regimes)),
        ),
        ("Results", _metric_table(data)),
        ("Could it be luck?", selection.section(data.selection, data.level)),
        *data.sections.items(),
        ("By regime", by_regime.section(data.by_regime, data.level)),
        (
            "Drawdowns and recovery",
            drawdown_report.section(data.equity[data.agent], data.timestamps, data.regimes, data.level),
        ),
        (
            "Positions",
            figures.as_html("positions", figures.positions_figure(data.points[1:], data.weights, data.symbols)),
        ),
        ("Costs", _costs(data)),
        ("Costs and capacity", capacity_section.section(data.capacity)),
        ("Limits", limits.section(data.masks, data.constraints)),
        ("Monitored limits", monitored.section(data.watched, data.stopped, data.training)),
        ("What the policy looks at", _inspection(data)),
        ("Training", figures.as_html("training", figures.training_figure(data.training))),
        ("Data", data_table(data.data_report)),
        ("Configuration", _configuration(data.config_yaml)),
    )
    return page(data.title, _header(data), sections)


def render_training(title: str, summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], config_yaml: str) -> str:
    """The report of a run that is not about trading, as HTML text: figures, training curves, configuration.

    Args:
      title: of the run.
      summary: what summary.json says, nested mappings of figures.
      rows: rows of `metrics.jsonl`.
      config_yaml: the resolved configuration.
    """
    sections = (
        ("Results", data_table(summary)),
        ("Training", figures.as_html("training", figures.training_figure(rows))),
        ("Configuration", _configuration(config_yaml)),
    )
    return page(title, f"<header>\n<h1>{escaped(title)}</h1>\n</header>", sections)


def page(title: str, header: str, sections: Sequence[tuple[str, str]]) -> str:
    """A self-contained page of titled sections."""
    body = "\n".join(f"<section><h2>{name}</h2>\n{content}\n</section>" for name, content in sections)
    title = escaped(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f"<style>\n{_STYLE.read_text(encoding='utf-8')}</style>\n<script>{get_plotlyjs()}</script>\n</head>\n<body>\n<main>\n"
        f"{header}\n{body}\n</main>\n</body>\n</html>\n"
    )


def verdict(data: ReportData) -> tuple[str, ...]:
    """What the numbers say, in plain sentences: is it luck, does it beat the baselines, what did trading cost.

    Args:
      data: of the report.

    Returns:
      Sentences; the first is about the Sharpe ratio of the agent and its interval.
    """
    sentences = [_sharpe_verdict(data)]
    judged: dict[str, list[str]] = {"above": [], "below": [], "open": []}
    for baseline, ends in data.sharpe_differences.items():
        low, high = map(number, ends)
        if not math.isnan(low + high):
            judged["above" if low > 0 else "below" if high < 0 else "open"].append(baseline)
    for side in ("above", "below"):
        if judged[side]:
            names = " and ".join(judged[side])
            sentences.append(f"Its Sharpe ratio is {side} that of {names} by more than luck explains.")
    if judged["open"]:
        names = " or ".join(judged["open"])
        sentences.append(f"Whether it is better or worse than {names} cannot be told from this period.")
    growth = {name: number(values[-1]) / number(values[0]) - 1 for name, values in data.equity.items()}
    others = [f"{percent(gain)} for {name}" for name, gain in growth.items() if name != data.agent]
    against = f", against {' and '.join(others)}" if others else ""
    sentences.append(f"Over the period it returned {percent(growth[data.agent])}{against}.")
    if data.costs:
        sentences.append(f"Costs took {percent(_total_costs(data) / _start(data))} of the starting equity.")
    return tuple(sentences)


def _sharpe_verdict(data: ReportData) -> str:
    """The first sentence of the verdict."""
    value = number(data.metrics.get(data.agent, {}).get("sharpe"))
    low, high = map(number, data.intervals.get(data.agent, {}).get("sharpe", (None, None)))
    if not math.isfinite(value):
        return "The agent has no Sharpe ratio (too few returns, or all equal), so nothing can be concluded."
    if not (math.isfinite(low) and math.isfinite(high)):
        return "The Sharpe ratio has no usable interval (too few bars or trades), so nothing can be concluded."
    if low > 0:
        return "The interval of the Sharpe ratio lies above zero: over this period the gain is more than luck explains."
    if high < 0:
        return "The interval of the Sharpe ratio lies below zero: the agent loses by more than bad luck explains."
    return "The interval of the Sharpe ratio includes zero: this result is indistinguishable from luck."


def _header(data: ReportData) -> str:
    """Title, period, warnings, verdict and the headline numbers."""
    n, n_assets = np.shape(data.weights)
    period = ""
    if len(data.timestamps):
        first, last = (np.datetime_as_string(data.timestamps[i], unit="D") for i in (0, -1))
        period = f"{first} to {last} · "
    assets = ", ".join(data.symbols[:6]) + (f" and {n_assets - 6} more" if n_assets > 6 else "")
    low, high = map(number, data.intervals.get(data.agent, {}).get("sharpe", (None, None)))
    tone = "good" if low > 0 else "bad" if high < 0 else "open"
    subtitle = f"{period}{n:,} bar{'s' if n > 1 else ''} · {escaped(assets)}"
    parts = [f'<header>\n<h1>{escaped(data.title)}</h1>\n<p class="subtitle">{subtitle}</p>\n</header>']
    if data.warnings:
        items = "".join(f"<li>{escaped(warning)}</li>" for warning in data.warnings)
        parts.append(f'<div class="warnings" role="alert"><strong>Warnings</strong><ul>{items}</ul></div>')
    first, *rest = verdict(data)
    rest_text = f"<br>{escaped(' '.join(rest))}" if rest else ""
    parts.append(f'<p class="verdict {tone}"><strong>{escaped(first)}</strong>{rest_text}</p>')
    parts.append(_cards(data))
    return "\n".join(parts)


def _cards(data: ReportData) -> str:
    """The headline numbers of the agent."""
    values = data.metrics.get(data.agent, {})
    names = [name for name in ("sharpe", "total_return", "max_drawdown", "calmar", "win_rate") if name in values]
    cards = [
        f'<div class="card"><span class="label">{metric_label(name)}</span>{_cell(data, data.agent, name)}</div>'
        for name in names
    ]
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def _metric_table(data: ReportData) -> str:
    """Metrics down, strategies across; a number that has an interval is never shown without it."""
    strategies = [name for name in data.equity if name in data.metrics]
    strategies += [name for name in data.metrics if name not in strategies]
    names = dict.fromkeys(metric for strategy in strategies for metric in data.metrics[strategy])
    order = [name for name in METRICS if name in names] + [name for name in names if name not in METRICS]
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in strategies)
    rows = [
        f'<tr><th scope="row">{metric_label(name)}</th>'
        + "".join(f"<td>{_cell(data, strategy, name)}</td>" for strategy in strategies)
        + "</tr>"
        for name in order
    ]
    if data.sharpe_differences:
        given = (data.sharpe_differences.get(name) for name in strategies)
        cells = (f"<td>{interval_text(interval, 'ratio') if interval else ''}</td>" for interval in given)
        rows.append(f'<tr><th scope="row">Sharpe ratio of the agent less this</th>{"".join(cells)}</tr>')
    note = (
        f"In brackets, {100 * data.level:g} % bootstrap intervals, resampled in blocks of bars. "
        f"Everything net of costs. A loss is a positive number; {MISSING} is undefined."
    )
    table = f'<table class="metrics"><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return f'<div class="scroll">{table}</div><p class="caption">{note}</p>'


def _costs(data: ReportData) -> str:
    """Cumulative costs and their totals by kind."""
    if not data.costs or not any(np.any(paid) for paid in data.costs.values()):
        return '<p class="caption">No costs were charged.</p>'
    totals = {kind: float(np.sum(paid, dtype=np.float64)) for kind, paid in data.costs.items()}
    rows = [
        f'<tr><th scope="row">{escaped(kind)}</th><td>{amount:,.2f}</td><td>{percent(amount / _start(data))}</td></tr>'
        for kind, amount in {**totals, "total": sum(totals.values())}.items()
    ]
    head = "<tr><th></th><th>Paid</th><th>Of starting equity</th></tr>"
    table = f'<table class="compact"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'
    return figures.as_html("costs", figures.costs_figure(data.points[1:], data.costs)) + table


def _inspection(data: ReportData) -> str:
    """Heat maps of attention and attributions."""
    if data.inspection is None:
        return '<p class="caption">The policy was not looked into.</p>'
    drawn = inspection_figures(data.inspection, data.symbols)
    return "\n".join(f"<h3>{TITLES[name]}</h3>\n{figures.as_html(name, figure)}" for name, figure in drawn.items())


def data_table(report: Mapping[str, Any]) -> str:
    """The data report, nested entries flattened to dotted names."""
    rows = [
        f'<tr><th scope="row">{escaped(name)}</th><td class="text">{escaped(value)}</td></tr>'
        for name, value in flat_rows(report)
    ]
    if not rows:
        return '<p class="caption">The market was simulated, or its loader reported nothing.</p>'
    return f'<div class="scroll"><table class="compact"><tbody>{"".join(rows)}</tbody></table></div>'


def _configuration(config_yaml: str) -> str:
    """The resolved configuration, folded away."""
    return f"<details><summary>Show the resolved configuration</summary><pre>{escaped(config_yaml)}</pre></details>"


def _cell(data: ReportData, strategy: str, name: str) -> str:
    """A value of the metric table, with its interval where it has one."""
    kind = METRICS.get(name, ("", "number"))[1]
    value = f'<span class="value">{number_text(data.metrics[strategy].get(name), kind)}</span>'
    interval = data.intervals.get(strategy, {}).get(name)
    return value if interval is None else f"{value} {interval_text(interval, kind)}"


def _total_costs(data: ReportData) -> float:
    """Costs of all kinds over the whole period, currency."""
    return float(sum(np.sum(paid, dtype=np.float64) for paid in data.costs.values()))


def _start(data: ReportData) -> float:
    """Starting equity of the agent, currency."""
    return float(data.equity[data.agent][0])
