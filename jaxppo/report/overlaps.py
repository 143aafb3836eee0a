"""Lines of a figure that would hide others: they are dashed, so that what lies beneath shows through."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

POSITIONS = 500
"""Positions along an axis at which lines are compared, about as many as a screen has pixels there."""
NEAR = 0.01
"""Distance at which a line hides another, share of the height of its panel."""
HIDDEN = 1 / 3
"""Share of a line that another must hide."""
DASH = 6


def dash_covering_lines(figure: go.Figure) -> str:
    """Dashes every line that is drawn over much of another one, the more sparsely the more of them it hides.

    Args:
      figure: changed in place; its axes have their types already.

    Returns:
      A sentence for the caption; empty if no line hides another.
    """
    panels: dict[tuple[str, str], list[go.Scatter]] = {}
    for trace in figure.data:
        if _is_line(trace):
            panels.setdefault((trace.xaxis or "x", trace.yaxis or "y"), []).append(trace)
    found = False
    for (x_axis, y_axis), lines in panels.items():
        heights = _heights(figure, x_axis, y_axis, lines)
        for number, line in enumerate(lines):
            beneath = sum(_hides(heights[number], heights[other]) for other in range(number))
            if beneath:
                line.line.dash = f"{DASH}px,{(DASH + 2) * beneath}px"
                found = True
    return " A line that would hide another is dashed." if found else ""


def _is_line(trace: go.Scatter) -> bool:
    """Whether a trace is a line of its own: no edge of a band, no stacked area, no points."""
    if trace.type != "scatter" or "lines" not in (trace.mode or "lines"):
        return False
    return trace.line.width != 0 and trace.fill in (None, "none") and trace.stackgroup is None and len(trace.x) > 1


def _heights(figure: go.Figure, x_axis: str, y_axis: str, lines: list[go.Scatter]) -> np.ndarray:
    """Heights `[lines, POSITIONS]` of the lines of a panel as shares of its own; NaN where a line is not."""
    horizontal, vertical = _axis(figure, x_axis), _axis(figure, y_axis)
    xs = [_scaled(_numbers(line.x), horizontal.type) for line in lines]
    ys = [_scaled(_numbers(line.y), vertical.type) for line in lines]
    known = np.concatenate(xs)
    known = known[np.isfinite(known)]
    if not len(known):
        return np.full((len(lines), POSITIONS), np.nan)
    grid = np.linspace(known.min(), known.max(), POSITIONS)
    drawn = np.stack([_at(grid, x, y, line.line.shape) for x, y, line in zip(xs, ys, lines, strict=True)])
    ends = drawn[np.isfinite(drawn)]
    if vertical.rangemode == "tozero":
        ends = np.r_[ends, 0.0]
    span = np.ptp(ends) if len(ends) else 0.0
    return drawn / (span or 1.0)


def _axis(figure: go.Figure, name: str) -> go.layout.XAxis | go.layout.YAxis:
    """Layout of an axis: `x2` is `xaxis2`."""
    return figure.layout[f"{name[0]}axis{name[1:]}"]


def _numbers(values: np.ndarray) -> np.ndarray:
    """Values of a trace as float64; times as seconds."""
    values = np.asarray(values)
    if np.issubdtype(values.dtype, np.datetime64):
        return values.astype("datetime64[s]").astype(np.float64)
    return values.astype(np.float64)


def _scaled(values: np.ndarray, kind: str | None) -> np.ndarray:
    """Values as an axis of that type places them."""
    if kind != "log":
        return values
    return np.log10(values, out=np.full(values.shape, np.nan), where=values > 0)


def _at(grid: np.ndarray, x: np.ndarray, y: np.ndarray, shape: str | None) -> np.ndarray:
    """Heights of a polyline, or of steps for the shape `hv`, at positions; NaN beyond its ends."""
    if shape == "hv":
        found = y[np.clip(np.searchsorted(x, grid, side="right") - 1, 0, len(x) - 1)]
    else:
        found = np.interp(grid, x, y)
    return np.where((grid < x[0]) | (grid > x[-1]), np.nan, found)


def _hides(above: np.ndarray, beneath: np.ndarray) -> bool:
    """Whether a line lies on another, both `[POSITIONS]` shares of the panel, for `HIDDEN` of the latter."""
    with np.errstate(invalid="ignore"):
        near = np.abs(above - beneath) <= NEAR
    seen = np.isfinite(beneath).sum()
    return bool(seen and near.sum() >= HIDDEN * seen)
