"""Figures of a backtest report, drawn from plain arrays: equity, positions, costs.

Every function returns the plotly figure and its caption. A long series is drawn from fewer points than it has, and the
caption says so; nothing is smoothed away: lines keep the lowest and the highest value of each group.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
import plotly.io
from plotly.subplots import make_subplots

from jaxppo.report.formatting import escaped
from jaxppo.report.markup import caption as small_print
from jaxppo.report.overlaps import dash_covering_lines
from jaxppo.report.regime_bands import add_bands

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6b7280", "#8c6d1f", "#5b3a8c", "#222222")
"""Okabe and Ito's palette, which colour-blind readers can tell apart, and four more; the agent is the first."""
MAX_POINTS = 4000
MAX_COLUMNS = 1000
MAX_LINES = 10
SHARE, AMOUNT = "~%", ".12~s"
"""Formats of ticks, with as many digits as it takes to tell them apart."""
_CLOCK = (
    {"dtickrange": [None, 59_999], "value": "%H:%M:%S<br>%b %-d"},
    {"dtickrange": [60_000, 86_399_999], "value": "%H:%M<br>%b %-d"},
)
"""Formats of ticks within days, which would otherwise name the same hour of several days."""

# Plotly's own buttons offer to upload a figure; a report of somebody's trading must not.
CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "plotlyServerURL": "",
    "modeBarButtonsToRemove": ["sendChartToCloud", "sendDataToCloud", "select2d", "lasso2d", "autoScale2d"],
}


def drawdown_of_equity(equity: np.ndarray) -> np.ndarray:
    """Distance `[n + 1]` below the running peak, as a fraction >= 0 of that peak; NaN points are skipped."""
    peak = np.fmax.accumulate(np.asarray(equity, dtype=np.float64))
    return 1.0 - np.divide(equity, peak, out=np.full(len(peak), np.nan), where=peak > 0)


