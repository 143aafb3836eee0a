"""Results at other costs and capital: the section of the report, its figures, and a line of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from jaxppo.report.figures import AMOUNT, COLOURS, SHARE, as_html, finish
from jaxppo.report.formatting import escaped, interval_text, number, number_text, percent
from jaxppo.report.markup import caption, row, table

_COLUMNS = {
    "gain": "Gain, currency",
    "total_return": "Total return",
    "max_drawdown": "Maximum drawdown",
    "costs": "Costs, of the capital",
    "turnover": "Turnover, a year",
    "unfilled": "Not filled in its bar",
}
_KINDS = {"gain": "count", "turnover": "ratio"}
Rows = Sequence[Mapping[str, Any]]


def section(found: Mapping[str, Any] | None) -> str:
    """The section of the report as HTML; nothing without results.

    Args:
      found: from `jaxppo.backtest.capacity.costs_and_capital`; None where it was not computed.
    """
    if not found:
        return ""
    costs, capital = cost_figure(found), capital_figure(found)
    sentence = f"<p>{escaped(break_even_sentence(found))} {escaped(capital_sentence(found))}</p>"
    note = (
        f"In brackets, {100 * found['level']:g} % bootstrap intervals. The {_who(found)} is that of the run and does "
        "not learn anew; limits, such as that on the volume of a bar, stay as they are. Not filled: of the ordered "
        "notional."
    )
    return (
        f"{sentence}{as_html('cost_levels', costs)}{_table(found['levels'], 'level', 'Costs, times')}"
        f"{as_html('capacity', capital)}{_table(found['capitals'], 'capital', 'Capital')}"
        f"{caption(note)}"
    )


def _who(found: Mapping[str, Any]) -> str:
    """Who trades: the agent, or the base of a run whose gate is closed."""
    return str(found.get("traded", "agent"))


def break_even_sentence(found: Mapping[str, Any]) -> str:
    """States the multiple of the costs at which the return falls to nothing."""
    at = found["break_even"]
    if at is None:
        return f"The {_who(found)} still earns at {found['most']:g} times its costs."
    if at == 0.0:
        return f"The {_who(found)} does not earn anything without costs either."
    return f"The return falls to nothing at {at:.2f} times the costs."


def capital_sentence(found: Mapping[str, Any]) -> str:
    """States the capital with which the agent gains most."""
    best = max(found["capitals"], key=lambda one: number(one["gain"]))
    if best["gain"] <= 0.0:
        return "It gains with none of these amounts of capital."
    most = " the largest of them" if best is found["capitals"][-1] else ""
    return (
        f"Of the amounts tried it gains most with a capital of {best['capital']:,.0f}"
        f"{',' if most else ''}{most}: {best['gain']:,.0f}."
    )


def cost_figure(found: Mapping[str, Any]) -> tuple[go.Figure, str]:
    """Draws the Sharpe ratio with its interval, and the total return, against the level of costs."""
    rows, at = found["levels"], found["break_even"]
    x = [row["level"] for row in rows]
    figure = _two_panels(x, rows, "Sharpe ratio, annual", "Total return", "total_return")
    figure.update_yaxes(tickformat=SHARE, row=2, col=1)
    if at and at <= x[-1]:
        figure.add_vline(at, line={"color": COLOURS[1], "width": 1.5, "dash": "dash"})
        note = {"text": f"break-even {at:.2f}", "showarrow": False, "font": {"size": 11, "color": COLOURS[1]}}
        figure.add_annotation(note, x=at, y=1.0, yref="paper", xref="x", yanchor="bottom")
    figure.update_xaxes(title_text="Multiple of all prices of trading and holding", row=2, col=1)
    interval = f"the bars are {100 * found['level']:g} % bootstrap intervals"
    return figure, f"The test period again at several levels of costs; {interval}. 1 is the run itself."


def capital_figure(found: Mapping[str, Any]) -> tuple[go.Figure, str]:
    """Draws the total return, and the gain in currency, against the capital."""
    rows = found["capitals"]
    x = [row["capital"] for row in rows]
    figure = _two_panels(x, rows, "Total return", "Gain", "gain", first="total_return")
    gains = np.array([number(row["gain"]) for row in rows])
    logarithmic = bool((gains > 0).all())
    figure.update_yaxes(tickformat=SHARE, row=1, col=1)
    figure.update_yaxes(tickformat=AMOUNT, type="log" if logarithmic else "linear", row=2, col=1)
    figure.update_xaxes(type="log", dtick=1)
    figure.add_vline(found["capital"], line={"color": COLOURS[6], "width": 1.2, "dash": "dot"})
    figure.update_xaxes(title_text="Capital", tickformat=AMOUNT, row=2, col=1)
    scale = "; the gain is on a logarithmic scale" if logarithmic else ""
    return figure, (
        "The test period again with several amounts of capital, in the currency of the prices: what is large moves the "
        f"market and does not get filled. The dotted line is the capital of the run{scale}."
    )


def one_line(found: Mapping[str, Any]) -> str:
    """Returns by cost level, break-even and best capital in a line of text."""
    levels = ", ".join(f"{percent(number(row['total_return']))} at {row['level']:g}x" for row in found["levels"])
    return f"costs: return {levels}. {break_even_sentence(found)} {capital_sentence(found)}"


def _two_panels(
    x: Sequence[float], rows: Rows, upper: str, lower: str, second: str, *, first: str = "sharpe"
) -> go.Figure:
    """Draws two figures of the rows above each other, a Sharpe ratio with its interval."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    for place, (name, title) in enumerate(((first, upper), (second, lower)), start=1):
        y = np.array([number(row[name]) for row in rows])
        line = go.Scatter(
            x=x, y=y, mode="lines+markers", line={"color": COLOURS[0], "width": 2}, marker_size=7, showlegend=False
        )
        if name == "sharpe":
            low, high = (np.array([number(row[f"sharpe_{end}"]) for row in rows]) for end in ("low", "high"))
            line.update(error_y={"array": high - y, "arrayminus": y - low, "thickness": 1.2, "color": COLOURS[0]})
        figure.add_trace(line, row=place, col=1)
        figure.update_yaxes(title_text=title, row=place, col=1)
    finish(figure, np.arange(1), height=440, last_row=2, x_title=None)
    figure.update_layout(hovermode="closest", margin_t=32)
    return figure


def _table(rows: Rows, name: str, title: str) -> str:
    """A row for each level or capital."""
    shown = [column for column in _COLUMNS if column in rows[0]]
    lines = []
    for of in rows:
        ends = interval_text((of["sharpe_low"], of["sharpe_high"]), "ratio")
        cells = [f"{number_text(of['sharpe'], 'ratio')} {ends}"]
        cells += [number_text(of[column], _KINDS.get(column, "percent")) for column in shown]
        label = f"{of[name]:,.4g}" if name == "level" else f"{of[name]:,.0f}"
        lines.append(row(cells, f"{label} (liquidated)" if of["liquidated"] else label))
    return table((title, "Sharpe ratio, annual", *(_COLUMNS[column] for column in shown)), lines)
