"""Training curves, as a section of the report: a small figure for each metric, that which selects first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import plotly.graph_objects as go

from jaxppo.report.figures import AMOUNT, COLOURS, MAX_POINTS, as_html, drawn_points, finish
from jaxppo.report.formatting import escaped
from jaxppo.report.markup import caption
from jaxppo.report.results import Selected

MAX_PANELS = 15
SHARPE, ERROR = "validation_sharpe", "validation_sharpe_error"
"""The Sharpe ratio on validation, and its standard error, without which it is not drawn."""
_X_KEYS = ("env_steps", "iteration", "step")
_CURVES = (
    SHARPE, "reward", "validation_total_return", "policy_loss", "value_loss", "entropy", "kl",
    "clip_fraction", "explained_variance", "learning_rate", "gradient_norm", "turnover", "exposure", "steps_per_second",
)  # fmt: skip


def section(rows: Sequence[Mapping[str, Any]], level: float, selected: Selected) -> str:
    """The section of the report as HTML; nothing where nothing was recorded.

    Args:
      rows: of `metrics.jsonl`.
      level: of the interval of a Sharpe ratio, in (0, 1).
      selected: what selected the checkpoint.
    """
    panels, note = training_figures(rows, level, selected)
    if not panels:
        return ""
    parts = (
        f"<div><h3>{escaped(_words(name))}</h3>{as_html(f'training-{number}', (figure, ''))}</div>"
        for number, (name, figure) in enumerate(panels.items())
    )
    return f'<div class="panels curves">{"".join(parts)}</div>{caption(escaped(note))}'


def training_figures(
    rows: Sequence[Mapping[str, Any]], level: float, selected: Selected
) -> tuple[dict[str, go.Figure], str]:
    """Draws a small figure for each training metric.

    Args:
      rows: the rows of `metrics.jsonl`, one per iteration; what is not a number is left out, and so is a Sharpe ratio
        without a standard error, which would stand without an interval.
      level: of the interval of a Sharpe ratio, in (0, 1).
      selected: what selected the checkpoint: its metric is drawn first, and its iteration marked.

    Returns:
      Metric -> figure, that which selects the checkpoint first, and their caption; both empty without a number.
    """
    x_key = next((key for key in _X_KEYS if any(_number(row.get(key)) is not None for row in rows)), None)
    names = dict.fromkeys(key for row in rows for key in row if key not in _X_KEYS)
    curves = {name: np.array([_number(row.get(name)) for row in rows], np.float64) for name in names}
    curves = {name: y for name, y in curves.items() if np.isfinite(y).any() and _stands_alone(name, curves)}
    first = (selected.metric, *_CURVES)
    order = sorted(curves, key=lambda name: (first.index(name) if name in first else len(first), name))
    shown, left_out = order[:MAX_PANELS], order[MAX_PANELS:]
    if not shown:
        return {}, ""
    x = np.array([_number(row.get(x_key)) if x_key else i for i, row in enumerate(rows)], np.float64)
    error = np.array([_number(row.get(ERROR)) for row in rows], np.float64)
    half = NormalDist().inv_cdf(0.5 + level / 2.0) * error
    chosen = np.array([row.get("iteration", -1) == selected.iteration for row in rows])
    figures = {
        name: _panel(x, curves[name], half if name == SHARPE else None, chosen if name == selected.metric else None)
        for name in shown
    }
    note = f"Metrics of the training run against {_words(x_key or 'row')}: diagnostics of learning, not results."
    if shown[0] == selected.metric:
        marked = ", the dot the one that was selected" if chosen.any() else ""
        note += f" The first one selects the checkpoint{marked}: as the best of many it is too good to be true."
    if SHARPE in shown:
        note += f" Shaded: the {100 * level:g} % interval of the Sharpe ratio of an agent."
    if left_out:
        note += f" Not drawn, but in metrics.jsonl: {', '.join(left_out)}."
    return figures, note


def _stands_alone(name: str, curves: Mapping[str, np.ndarray]) -> bool:
    """Whether a metric may be drawn: it is no Sharpe ratio, or one with an interval."""
    if name == SHARPE:
        return ERROR in curves and bool(np.isfinite(curves[ERROR]).any())
    return "sharpe" not in name


def _panel(x: np.ndarray, y: np.ndarray, half: np.ndarray | None, chosen: np.ndarray | None) -> go.Figure:
    """A metric over the run: its known values `[n]`, half the width of its interval, and the points to mark."""
    figure = go.Figure()
    if half is not None:
        y = np.where(np.isfinite(half), y, np.nan)
    known = np.flatnonzero(np.isfinite(y) & np.isfinite(x))
    points = known[drawn_points(y[known], MAX_POINTS // 2)]
    if half is not None:
        for sign, fill in ((1.0, None), (-1.0, "tonexty")):
            figure.add_scatter(
                x=x[points], y=(y + sign * half)[points], mode="lines", line={"width": 0}, fill=fill,
                fillcolor="rgba(0,114,178,0.15)", hoverinfo="skip", showlegend=False,
            )  # fmt: skip
    figure.add_scatter(
        x=x[points], y=y[points], mode="lines" if len(points) > 30 else "lines+markers", marker_size=5,
        line={"color": COLOURS[0], "width": 1.4}, showlegend=False, hovertemplate="%{y:.4~g}<extra></extra>",
    )  # fmt: skip
    if chosen is not None and (chosen & np.isfinite(y)).any():
        marked = np.flatnonzero(chosen & np.isfinite(y))
        figure.add_scatter(
            x=x[marked], y=y[marked], mode="markers", marker={"size": 9, "color": COLOURS[1]},
            showlegend=False, hovertemplate="selected: %{y:.4~g}<extra></extra>",
        )  # fmt: skip
    whole = x[np.isfinite(x)]
    if len(whole) > 1 and whole.max() > whole.min():
        room = 0.04 * (whole.max() - whole.min())
        figure.update_xaxes(range=[whole.min() - room, whole.max() + room])
    figure.update_xaxes(tickformat=AMOUNT, nticks=5)
    figure.update_yaxes(nticks=5, exponentformat="e")
    finish(figure, np.arange(len(x)), height=190, last_row=1, x_title=None)
    figure.update_layout(margin={"l": 48, "r": 10, "t": 12, "b": 28}, font_size=11)
    return figure


def _words(name: str) -> str:
    """A name with blanks."""
    return name.replace("_", " ")


def _number(value: Any) -> float | None:
    """`value` as a float if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        return None
    return float(value) if math.isfinite(value) else None