def drawn_points(values: np.ndarray, limit: int = MAX_POINTS) -> np.ndarray:
    """Selects the points to draw: all of them, or the first, lowest, highest and last of each group of bars.

    Args:
      values: `[n]`, NaN allowed.
      limit: how many points may be drawn, >= 4.

    Returns:
      Ascending indices, at most `limit` of them; the first and last point, and both extremes, are among them.
    """
    values = np.asarray(values)
    n = len(values)
    if n <= limit:
        return np.arange(n)
    size = math.ceil(n / (limit // 4))
    picked = [0, n - 1]
    for begin in range(0, n, size):
        group = values[begin : begin + size]
        picked += [begin, begin + len(group) - 1]
        if np.isfinite(group).any():
            picked += [begin + int(np.nanargmin(group)), begin + int(np.nanargmax(group))]
    return np.unique(picked)


def equity_figure(
    times: np.ndarray, equity: Mapping[str, np.ndarray], regimes: np.ndarray | None = None
) -> tuple[go.Figure, str]:
    """Draws the equity of every strategy, drawdowns below on the same time axis, and regimes shaded behind.

    Args:
      times: `[n + 1]` datetime64 or bar numbers.
      equity: name -> `[n + 1]` currency; the first is the agent.
      regimes: `[n + 1]` int, the regime known at each point, see `jaxppo.report.regime_bands`; None shades nothing.

    Returns:
      The figure and its caption.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.66, 0.34], vertical_spacing=0.05)
    x = axis_values(times)
    for rank, (name, values) in enumerate(equity.items()):
        values = np.asarray(values, dtype=np.float64)
        for row, series in ((1, values), (2, -drawdown_of_equity(values))):
            points = drawn_points(series)
            line = _line(rank, name, x[points], series[points], width=2.4 if rank == 0 else 1.5)
            line.update(legendgroup=str(rank), showlegend=row == 1)
            line.update(hovertemplate="%{y:,.2f}" if row == 1 else "%{y:.2%}")
            figure.add_trace(line, row=row, col=1)
    values = np.concatenate([np.ravel(series) for series in equity.values()])
    logarithmic = bool((values > 0).all()) and values.max() > 10 * values.min()
    figure.update_yaxes(title_text="Equity", tickformat=AMOUNT, type="log" if logarithmic else "linear", row=1, col=1)
    figure.update_yaxes(title_text="Drawdown", tickformat=SHARE, maxallowed=0, row=2, col=1)
    dashed = finish(figure, times, height=560, last_row=2)
    caption = (
        "Equity after all costs, marked at the close of each bar; below, the distance from its highest value so far."
        f"{dashed}"
    )
    scale = " Equity is on a logarithmic scale." if logarithmic else ""
    shaded = "" if regimes is None else add_bands(figure, x, regimes)
    return figure, caption + scale + shaded + _thinned(len(times), "point")


def positions_figure(times: np.ndarray, weights: np.ndarray, symbols: Sequence[str]) -> tuple[go.Figure, str]:
    """Draws the weight of each asset (lines, or a heat map for many assets), gross and net exposure below.

    Args:
      times: `[n]` datetime64 or bar numbers.
      weights: `[n, A]` fraction of equity, negative when short.
      symbols: A names.

    Returns:
      The figure and its caption.
    """
    weights = np.asarray(weights, dtype=np.float64)
    n_assets = len(symbols)
    many = n_assets > MAX_LINES
    height = min(1500, 320 + 15 * n_assets) if many else 520
    below = 150 / height
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, row_heights=[1 - below, below], vertical_spacing=40 / height
    )
    x = axis_values(times)
    add_weights = _add_heat_map if many else _add_weight_lines
    caption = add_weights(figure, x, weights, symbols)
    for rank, (name, series) in enumerate((("gross", np.abs(weights).sum(axis=1)), ("net", weights.sum(axis=1)))):
        points = drawn_points(series)
        line = _line(0, name, x[points], series[points], width=1.4)
        line.update(
            line_color=("#374151", "#9ca3af")[rank], line_shape="hv", hovertemplate="%{y:.1%}", legend="legend2"
        )
        figure.add_trace(line, row=2, col=1)
    figure.update_yaxes(title_text="Exposure", tickformat=SHARE, rangemode="tozero", row=2, col=1)
    dashed = finish(figure, times, height=height, last_row=2)
    figure.update_layout(legend2={"orientation": "h", "x": 0, "y": below, "yanchor": "bottom"})
    return figure, f"{caption} Gross exposure is the sum of the absolute weights, net exposure their sum.{dashed}"


def costs_figure(times: np.ndarray, costs: Mapping[str, np.ndarray]) -> tuple[go.Figure, str]:
    """Draws cumulative costs by kind, stacked.

    Args:
      times: `[n]` datetime64 or bar numbers.
      costs: kind -> `[n]` currency per bar; negative where a fee was earned.

    Returns:
      The figure and its caption.
    """
    figure = go.Figure()
    x = axis_values(times)
    cumulative = {kind: np.cumsum(np.asarray(paid, dtype=np.float64)) for kind, paid in costs.items()}
    shared = drawn_points(np.sum(list(cumulative.values()), axis=0))
    stacked = all((np.asarray(paid) >= 0).all() for paid in costs.values())
    for rank, (kind, total) in enumerate(cumulative.items()):
        points = shared if stacked else drawn_points(total)
        line = _line(rank, kind, x[points], total[points], width=1.2)
        line.update(hovertemplate="%{y:,.2f}", stackgroup="costs" if stacked else None)
        figure.add_trace(line)
    figure.update_yaxes(title_text="Paid so far", tickformat=AMOUNT)
    dashed = finish(figure, times, height=360, last_row=1)
    how = "stacked by kind" if stacked else "by kind (a negative cost was earned, so the lines are not stacked)"
    text = f"Costs paid since the start, {how}, in the currency of the equity.{dashed}"
    return figure, text + _thinned(len(x), "bar")


def _add_weight_lines(figure: go.Figure, x: np.ndarray, weights: np.ndarray, symbols: Sequence[str]) -> str:
    """Adds `[n, A]` weights as one stepped line per asset to the first row; returns the caption."""
    for rank, symbol in enumerate(symbols):
        points = drawn_points(weights[:, rank])
        line = _line(rank, symbol, x[points], weights[points, rank], width=1.6)
        line.update(line_shape="hv", hovertemplate="%{y:.1%}")
        figure.add_trace(line, row=1, col=1)
    figure.update_yaxes(title_text="Weight", tickformat=SHARE, row=1, col=1)
    return "Weight of each asset as a fraction of equity, negative when short." + _thinned(len(x), "bar")


def _add_heat_map(figure: go.Figure, x: np.ndarray, weights: np.ndarray, symbols: Sequence[str]) -> str:
    """Adds `[n, A]` weights as a heat map to the first row; returns the caption."""
    n, n_assets = weights.shape
    size = math.ceil(n / MAX_COLUMNS)
    begins = np.arange(0, n, size)
    counts = np.diff(np.append(begins, n))
    means = np.add.reduceat(weights, begins, axis=0) / counts[:, None]
    largest = np.nanmax(np.abs(means), initial=0.0)
    limit = float(largest) if np.isfinite(largest) and largest > 0 else 1.0
    figure.add_trace(
        go.Heatmap(
            x=x[begins], y=[label(symbol) for symbol in symbols], z=means.T.astype(np.float32),
            zmin=-limit, zmax=limit, colorscale="RdBu", hovertemplate="%{y} %{x}: %{z:.2%}<extra></extra>",
            colorbar={"title": {"text": "weight"}, "tickformat": SHARE, "len": 0.5, "y": 0.72, "thickness": 12},
        ),
        row=1, col=1,
    )  # fmt: skip
    figure.update_yaxes(type="category", autorange="reversed", row=1, col=1)
    figure.update_yaxes(tickfont_size=9, dtick=max(1, math.ceil(n_assets / 90)), row=1, col=1)
    thinned = f" Each column is the mean of {size} bars, of {n:,} in all." if size > 1 else ""
    return f"Weight of each of {n_assets} assets: blue is long, red is short, white is no position.{thinned}"


def _line(rank: int, name: str, x: np.ndarray, y: np.ndarray, *, width: float) -> go.Scatter:
    """A line in the colour of its rank, with markers where there are few points."""
    mode = "lines" if len(x) > 30 else "lines+markers"
    return go.Scatter(
        x=x, y=y, name=label(name), mode=mode, marker_size=5,
        line={"color": COLOURS[rank % len(COLOURS)], "width": width},
    )  # fmt: skip


def finish(figure: go.Figure, times: np.ndarray, *, height: int, last_row: int, x_title: str | None = "Bar") -> str:
    """Applies the common style, labels the last time axis, and dashes lines that would hide others.

    Args:
      figure: changed in place; the types of its axes are set already.
      times: of the horizontal axis; datetime64 sets the format of its labels.
      height: pixels.
      last_row: number of the lowest row of panels, from 1.
      x_title: of an axis that has no times; None for none.

    Returns:
      A sentence for the caption on dashed lines; empty without any.
    """
    figure.update_layout(
        template="plotly_white", height=height, hovermode="x unified",
        font={"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 12, "color": "#1f2937"},
        margin={"l": 64, "r": 24, "t": 56, "b": 44},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#9ca3af", "activecolor": COLOURS[0]},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
    )  # fmt: skip
    figure.update_xaxes(showgrid=True, gridcolor="#eef0f3", zeroline=False, linecolor="#cbd5e1", showline=True)
    figure.update_yaxes(showgrid=True, gridcolor="#eef0f3", zerolinecolor="#94a3b8", automargin=True)
    if np.issubdtype(np.asarray(times).dtype, np.datetime64):
        daily = (times == times.astype("datetime64[D]")).all()
        figure.update_xaxes(hoverformat="%Y-%m-%d" if daily else "%Y-%m-%d %H:%M", tickformatstops=_CLOCK)
    elif x_title:
        figure.update_xaxes(title_text=x_title, row=last_row if last_row > 1 else None, col=1 if last_row > 1 else None)
    return dash_covering_lines(figure)


def axis_values(times: np.ndarray) -> np.ndarray:
    """Times `[n]` to the second, since plotly writes them out in full; bar numbers as they are."""
    times = np.asarray(times)
    return times.astype("datetime64[s]") if np.issubdtype(times.dtype, np.datetime64) else times


def _thinned(n: int, unit: str) -> str:
    """Sentence for the caption of a line that is not drawn from all its points."""
    if n <= MAX_POINTS:
        return ""
    size = math.ceil(n / (MAX_POINTS // 4))
    return f" Drawn from the first, lowest, highest and last of every {size} {unit}s, of {n:,}: no extreme is missing."


def label(name: str) -> str:
    """Escapes a name for plotly, which reads a little HTML."""
    return html.escape(str(name), quote=False)


def as_html(name: str, drawn: tuple[go.Figure, str] | None) -> str:
    """A figure and its caption as HTML, without the library, which the page has once.

    Args:
      name: identifier within the page.
      drawn: the figure and its caption, which may be empty; None where there is nothing to draw.
    """
    if drawn is None:
        return ""
    figure, caption = drawn
    division = plotly.io.to_html(figure, full_html=False, include_plotlyjs=False, div_id=name, config=CONFIG)
    below = small_print(escaped(caption)) if caption else ""
    return f'<div class="figure">{division}</div>\n{below}'
