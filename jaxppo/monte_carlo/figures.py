"""The figures of a Monte Carlo report: fan of the equity, distributions, chances of drawdowns, time to recovery.

As in `jaxppo.report.figures`, every function returns the plotly figure and a caption in plain words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from jaxppo.report.figures import COLOURS, SHARE, finish, label
from jaxppo.report.formatting import number_text

BANDS = (("0.01", "0.99", 0.12), ("0.05", "0.95", 0.18), ("0.25", "0.75", 0.28))
"""Quantiles between which a band is drawn, and its opacity."""
PLAIN = ".12~g"
"""Format of ticks that are no shares, with as many digits as it takes to tell them apart."""
MOST_BINS = 60
TAIL = 0.005
"""Share of the paths on each side that the outermost bars of a histogram gather."""
BLUE, RED, GREY = COLOURS[0], COLOURS[1], "#6b7280"


def fan_figure(fan: Mapping[str, Any], worst: Mapping[int, np.ndarray]) -> tuple[go.Figure, str]:
    """Draws quantiles of the equity over time as bands, and single paths as lines.

    Args:
      fan: of the summary, `[points]` each.
      worst: number of a path -> `[points]` equity, fraction of the capital.
    """
    figure = go.Figure()
    bars = [0, *fan["bars"]]
    for low, high, opacity in BANDS:
        name = f"{100 * float(low):g} to {100 * float(high):g} %"
        _add_band(figure, name, bars, [1.0, *fan["quantiles"][low]], [1.0, *fan["quantiles"][high]], opacity)
    figure.add_scatter(
        x=bars, y=[1.0, *fan["quantiles"]["0.5"]], name="median", mode="lines", line={"color": BLUE, "width": 2.4}
    )
    for rank, (path, curve) in enumerate(worst.items()):
        line = {"color": RED, "width": 1.2, "dash": ("solid", "dash", "dot")[rank % 3]}
        figure.add_scatter(x=bars, y=[1.0, *curve], name=f"path {path}", mode="lines", line=line)
    ends = [value for low, high, _ in BANDS for value in (*fan["quantiles"][low], *fan["quantiles"][high])]
    drawn = np.concatenate([ends, *worst.values()])
    logarithmic = bool((drawn > 0).all()) and drawn.max() > 10 * drawn.min()
    figure.update_yaxes(title_text="Equity, of the capital", type="log" if logarithmic else "linear", tickformat=PLAIN)
    figure.update_traces(hovertemplate="%{y:.3f}")
    dashed = finish(figure, np.arange(1), height=460, last_row=1, x_title="Bar of the path")
    scale = " On a logarithmic scale." if logarithmic else ""
    lines = f" The lines are the {len(worst)} paths with the lowest total return." if worst else ""
    return figure, (
        f"Equity over {bars[-1]:,} bars, at {len(bars) - 1} of them. Each band holds, bar by bar, the paths between "
        f"two quantiles; its edge is not the way of any one path.{lines}{scale}{dashed}"
    )


def distribution_figure(
    values: np.ndarray, row: Mapping[str, Any], title: str, kind: str, level: float
) -> tuple[go.Figure, str] | None:
    """Draws the histogram of a figure over the paths, with its median and its quantiles of 5 % and 95 %.

    Args:
      values: `[n]`; what is not finite is left out.
      row: its distribution in the summary.
      title: of the axis.
      kind: "percent" or "ratio".
      level: of the interval.

    Returns:
      The figure and its caption, or None when there is no finite value.
    """
    values = values[np.isfinite(values)].astype(np.float64)
    if not len(values):
        return None
    low, high = np.quantile(values, (TAIL, 1.0 - TAIL))
    n_bins = min(MOST_BINS, math.ceil(2.0 * len(values) ** (1.0 / 3.0)))  # Rice's rule
    counts, edges = np.histogram(np.clip(values, low, high), bins=n_bins)
    figure = go.Figure(
        go.Bar(
            x=(edges[1:] + edges[:-1]) / 2.0, y=counts / len(values), width=np.diff(edges), marker_color=BLUE,
            marker_line_width=0, opacity=0.75, hovertemplate="%{x}: %{y:.2%} of paths<extra></extra>",
        )
    )  # fmt: skip
    lines = {"5 %": ("0.05", GREY, "dot"), "median": ("0.5", RED, "solid"), "95 %": ("0.95", GREY, "dot")}
    for name, (quantile, colour, dash) in lines.items():
        at = min(max(row["quantiles"][quantile], edges[0]), edges[-1])
        figure.add_vline(
            at, line={"color": colour, "width": 1.6, "dash": dash},
            annotation={"text": name, "font": {"size": 11, "color": colour}, "yref": "paper", "y": 1.08},
            annotation_position="top",
        )  # fmt: skip
    hovered = ".3~%" if kind == "percent" else ".3~g"
    ticks = SHARE if kind == "percent" else PLAIN
    figure.update_xaxes(title_text=title, tickformat=ticks, hoverformat=hovered, nticks=6)
    figure.update_yaxes(tickformat=SHARE, nticks=5)
    finish(figure, np.arange(1), height=300, last_row=1, x_title=None)
    figure.update_layout(hovermode="closest", bargap=0, margin={"l": 48, "r": 12, "t": 32, "b": 44})
    ends = " to ".join(number_text(end, kind) for end in row["median_ci"])
    return figure, f"Share of the paths. Median {ends} ({100 * level:g} %). The outermost bars gather what is beyond."


def drawdown_figure(chances: Mapping[str, Mapping[str, Any]], level: float) -> tuple[go.Figure, str]:
    """Draws the probabilities of drawdowns at least as deep, with intervals.

    Args:
      chances: depth -> `estimate` and `ci`, of the summary.
      level: of the intervals, in (0, 1).
    """
    depths = [float(depth) for depth in chances]
    estimates = np.array([row["estimate"] for row in chances.values()])
    ends = np.array([row["ci"] for row in chances.values()])
    figure = go.Figure(
        go.Scatter(
            x=depths, y=estimates, mode="lines+markers", line={"color": BLUE, "width": 2}, marker_size=6,
            error_y={
                "array": ends[:, 1] - estimates, "arrayminus": estimates - ends[:, 0], "color": BLUE, "thickness": 1.2
            },
            hovertemplate="%{x:.0%} or deeper: %{y:.2%} of paths<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(title_text="Depth of the maximum drawdown", tickformat=SHARE, range=[0.0, 1.0])
    figure.update_yaxes(title_text="Share of paths at least as deep", tickformat=SHARE, range=[0.0, 1.05])
    finish(figure, np.arange(1), height=340, last_row=1, x_title=None)
    figure.update_layout(hovermode="closest", margin_t=16)
    return (
        figure,
        f"Bars are Wilson's {100 * level:g} % intervals; where none is seen it lies within the marker.",
    )


def recovery_figure(recovery: Mapping[str, Any], level: float) -> tuple[go.Figure, str]:
    """Draws the Kaplan-Meier curve of the time to recovery with its band.

    Args:
      recovery: of the summary.
      level: of the band, in (0, 1).
    """
    figure = go.Figure()
    known = [i for i, end in enumerate(recovery["low"]) if end is not None]
    bars, low, high = ([recovery[name][i] for i in known] for name in ("bars", "low", "high"))
    _add_band(figure, f"{100 * level:g} % interval", [0, *bars], [1.0, *low], [1.0, *high], 0.2, shape="hv")
    figure.add_scatter(
        x=[0, *recovery["bars"]], y=[1.0, *recovery["unrecovered"]], name="not recovered", mode="lines",
        line={"color": BLUE, "width": 2.2, "shape": "hv"},
    )  # fmt: skip
    figure.update_traces(hovertemplate="%{y:.1%}")
    figure.update_yaxes(title_text="Share not recovered", tickformat=SHARE, range=[0.0, 1.05])
    figure.update_xaxes(rangemode="tozero")
    finish(figure, np.arange(1), height=360, last_row=1, x_title="Bars since the peak")
    return figure, (
        f"Of the deepest drawdown of each path, {recovery['n_drawdowns']:,} in all: the share that is not back at its "
        "peak after so many bars (Kaplan and Meier). "
        f"{recovery['n_censored']:,} paths end in theirs and count only for as long as they were seen; liquidated "
        "accounts are among them and never recover. Which drawdown of a path is the deepest depends on where the path "
        "ends, so this is not the curve of any drawdown of that depth. The band is the Monte Carlo error."
    )


def _add_band(
    figure: go.Figure, name: str, x: list, low: list, high: list, opacity: float, *, shape: str = "linear"
) -> None:
    """Fills between two lines; the legend has the band once."""
    line = {"width": 0, "shape": shape, "color": BLUE}
    colour = f"rgba(0,114,178,{opacity})"
    figure.add_scatter(x=x, y=low, name=f"{label(name)}, low", mode="lines", line=line, showlegend=False)
    figure.add_scatter(x=x, y=high, name=label(name), mode="lines", line=line, fill="tonexty", fillcolor=colour)
