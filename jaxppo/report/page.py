"""The report of a run: one self-contained HTML file that opens without a network.

The same data always give the same bytes. Everything that a user wrote (symbols, names, configuration) is escaped.
"""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from plotly.offline import get_plotlyjs

from jaxppo.report import (
    by_regime,
    capacity,
    drawdowns,
    figures,
    inspection,
    limits,
    markup,
    monitor,
    performance,
    selection,
    training,
)
from jaxppo.report import data as data_section
from jaxppo.report.formatting import (
    METRICS,
    MISSING,
    escaped,
    flat_rows,
    interval_text,
    metric_label,
    number,
    number_text,
    percent,
)
from jaxppo.report.results import ReportData, selected_of

_STYLE = pathlib.Path(__file__).with_name("report.css")
_RESIZE = """document.addEventListener("toggle", event => {
  if (event.target.open) event.target.querySelectorAll(".js-plotly-plot").forEach(plot => Plotly.Plots.resize(plot));
}, true);"""
"""A figure that was folded away had no size when it was drawn."""


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
    """Renders the report as HTML text; see `write_report`."""
    points, agent = data.points, data.equity[data.agent]
    regimes = np.full(len(points), -1) if data.regimes is None else data.regimes
    equity = figures.equity_figure(points, data.equity, regimes)
    positions = figures.positions_figure(points[1:], data.weights, data.symbols)
    deciding, attention = inspection.sections(data.inspection, data.symbols)
    sections = (
        ("Equity and drawdown", figures.as_html("equity", equity)),
        ("Results", _metric_table(data)),
        ("Could it be luck?", selection.section(data.selection, data.level)),
        *data.sections.items(),
        *_over_time(data),
        ("By regime", by_regime.section(data.by_regime, data.level)),
        ("Drawdowns and recovery", drawdowns.section(agent, data.timestamps, regimes, data.level)),
        ("Positions", figures.as_html("positions", positions)),
        *_by_asset(data),
        ("Costs", _costs(data)),
        ("Costs and capacity", capacity.section(data.capacity)),
        ("Limits", limits.section(data.masks, data.constraints)),
        ("Monitored limits", monitor.section(data.monitored, data.stopped, data.training)),
        ("What decides", deciding),
        ("Training", training.section(data.training, data.level, data.selected)),
        ("Data", data_section.section(data.data_report)),
        ("Configuration", _configuration(data.config_yaml)),
        ("Attention", attention),
    )
    return page(data.title, _header(data), sections)


REFERENCES = ("base", "buy_and_hold", "untrained")
"""Baselines that an agent has to beat before any other, the first that is there."""
LEVEL = 0.95
"""Of the intervals of a run that is not about trading, which has no other."""


def _over_time(data: ReportData) -> tuple[tuple[str, str], ...]:
    """Sections on when the agent earned: heading and HTML."""
    found = data.performance
    if found is None:
        return ()
    return (
        ("Returns by month", performance.months(found.monthly)),
        ("Rolling Sharpe ratio", performance.rolling(found, data.points, data.level)),
    )


def _by_asset(data: ReportData) -> tuple[tuple[str, str], ...]:
    """Sections on what the agent earned with: heading and HTML."""
    found = data.performance
    if found is None:
        return ()
    return (
        ("Contribution by asset", performance.contribution(found, data.starting_equity)),
        ("Trades", performance.trips(found, data.points, data.starting_equity)),
    )


def render_training(title: str, summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], config_yaml: str) -> str:
    """Renders the report of a run that is not about trading: figures, training curves, configuration.

    Args:
      title: of the run.
      summary: nested mappings of figures, as in summary.json.
      rows: of `metrics.jsonl`.
      config_yaml: the resolved configuration.
    """
    selected = selected_of(summary.get("validation", {}))
    sections = (
        ("Results", data_table(summary)),
        ("Training", training.section(rows, LEVEL, selected)),
        ("Configuration", _configuration(config_yaml)),
    )
    return page(title, f"<header>\n<h1>{escaped(title)}</h1>\n</header>", sections)


