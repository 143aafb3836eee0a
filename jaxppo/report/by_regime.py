"""Results by regime, as a section of the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxppo.report.formatting import escaped, interval_text, number_text, percent
from jaxppo.report.markup import caption, row, table
from jaxppo.statistics.conditional import LEAST_BARS

Figures = Mapping[str, Mapping[str, Any]]
"""Regime -> figures of one account, see `jaxppo.backtest.by_regime.figures_by_regime`."""

_COLUMNS = {
    "annual_return": ("Return a year", "percent"),
    "sharpe": ("Sharpe ratio", "ratio"),
    "volatility": ("Volatility", "percent"),
    "max_drawdown": ("Worst drawdown", "percent"),
    "costs": ("Costs a year", "percent"),
    "turnover": ("Turnover a year", "ratio"),
    "gross": ("Gross", "percent"),
    "net": ("Net", "percent"),
}


def section(strategies: Mapping[str, Figures], level: float) -> str:
    """The section of the report as HTML: a row for each strategy in each regime, baselines that hold nothing left out.

    Nothing where no regimes are known.

    Args:
      strategies: strategy -> regime -> figures; the agent first.
      level: of the intervals.
    """
    if not any(strategies.values()):
        return ""
    agent = next(iter(strategies))
    shown = {who: rows for who, rows in strategies.items() if who == agent or any(of["gross"] for of in rows.values())}
    groups = []
    for regime, of in shown[agent].items():
        bars = f"{of['n_bars']:,} bar{'s' * (of['n_bars'] > 1)} in {of['stretches']:,}"
        about = f"{bars} stretch{'es' * (of['stretches'] > 1)},<br>{percent(of['share'])} of the time"
        first = f'<th scope="rowgroup" rowspan="{len(shown)}">{escaped(regime)}<br><small>{about}</small></th>'
        rows = [row((_cell(name, found[regime]) for name in _COLUMNS), escaped(who)) for who, found in shown.items()]
        groups.append([rows[0].replace("<tr>", f"<tr>{first}", 1), *rows[1:]])
    note = (
        "A bar counts in the regime that was known when it was decided, at the close before it. Regimes are those of "
        "the run, or, where it has none, by rules: bull and bear by the trend, crisis by volatility and fall. In "
        f"brackets, {100 * level:g} % intervals from resampling the whole period in blocks, bars together with their "
        f"regimes; fewer than {LEAST_BARS} bars, or too few stretches, are too little to tell. Mean returns, Sharpe "
        "ratio, volatility, costs and turnover are those of a year that is all of the regime; drawdowns, those within "
        "one stretch of it; gross and net, mean exposures at the closes."
    )
    head = ("Regime", "", *(title for title, _ in _COLUMNS.values()))
    return table(head, *groups, style="regimes") + caption(note)


def _cell(name: str, figures: Mapping[str, Any]) -> str:
    """A number, with its interval if it has one; what is absent could not be told."""
    if name not in figures:
        return "too few bars to tell"
    kind, interval = _COLUMNS[name][1], figures.get(f"{name}_ci")
    text = number_text(figures[name], kind)
    return text if interval is None or figures[name] is None else f"{text} {interval_text(interval, kind)}"
