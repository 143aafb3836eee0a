"""Equity and drawdown of the test period as pictures."""

from __future__ import annotations

import io

import numpy as np

from jaxppo.tracking.protocol import Curves

WIDTH, HEIGHT = 900, 420
"""Pixels of a picture."""
DOTS_PER_INCH = 100
MOST_BLOCKS = 2000
"""Blocks of a long line, of which the lowest and the highest point are drawn."""
MOST_BASELINES = 4
COLOURS = ("#1f77b4", "#7f7f7f", "#bcbd22", "#d62728", "#9467bd")


def charts(curves: Curves) -> dict[str, bytes]:
    """Draws the growth of each account and its drawdown.

    Args:
      curves: accounts over the test period.

    Returns:
      `equity` and `drawdown` -> PNG of 900 x 420 pixels.
    """
    growth = {name: np.asarray(equity, np.float64) / equity[0] for name, equity in curves.equity.items()}
    fallen = {name: x / np.maximum.accumulate(x) - 1.0 for name, x in growth.items()}
    return {
        "equity": _picture(curves.times, growth, "Growth of 1"),
        "drawdown": _picture(curves.times, fallen, "Drawdown, fraction of the peak"),
    }


def _picture(times: np.ndarray, lines: dict[str, np.ndarray], title: str) -> bytes:
    """One axis with a line for each account, the first one thick."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / DOTS_PER_INCH, HEIGHT / DOTS_PER_INCH), dpi=DOTS_PER_INCH, layout="constrained")
    axis = figure.add_subplot()
    for place, (name, values) in enumerate([*lines.items()][: MOST_BASELINES + 1]):
        shown = _extremes(values)
        points = times[shown] if len(times) else shown
        width, order = (0.9, 2) if place else (1.8, 3)
        axis.plot(points, values[shown], label=name, color=COLOURS[place], linewidth=width, zorder=order)
    if len(times):
        locator = AutoDateLocator()
        axis.xaxis.set_major_locator(locator)
        axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axis.set_title(title, loc="left")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, loc="best")
    written = io.BytesIO()
    FigureCanvasAgg(figure).print_png(written)
    return written.getvalue()


def _extremes(values: np.ndarray) -> np.ndarray:
    """Indices of the points to draw: all, or of a long line the lowest and the highest of every few."""
    size = -(-len(values) // MOST_BLOCKS)
    if size <= 2:
        return np.arange(len(values))
    blocks = values[: len(values) // size * size].reshape(-1, size)
    first = size * np.arange(len(blocks))
    return np.unique([0, *(first + blocks.argmin(1)), *(first + blocks.argmax(1)), len(values) - 1])