def page(title: str, header: str, sections: Sequence[tuple[str, str]]) -> str:
    """A self-contained HTML page.

    Args:
      title: of the page, as text.
      header: HTML of its head.
      sections: heading and HTML of each; those without content are left out.
    """
    body = "\n".join(f"<section><h2>{name}</h2>\n{content}\n</section>" for name, content in sections if content)
    style = _STYLE.read_text(encoding="utf-8")
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escaped(title)}</title>\n'
        f"<style>\n{style}</style>\n<script>{get_plotlyjs()}</script>\n</head>\n<body>\n<main>\n"
        f"{header}\n{body}\n</main>\n<script>{_RESIZE}</script>\n</body>\n</html>\n"
    )


def verdict(data: ReportData) -> tuple[str, ...]:
    """States in plain sentences whether the result is luck, whether it beats the baselines, and what trading cost.

    Args:
      data: of the report.

    Returns:
      Sentences; the first compares with what the agent has to beat, the next is about its own Sharpe ratio. Without a
      baseline to compare with, or without a Sharpe ratio, the latter comes first.
    """
    lead, sides = _lead(data), _sides(data)
    reference = _reference(data)
    sentences = [*([lead] if lead else []), _sharpe_verdict(data)]
    if lead and not data.unlearned:
        sides = {side: [name for name in names if name != reference] for side, names in sides.items()}
    for side in ("above", "below"):
        if sides[side]:
            names = " and ".join(sides[side])
            sentences.append(f"Its Sharpe ratio is {side} that of {names} by more than luck explains.")
    if sides["open"]:
        names = " or ".join(sides["open"])
        sentences.append(f"Whether it is better or worse than {names} cannot be told from this period.")
    growth = {name: number(values[-1]) / number(values[0]) - 1 for name, values in data.equity.items()}
    others = [f"{percent(gain)} for {name}" for name, gain in growth.items() if name != data.agent]
    against = f", against {' and '.join(others)}" if others else ""
    sentences.append(f"Over the period it returned {percent(growth[data.agent])}{against}.")
    if data.costs:
        share = sum(data.total_costs.values()) / data.starting_equity
        sentences.append(f"Costs took {percent(share)} of the starting equity.")
    return (*sentences, *data.told)


def _sides(data: ReportData) -> dict[str, list[str]]:
    """Baselines that the agent's Sharpe ratio is above, below, or neither ("open"), where the interval is known."""
    sides: dict[str, list[str]] = {"above": [], "below": [], "open": []}
    for baseline, ends in data.sharpe_differences.items():
        low, high = map(number, ends)
        if not math.isnan(low + high):
            sides["above" if low > 0 else "below" if high < 0 else "open"].append(baseline)
    return sides


def _reference(data: ReportData) -> str | None:
    """The baseline that the agent has to beat before anything else; None where nothing stands beside it."""
    known = [name for names in _sides(data).values() for name in names]
    usual = [name for name in REFERENCES if name in known]
    return next(iter([*usual, *(name for name in data.sharpe_differences if name in known)]), None)


def _lead(data: ReportData) -> str:
    """What the agent adds to what it has to beat, in a sentence; empty where that is not known."""
    if data.unlearned:
        return (
            "The agent has learned nothing that shows: what it earned it would have earned with its first parameters."
        )
    reference = _reference(data)
    if reference is None or not math.isfinite(number(data.metrics.get(data.agent, {}).get("sharpe"))):
        return ""
    side = next(side for side, names in _sides(data).items() if reference in names)
    if side == "open":
        return f"Whether the agent is better or worse than {reference} cannot be told from this period."
    return f"The agent's Sharpe ratio is {side} that of {reference} by more than luck explains."


def _tone(data: ReportData) -> str:
    """Colour of the verdict: good where the agent has beaten what it has to, and earned more than luck explains."""
    low, high = _sharpe_interval(data)
    alone = "good" if low > 0 else "bad" if high < 0 else "open"
    if not _lead(data):
        return alone
    side = "open" if data.unlearned else next(s for s, names in _sides(data).items() if _reference(data) in names)
    return "bad" if "bad" in (alone, {"below": "bad"}.get(side)) else alone if side == "above" else "open"


def _sharpe_interval(data: ReportData) -> tuple[float, float]:
    """Interval of the agent's Sharpe ratio; NaN where it has none."""
    low, high = data.intervals.get(data.agent, {}).get("sharpe", (None, None))
    return number(low), number(high)


