"""The report of a Monte Carlo job: one self-contained HTML file beside its summary, in plain sentences first."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxppo.backtest.running_statistics import FIGURES
from jaxppo.monte_carlo.figures import distribution_figure, drawdown_figure, fan_figure, recovery_figure
from jaxppo.monte_carlo.parts import EQUITY, Table
from jaxppo.report import markup
from jaxppo.report.figures import as_html
from jaxppo.report.formatting import METRICS, escaped, interval_text, number_text, percent
from jaxppo.report.page import data_table, page

DRAWN = ("total_return", "sharpe", "max_drawdown")
"""Figures whose distribution is drawn."""
WORST_DRAWN = 3
FEW_PATHS = 1000
"""Paths below which there is a warning about the tails."""
_FIGURES = {
    "max_drawdown_bars": ("Bars under water, longest", "count"),
    "ulcer_index": ("Ulcer index", "percent"),
    "skewness": ("Skewness of the returns", "ratio"),
    "kurtosis": ("Excess kurtosis of the returns", "ratio"),
    "profit_factor": ("Gains over losses", "ratio"),
    "exposure": ("Gross exposure, mean", "percent"),
    "net_exposure": ("Net exposure, mean", "percent"),
    "trades": ("Fills", "count"),
    "commission": ("Commission, of starting equity", "percent"),
    "spread": ("Spread, of starting equity", "percent"),
    "slippage": ("Slippage, of starting equity", "percent"),
    "impact": ("Impact, of starting equity", "percent"),
    "financing": ("Financing, of starting equity", "percent"),
    "least_equity": ("Lowest close, of starting equity", "percent"),
}
"""Label and kind of what other reports do not show, or show otherwise."""
_CHANCES = {
    "loss": "A loss: the path ends below its capital",
    "ruin": "Ruin: liquidated, or a close at or below {ruin}",
    "liquidation": "Liquidation",
}
_WORST = {"total_return": "Lowest total return", "max_drawdown": "Deepest drawdown"}
_IN_WORST = ("total_return", "sharpe", "max_drawdown", "turnover", "costs")


def write_paths_report(path: pathlib.Path, table: Table, summary: Mapping[str, Any]) -> None:
    """Writes the report as an HTML file, which it replaces.

    Args:
      path: of the HTML file, about 5 MB, most of which is plotly itself.
      table: figures of every path; a column at a time is in memory.
      summary: see `summarise_paths`.

    Raises:
      OSError: the file cannot be written.
    """
    path.write_text(render_paths(table, summary), encoding="utf-8")


def render_paths(table: Table, summary: Mapping[str, Any]) -> str:
    """Renders the report as HTML text; the same job gives the same bytes.

    Args:
      table: figures of every path.
      summary: see `summarise_paths`.
    """
    level, chances, recovery = summary["level"], summary["probabilities"], summary["recovery"]
    rows = _rows_of(table, summary)
    first = summary["worst"]["total_return"][:WORST_DRAWN]
    places = [rows[path] for path in first]
    curves = np.array([table.column(f"{EQUITY}{bar}")[places] for bar in summary["fan"]["bars"]], np.float64)
    worst = dict(zip(first, curves.T, strict=True))
    recovered = recovery_figure(recovery, level) if recovery else None
    sections = (
        ("Equity of the paths", as_html("fan", fan_figure(summary["fan"], worst))),
        ("Distributions", _distributions(table, summary) + _figure_table(summary)),
        (
            "Losses, ruin and drawdowns",
            as_html("drawdowns", drawdown_figure(chances["drawdown"], level)) + _chance_table(summary),
        ),
        ("Time to recovery", as_html("recovery", recovered) if recovered else _NO_DRAWDOWN),
        ("Worst paths", _worst_tables(table, summary, rows)),
        ("Settings", data_table(_settings(table.settings))),
    )
    return page(f"{table.settings['policy']}: Monte Carlo", _header(table.settings, summary), sections)


_NO_DRAWDOWN = '<p class="caption">No path has a drawdown.</p>'


def verdict(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """Says what the paths show, in plain sentences; the first is about losses.

    Args:
      summary: see `summarise_paths`.
    """
    figures, chances, level = summary["figures"], summary["probabilities"], f"{100 * summary['level']:g} %"

    def share(row: Mapping[str, Any]) -> str:
        return f"{percent(row['estimate'])} of the paths ({percent(row['ci'][0])} to {percent(row['ci'][1])})"

    found = [f"{share(chances['loss'])} end with a loss."]
    depth, gain = figures["max_drawdown"]["quantiles"], figures["total_return"]
    if depth:
        found.append(
            f"One path in twenty has a drawdown of more than {percent(depth['0.95'])}, one in two of more than "
            f"{percent(depth['0.5'])}."
        )
    if gain["quantiles"]:
        low, high = (percent(end) for end in gain["median_ci"])
        found.append(
            f"The median path returns {percent(gain['quantiles']['0.5'])} ({level} interval {low} to {high}); nine in "
            f"ten lie between {percent(gain['quantiles']['0.05'])} and {percent(gain['quantiles']['0.95'])}."
        )
    if chances["ruin"]["estimate"] > 0:
        found.append(f"{share(chances['ruin'])} are ruined.")
    else:
        most = percent(chances["ruin"]["ci"][1])
        found.append(f"No path is ruined: at {level} the probability is at most {most}.")
    recovery = summary["recovery"]
    if recovery and recovery["median"] is not None:
        bars = recovery["median"]
        found.append(f"Half of the deepest drawdowns take more than {bars:,} bars from the peak to the recovery.")
    elif recovery:
        found.append("Fewer than half of the deepest drawdowns recover before their path ends.")
    return tuple(found)


def caveat(settings: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """Says what the intervals cover, and what they cannot know.

    Args:
      settings: of the job.
      summary: see `summarise_paths`.
    """
    return (
        f"All paths are drawn from one history by {settings['generator']}. The intervals are those of the Monte Carlo "
        f"error of {summary['n_paths']:,} paths: more paths make them narrower and the history no longer. What never "
        "happened in it happens on no path, and whether the generator describes the future, no number here says."
    )


def _header(settings: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """Title, warnings, sentences and the headline numbers."""
    index, n_shards = settings["shard"]
    part = f" · shard {index}/{n_shards}" if n_shards > 1 else ""
    subtitle = (
        f"{summary['n_paths']:,} paths of {settings['n_bars']:,} bars · {settings['generator']} · "
        f"seed {settings['seed']}{_stressed(settings)}{part}"
    )
    title = escaped(f"{settings['policy']}: Monte Carlo")
    parts = [f'<header>\n<h1>{title}</h1>\n<p class="subtitle">{escaped(subtitle)}</p>\n</header>']
    warnings = _warnings(settings, summary)
    if warnings:
        items = "".join(f"<li>{escaped(warning)}</li>" for warning in warnings)
        parts.append(f'<div class="warnings" role="alert"><strong>Warnings</strong><ul>{items}</ul></div>')
    first, *rest = verdict(summary)
    text = f"{escaped(' '.join(rest))}<br>{escaped(caveat(settings, summary))}"
    parts.append(f'<p class="verdict {_tone(summary)}"><strong>{escaped(first)}</strong><br>{text}</p>')
    parts.append(_cards(summary))
    return "\n".join(parts)


def _stressed(settings: Mapping[str, Any]) -> str:
    """What is changed of each path beside its market."""
    stress = settings["stress"]
    if not stress:
        return " · perturbed" if settings["perturbation"] else ""
    parts = []
    if stress["scale_costs"]:
        low, high = stress["scale_costs"]
        parts.append(f"costs times {low:g} to {high:g}")
    if stress["missed_fills"]:
        parts.append(f"{100 * stress['missed_fills']:g} % of fills missed")
    if stress["delay"]:
        parts.append(f"begun up to {stress['delay']} bars later")
    if stress["latency"]:
        low, high = stress["latency"]
        parts.append(f"filled {low} to {high} bars after the decision")
    return "".join(f" · {part}" for part in parts)


def _tone(summary: Mapping[str, Any]) -> str:
    """Good where fewer than one path in twenty loses, bad where more than half of them do."""
    low, high = summary["probabilities"]["loss"]["ci"]
    return "good" if high < 0.05 else "bad" if low > 0.5 else "open"


def _warnings(settings: Mapping[str, Any], summary: Mapping[str, Any]) -> tuple[str, ...]:
    """What a reader must know before believing the numbers."""
    found = [*settings.get("notes", ()), *summary.get("warnings", ())]
    if summary["n_paths"] < FEW_PATHS:
        found.append(
            f"Only {summary['n_paths']:,} paths: tails, and quantiles such as 1 % and 99 %, rest on a few of them."
        )
    if settings["shard"][1] > 1:
        found.append("One shard of a job; merge all of them for its numbers.")
    if summary["probabilities"]["liquidation"]["estimate"] > 0:
        found.append("Accounts were liquidated; they stay out of the market from then on.")
    undefined = [name for name in DRAWN if summary["figures"][name]["undefined"]]
    for name in undefined:
        count = summary["figures"][name]["undefined"]
        found.append(f"{count:,} paths have no {METRICS[name][0]} and are left out of its distribution.")
    return tuple(found)


def _cards(summary: Mapping[str, Any]) -> str:
    """The headline numbers."""
    figures, chances = summary["figures"], summary["probabilities"]
    cards = [
        (
            "Probability of a loss",
            percent(chances["loss"]["estimate"]),
            interval_text(chances["loss"]["ci"], "percent"),
        ),
        ("Probability of ruin", percent(chances["ruin"]["estimate"]), interval_text(chances["ruin"]["ci"], "percent")),
    ]
    for name in DRAWN:
        kind, row = METRICS[name][1], figures[name]
        value = number_text(row["quantiles"].get("0.5"), kind)
        cards.append((f"{METRICS[name][0]}, median", value, interval_text(row["median_ci"], kind)))
    divisions = (
        f'<div class="card"><span class="label">{title}</span><span class="value">{value}</span> {ends}</div>'
        for title, value, ends in cards
    )
    return f'<div class="cards">{"".join(divisions)}</div>'


def _distributions(table: Table, summary: Mapping[str, Any]) -> str:
    """A histogram each, side by side where there is room."""
    drawn = []
    for name in DRAWN:
        title, kind = METRICS[name]
        found = distribution_figure(table.column(name), summary["figures"][name], title, kind, summary["level"])
        drawn.append(f"<div>{as_html(f'distribution-{name}', found)}</div>")
    return f'<div class="panels">{"".join(drawn)}</div>'


def _figure_table(summary: Mapping[str, Any]) -> str:
    """Every figure of the summary, a row each."""
    head = ("", "Mean", "Median", "1 %", "5 %", "95 %", "99 %", "Undefined")
    rows = []
    for name in FIGURES:
        if name not in summary["figures"]:
            continue
        row = summary["figures"][name]
        label, kind = _FIGURES.get(name, METRICS.get(name, (name.replace("_", " ").capitalize(), "number")))
        kind = "number" if kind == "count" else kind
        middle = (
            f"{number_text(value, kind)} {interval_text(ends, kind)}"
            for value, ends in ((row["mean"], row["mean_ci"]), (row["quantiles"].get("0.5"), row["median_ci"]))
        )
        tails = (number_text(row["quantiles"].get(q), kind) for q in ("0.01", "0.05", "0.95", "0.99"))
        rows.append(markup.row((*middle, *tails, f"{row['undefined']:,}"), escaped(label)))
    note = (
        f"In brackets, {100 * summary['level']:g} % intervals of the Monte Carlo error. Mean and quantiles are of "
        "the paths where the figure is defined; the rest is counted as undefined. Everything net of costs."
    )
    return markup.table(head, rows) + markup.caption(note)


def _chance_table(summary: Mapping[str, Any]) -> str:
    """Probabilities with their intervals."""
    chances, ruin = summary["probabilities"], summary["settings"]["ruin"]
    named = {text.format(ruin=f"{100 * ruin:g} % of the capital"): chances[name] for name, text in _CHANCES.items()}
    named |= {f"A drawdown of {100 * float(depth):g} % or more": row for depth, row in chances["drawdown"].items()}
    rows = [
        markup.row((percent(row["estimate"]), interval_text(row["ci"], "percent")), escaped(name))
        for name, row in named.items()
    ]
    return markup.table(("", "Share of paths", f"{100 * summary['level']:g} % interval"), rows)


def _worst_tables(table: Table, summary: Mapping[str, Any], rows: Mapping[int, int]) -> str:
    """The worst paths by return and by drawdown, with the numbers that replay them."""
    names = (*_IN_WORST, "deepest_bars", "recovered")
    columns = {name: table.column(name) for name in names}
    head = ("Path", *(escaped(METRICS[name][0]) for name in _IN_WORST), "Bars of the deepest drawdown", "Recovered")
    parts = []
    for name, title in _WORST.items():
        lines = []
        for path in summary["worst"][name]:
            row = rows[path]
            cells = [number_text(float(columns[key][row]), METRICS[key][1]) for key in _IN_WORST]
            cells += [f"{columns['deepest_bars'][row]:,}", "yes" if columns["recovered"][row] else "no"]
            lines.append(markup.row(cells, str(path)))
        parts.append(f"<h3>{title}</h3>{markup.table(head, lines)}")
    note = (
        "Paths.replay(number) of the same job draws the market of a path again and gives every order, fill and cost, "
        "bit for bit. A Sharpe ratio here is of one path and chosen for being extreme: it has no interval."
    )
    return "".join(parts) + markup.caption(note)


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the job as they are shown: the bars at which the equity was kept are counted."""
    index, n_shards = settings["shard"]
    unset = {name: "none" for name in ("perturbation", "stress", "part_size") if not settings[name]}
    shown = {name: value for name, value in settings.items() if name != "notes"}
    return {**shown, **unset, "points": len(settings["points"]), "shard": f"{index}/{n_shards}"}


def _rows_of(table: Table, summary: Mapping[str, Any]) -> dict[int, int]:
    """Row of each of the worst paths."""
    wanted = sorted({path for paths in summary["worst"].values() for path in paths})
    return dict(zip(wanted, np.searchsorted(table.column("path"), wanted).tolist(), strict=True))
