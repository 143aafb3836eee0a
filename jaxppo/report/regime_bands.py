"""Regimes of the market as bands behind a figure over time."""

from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go

from jaxppo.envs.market.features import REGIMES
from jaxppo.envs.market.regimes import stretches

BANDS = {"bull": "#009E73", "bear": "#E69F00", "sideways": "#94a3b8", "crisis": "#c0281f"}
"""Colour of each regime; drawn pale."""
MAX_BANDS = 1000


def drawn_regimes(regimes: np.ndarray, limit: int = MAX_BANDS) -> tuple[np.ndarray, int]:
    """Merges bars so that regimes change no more often than a screen can show.

    Args:
      regimes: `[n]` int.
      limit: stretches that may be drawn, >= 1.

    Returns:
      `[n]` int, and 1; or, with more stretches than that, every group of so many bars as its most frequent regime (of
      equally frequent ones the first), and the size of a group.
    """
    regimes = np.asarray(regimes)
    if len(stretches(regimes)[0]) <= limit:
        return regimes, 1
    size = math.ceil(len(regimes) / limit)
    values = np.unique(regimes)
    counts = np.add.reduceat(regimes[:, None] == values, np.arange(0, len(regimes), size), axis=0, dtype=np.int64)
    return np.repeat(values[counts.argmax(axis=1)], size)[: len(regimes)], size


def add_bands(figure: go.Figure, x: np.ndarray, regimes: np.ndarray) -> str:
    """Adds one pale shape for each regime behind all the rows of a figure; returns a sentence for its caption.

    One path of many rectangles for each regime, not a shape for each stretch: a figure of 40,000 bars stays light.

    Args:
      figure: with one time axis; legend entries switch the bands on and off.
      x: `[n + 1]` times to the second, or numbers.
      regimes: `[n]` int or more, the regime from `x[t]` to `x[t + 1]`: position in `REGIMES`; -1 is left white.
    """
    n = len(x) - 1
    drawn, size = drawn_regimes(np.asarray(regimes)[:n])
    # Within a path plotly wants dates without the letters and blanks that separate its commands.
    edges = [str(edge).replace("T", "_") for edge in x]
    begins, ends = stretches(drawn)
    for number, name in enumerate(REGIMES):
        chosen = drawn[begins] == number
        if chosen.any():
            spans = zip(begins[chosen], ends[chosen], strict=True)
            boxes = (f"M{edges[a]},0H{edges[b]}V1H{edges[a]}Z" for a, b in spans)
            figure.add_shape(
                type="path", path="".join(boxes), xref="x", yref="paper", layer="below",
                fillcolor=BANDS[name], opacity=0.16, line_width=0,
                name=name, showlegend=True, legendgroup=f"regime {name}", legendrank=2000 + number,
            )  # fmt: skip
    if (drawn < 0).all():
        return ""
    merged = f" (that of most of every {size} bars)" if size > 1 else ""
    return f" Shaded: the regime of the market, as it was known at each decision{merged}."