def _sharpe_verdict(data: ReportData) -> str:
    """The first sentence of the verdict."""
    low, high = _sharpe_interval(data)
    if not math.isfinite(number(data.metrics.get(data.agent, {}).get("sharpe"))):
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
        start, end = (np.datetime_as_string(data.timestamps[i], unit="D") for i in (0, -1))
        period = f"{start} to {end} · "
    assets = ", ".join(data.symbols[:6]) + (f" and {n_assets - 6} more" if n_assets > 6 else "")
    first, *rest = map(escaped, verdict(data))
    box = markup.verdict_box(first, " ".join(rest), _tone(data))
    names = ("sharpe", "total_return", "max_drawdown", "calmar", "win_rate")
    known = data.metrics.get(data.agent, {})
    cards = [(metric_label(name), _cell(data, data.agent, name)) for name in names if name in known]
    subtitle = f"{period}{n:,} bar{'s' if n > 1 else ''} · {escaped(assets)}"
    return markup.header(escaped(data.title), subtitle, [*map(escaped, data.warnings)], box, cards)


def _metric_table(data: ReportData) -> str:
    """Metrics down, strategies across; a number that has an interval is never shown without it."""
    strategies = [name for name in data.equity if name in data.metrics]
    strategies += [name for name in data.metrics if name not in strategies]
    names = dict.fromkeys(metric for strategy in strategies for metric in data.metrics[strategy])
    order = [name for name in METRICS if name in names] + [name for name in names if name not in METRICS]
    rows = [markup.row((_cell(data, strategy, name) for strategy in strategies), metric_label(name)) for name in order]
    if data.sharpe_differences:
        given = (data.sharpe_differences.get(name) for name in strategies)
        cells = (interval_text(interval, "ratio") if interval else "" for interval in given)
        rows.append(markup.row(cells, "Sharpe ratio of the agent less this"))
    if any(value is not None for value in data.detectable.values()):
        least = (data.detectable.get(name) for name in strategies)
        cells = ("" if value is None else number_text(value, "ratio") for value in least)
        rows.append(markup.row(cells, "Smallest difference that shows, one-sided 5 %, power 80 %"))
    note = (
        f"In brackets, {100 * data.level:g} % bootstrap intervals, resampled in blocks of bars. Those under 'Could it "
        "be luck?' and of the rolling Sharpe ratio are from its standard error, and differ. "
        f"Everything net of costs. A loss is a positive number; {MISSING} is undefined."
    )
    return markup.table(["", *map(escaped, strategies)], rows, style="metrics") + markup.caption(note)


def _costs(data: ReportData) -> str:
    """Cumulative costs and their totals by kind; nothing where none were charged."""
    if not data.costs or not any(np.any(paid) for paid in data.costs.values()):
        return ""
    totals = data.total_costs
    rows = [
        markup.row([number_text(amount, "money"), percent(amount / data.starting_equity)], escaped(kind))
        for kind, amount in {**totals, "total": sum(totals.values())}.items()
    ]
    table = markup.table(("", "Paid", "Of starting equity"), rows)
    return figures.as_html("costs", figures.costs_figure(data.points[1:], data.costs)) + table


def data_table(report: Mapping[str, Any]) -> str:
    """A table of nested mappings, flattened to dotted names; nothing for an empty one."""
    rows = [markup.row([], escaped(name), text=[escaped(value)]) for name, value in flat_rows(report)]
    return markup.table((), rows) if rows else ""


def _configuration(config_yaml: str) -> str:
    """The resolved configuration, folded away; nothing without one."""
    if not config_yaml:
        return ""
    return markup.folded("Show the resolved configuration", f"<pre>{escaped(config_yaml)}</pre>")


def _cell(data: ReportData, strategy: str, name: str) -> str:
    """A value of the metric table, with its interval where it has one."""
    kind = METRICS.get(name, ("", "number"))[1]
    value = f'<span class="value">{number_text(data.metrics[strategy].get(name), kind)}</span>'
    interval = data.intervals.get(strategy, {}).get(name)
    return value if interval is None else f"{value} {interval_text(interval, kind)}"
