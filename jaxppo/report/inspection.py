"""Heat maps of the attention of a policy and of what its decisions depend on, for the report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from jaxppo.report.figures import COLOURS, as_html, finish, label
from jaxppo.report.markup import folded
from jaxppo.report.results import Inspection

N_FEATURES = 15
TITLES = {
    "importance": "Feature groups that decide",
    "features": "Features that decide",
    "gradients": "How old the deciding values are",
    "lag": "Attention by head",
    "levels": "Attention by level",
    "conditions": "Attention by market and hour",
    "assets": "Attention across assets",
    "rollout": "What a memory is made of",
}
"""Headings of the figures, in the order in which they are shown."""
DECIDING = ("importance", "features", "gradients")
"""Figures of what decisions depend on; the others are maps of attention."""


def sections(inspection: Inspection | None, symbols: Sequence[str]) -> tuple[str, str]:
    """Two sections of the report as HTML, empty where nothing is known: what decides; maps of attention, folded.

    Args:
      inspection: of a policy; None without.
      symbols: A names.
    """
    if inspection is None:
        return "", ""
    drawn = inspection_figures(inspection, symbols)
    parts = {name: f"<h3>{TITLES[name]}</h3>\n{as_html(name, figure)}" for name, figure in drawn.items()}
    deciding = "\n".join(part for name, part in parts.items() if name in DECIDING)
    maps = "\n".join(part for name, part in parts.items() if name not in DECIDING)
    return deciding, folded("Show which bars and assets the policy attends to", maps) if maps else ""


def inspection_figures(inspection: Inspection, symbols: Sequence[str]) -> dict[str, tuple[go.Figure, str]]:
    """Draws attention and attributions.

    Args:
      inspection: of a policy.
      symbols: A names.

    Returns:
      Name, see `TITLES`, -> figure and caption; what the policy does not have is left out.
    """
    n = f"Mean of {len(inspection.bars)} decisions spread over the period"
    drawn = {"importance": _bars(inspection.importance, "KL, nats")}
    captions = {
        "importance": f"{n}: how far the decisions of an account without positions move when a group of features is "
        "at its mean over the period (Kullback-Leibler divergence). A group near zero can be left out."
    }
    drawn["features"] = _bars(dict(sorted(inspection.features.items(), key=lambda x: -x[1])[:N_FEATURES]), "weight")
    captions["features"] = (
        "Features that the sum of target weights depends on most: mean absolute integrated gradients against the mean "
        "of each feature over the period, summed over bars and assets, in fractions of equity."
    )
    if inspection.gradients.shape[1] > 1:
        drawn["gradients"] = _heat_map(inspection.gradients, list(inspection.importance), "Bars ago")
        captions["gradients"] = "The same by feature group and by how many bars ago the value was."
    lag = inspection.lag
    if lag is not None:
        heads = [f"block {i + 1}, head {j + 1}" for i in range(lag.shape[0]) for j in range(lag.shape[1])]
        drawn["lag"] = _heat_map(lag.reshape(-1, lag.shape[-1]), heads, "Bars ago")
        captions["lag"] = f"{n}: share of attention by how many bars ago, of every head. 0 is the bar of the decision."
        if inspection.levels is not None:
            names = ["bars", *(f"means of {pool} bars" for pool in inspection.pools)]
            drawn["levels"] = _heat_map(inspection.levels.reshape(-1, len(names)), heads, "", names)
            captions["levels"] = f"{n}: share of attention of single bars and of the coarser levels, of every head."
        conditions = {f"{name} market": x for name, x in inspection.regimes.items()}
        conditions |= {f"{hour:02d}:00": x for hour, x in inspection.hours.items()}
        if len(conditions) > 1:
            overall = np.mean(lag, axis=(0, 1))
            rows = np.stack([x.mean(axis=(0, 1)) - overall for x in conditions.values()])
            drawn["conditions"] = _heat_map(rows, list(conditions), "Bars ago", diverging=True)
            captions["conditions"] = (
                "Attention by bars ago, less its mean over all decisions, in calm to turbulent markets (thirds of the "
                "volatility at the decisions)" + (" and by hour of the day." if inspection.hours else ".")
            )
    if inspection.assets is not None:
        drawn["assets"] = _heat_map(inspection.assets, list(symbols), "Attends to", list(symbols))
        captions["assets"] = f"{n}: attention across assets, mean of blocks and heads; every row sums to one."
    if inspection.rollout is not None:
        rows = inspection.rollout if len(symbols) > 1 else inspection.rollout[:1]
        drawn["rollout"] = _heat_map(rows, ["the asset itself", "all others"][: len(rows)], "Bars ago")
        captions["rollout"] = (
            "Attention rollout: which bars the memory of a decision is made of, through all blocks and their residuals "
            "(Abnar and Zuidema, 2020)."
        )
    return {name: (drawn[name], captions[name]) for name in TITLES if name in drawn}


def _heat_map(
    values: np.ndarray, rows: Sequence[str], x_title: str, columns: Sequence[str] | None = None, diverging: bool = False
) -> go.Figure:
    """A heat map of `values [rows, columns]`; columns are numbered from 0 if they have no names."""
    values = np.asarray(values, np.float64)
    limit = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    figure = go.Figure(
        go.Heatmap(
            x=np.arange(values.shape[1]) if columns is None else [label(name) for name in columns],
            y=[label(name) for name in rows], z=values.astype(np.float32),
            zmin=-limit if diverging else 0.0, zmax=limit, colorscale="RdBu" if diverging else "Blues",
            hovertemplate="%{y}, %{x}: %{z:.3~g}<extra></extra>", colorbar={"thickness": 12, "exponentformat": "e"},
        )
    )  # fmt: skip
    figure.update_yaxes(type="category", autorange="reversed", dtick=max(1, len(rows) // 60))
    if columns is not None:
        figure.update_xaxes(type="category")
    finish(figure, np.arange(0), height=126 + min(900, 24 * len(rows)), last_row=1, x_title=x_title)
    figure.update_layout(hovermode="closest", margin_t=32)
    return figure


def _bars(values: dict[str, float], x_title: str) -> go.Figure:
    """A horizontal bar per name."""
    figure = go.Figure(
        go.Bar(
            x=list(values.values()), y=[label(name) for name in values], orientation="h", marker_color=COLOURS[0],
            hovertemplate="%{y}: %{x:.3~g}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_yaxes(type="category", autorange="reversed")
    figure.update_xaxes(exponentformat="e", nticks=6)
    finish(figure, np.arange(0), height=106 + 22 * len(values), last_row=1, x_title=x_title)
    figure.update_layout(hovermode="closest", margin_t=32)
    return figure
