"""When and with what the agent earned, as sections of the report: months, moving Sharpe ratio, assets, round trips."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from jaxppo.report.figures import COLOURS, as_html, axis_values, finish
from jaxppo.report.formatting import MINUS, escaped, number_text, percent
from jaxppo.report.markup import caption, row, table
from jaxppo.report.results import Performance

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
MOST_ASSETS = 30
"""Rows of the table of assets; with more of them, half are those that earned most, half those that lost most."""
ROUNDING = 1e-5
"""Share of the starting equity that the sums of single precision may be off."""
MOST_TRIPS = 20
"""Rows of the table of round trips, likewise."""


def months(monthly: Mapping[str, float]) -> str:
    """The returns by month as HTML, a row for each year; nothing for a period within one month.

    Args:
      monthly: "2020-01" -> return of the month, fraction.
    """
    if len(monthly) < 2:
        return ""
    rows = []
    for year in sorted({month[:4] for month in monthly}):
        own = [monthly.get(f"{year}-{number:02d}") for number in range(1, 13)]
        whole = math.prod(1.0 + change for change in own if change is not None) - 1.0
        rows.append(row([_signed(change) for change in (*own, whole)], year))
    note = "By the times of the bars, UTC. The first and the last month may be parts of one; months compound to years."
    return table(("", *MONTHS, "Year"), rows, style="compact months") + caption(note)


def rolling(found: Performance, points: np.ndarray, level: float) -> str:
    """The moving Sharpe ratio as HTML; nothing where the period is too short.

    Args:
      found: of the agent.
      points: `[n + 1]` times or numbers of the marks.
      level: of the interval.
    """
    if not np.isfinite(found.rolling).any():
        return ""
    return as_html("rolling_sharpe", rolling_figure(found, points, level))


def rolling_figure(found: Performance, points: np.ndarray, level: float) -> tuple[go.Figure, str]:
    """Draws the moving Sharpe ratio with its interval.

    Args:
      found: of the agent, with a window.
      points: `[n + 1]` times or numbers of the marks.
      level: of the interval.

    Returns:
      The figure and its caption.
    """
    figure, x = go.Figure(), axis_values(points)[found.ends]
    for end, fill in ((found.rolling_ci[1], None), (found.rolling_ci[0], "tonexty")):
        figure.add_scatter(
            x=x, y=end, mode="lines", line={"width": 0}, fill=fill, fillcolor="rgba(0,114,178,0.15)",
            hoverinfo="skip", showlegend=False,
        )  # fmt: skip
    figure.add_scatter(
        x=x, y=found.rolling, mode="lines", name="agent", showlegend=False, hovertemplate="%{y:.2f}<extra></extra>",
        line={"color": COLOURS[0], "width": 2},
    )  # fmt: skip
    figure.update_yaxes(title_text="Sharpe ratio, annual")
    finish(figure, points, height=310, last_row=1)
    figure.update_layout(margin_t=32)
    return figure, (
        f"Of the last {found.window:,} bars at each close, after costs. Shaded: {100 * level:g} % interval from its "
        "standard error, with bars taken for independent."
    )


def contribution(found: Performance, capital: float) -> str:
    """The contribution of each asset to the profit as HTML; nothing where nothing was traded.

    Args:
      found: of the agent.
      capital: starting equity, currency.
    """
    assets = found.contribution.sort_values("profit", ascending=False, kind="stable")
    if not len(found.trips):
        return ""
    lines: list[tuple[str, float, float | None]] = [
        (escaped(name), float(of.profit), float(of.costs)) for name, of in assets.iterrows()
    ]
    if len(lines) > MOST_ASSETS:
        half = MOST_ASSETS // 2
        rest = assets.iloc[half:-half]
        lines[half:-half] = [(f"{len(rest)} others", float(rest["profit"].sum()), float(rest["costs"].sum()))]
    if found.financing:
        paid = "borrow fees, margin interest and funding" if found.funding else "borrow fees and margin interest"
        name = paid if found.financing > 0 else f"interest on cash less {paid}"
        lines.append((name, -found.financing, found.financing))
    if abs(found.other) > ROUNDING * capital:
        lines.append(("not explained by fills", found.other, None))
    total = assets["profit"].sum() - found.financing + found.other
    lines.append(("total", total, assets["costs"].sum() + found.financing))
    rows = [
        row([number_text(profit, "money"), _signed(profit / capital), number_text(costs, "money")], name)
        for name, profit, costs in lines
    ]
    note = (
        "Profit of each asset over the period, after its costs of trading; positions still open at their last close. "
        "Financing has a row of its own, so that the costs add up to those of the section Costs."
    )
    if found.dividends:
        note += (
            f" Dividends are part of it: {number_text(found.dividends, 'money')} in all. Round trips leave them out."
        )
    return table(("", "Profit", "Of starting equity", "Costs paid"), rows) + caption(note)


def trips(found: Performance, points: np.ndarray, capital: float) -> str:
    """The round trips as HTML: all of them, or the largest gains and losses; nothing without any.

    Args:
      found: of the agent.
      points: `[n + 1]` times or numbers of the marks.
      capital: starting equity, currency.
    """
    every = found.trips
    if not len(every):
        return ""
    still_open = every["closed"] < 0
    closed = every[~still_open]
    sentence = f"{len(closed):,} round trip{'s' * (len(closed) != 1)} closed, {int(still_open.sum()):,} still open."
    if len(closed):
        mean = number_text(closed["profit"].mean(), "money")
        sentence += f" Median length {closed['bars'].median():,.0f} bars, mean profit {mean}."
    shown, which = every, "All of them"
    if len(every) > MOST_TRIPS:
        order = every.sort_values("profit", ascending=False, kind="stable")
        shown = order.iloc[np.r_[: MOST_TRIPS // 2, len(order) - MOST_TRIPS // 2 : len(order)]]
        which = f"The {MOST_TRIPS // 2} that earned most and the {MOST_TRIPS // 2} that lost most"
    dated = np.issubdtype(points.dtype, np.datetime64)
    days = dated and bool((points == points.astype("datetime64[D]")).all())

    def at(point: int) -> str:
        return str(points[point])[: 10 if days else 16].replace("T", " ") if dated else f"{points[point]:,}"

    rows = [
        row(
            [
                escaped(of.side),
                at(of.opened),
                "open" if of.closed < 0 else at(of.closed),
                f"{of.bars:,}",
                number_text(of.profit, "money"),
                _signed(of.profit / capital),
            ],
            escaped(of.symbol),
        )
        for of in shown.itertuples()
    ]
    head = ("Asset", "Side", "Opened", "Closed", "Bars", "Profit", "Of starting equity")
    note = (
        f"{which}, after costs. A round trip goes from no position to no position, or through zero to the other side; "
        "one that is open counts at its last close."
    )
    return f"<p>{sentence}</p>{table(head, rows, style='compact dated')}{caption(note)}"


def _signed(fraction: float | None) -> str:
    """A return in per cent, red below zero; nothing for None."""
    if fraction is None:
        return ""
    text = percent(fraction)
    return f'<span class="loss">{text}</span>' if text.startswith(MINUS) else text
