"""The section of the report on a sweep: the score against each value that was tried, and the best agents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from jaxppo.report import figures, markup
from jaxppo.report.formatting import MISSING, escaped, number_text

MOST_ROWS = 50
SCORE = "validation_sharpe"


def value_text(value: Any) -> str:
    """A value of a key: a number in few digits, or a word."""
    return f"{value}" if isinstance(value, (bool, np.bool_, str)) else f"{value:g}"


def sentence(found: Mapping[str, Any]) -> str:
    """Which agent was chosen, in a sentence.

    Args:
      found: the `sweep` entry of a summary.
    """
    values = ", ".join(f"{key} {value_text(value)}" for key, value in found["values"].items())
    score = found["mean_validation_sharpe"]
    mean = "" if score is None else f" with a mean validation Sharpe ratio of {score:.2f} over seeds"
    lost = f" {found['diverged']} diverged." if found["diverged"] else ""
    return (
        f"{found['agents']} agents, {found['combinations']} combination(s) of values with {len(found['seeds'])} "
        f"seed(s) each. Chosen: {values or 'the values of the configuration'}{mean}, seed {found['seed']}.{lost}"
    )


def section(table: pd.DataFrame, found: Mapping[str, Any]) -> str:
    """Renders the section as HTML.

    Args:
      table: from `member_table`.
      found: the `sweep` entry of the summary.
    """
    drawn = "".join(
        figures.as_html(f"sweep_{key.replace('.', '_')}", score_figure(table, key)) for key in found["keys"]
    )
    warning = (
        "Scores on validation are the best of many: the section on selection says how good the best of so many agents "
        "would look by luck. Only the chosen agent was tested."
    )
    return f"<p>{escaped(sentence(found))} {warning}</p>{drawn}{_table(table, found['keys'])}"


def score_figure(table: pd.DataFrame, key: str) -> tuple[go.Figure, str]:
    """Draws the validation score of every agent against its value of a key, and the mean at each value.

    Args:
      table: from `member_table`.
      key: dotted, a column of the table.

    Returns:
      The figure and its caption.
    """
    numbers, figure = table[key].dtype.kind in "if", go.Figure()
    scored = table[table[SCORE].notna()]
    scored = scored if numbers else scored.assign(**{key: scored[key].map(value_text)})
    shown = "%{x:.4g}" if numbers else "%{x}"
    for name, rows, rank in (("agents", scored[~scored.chosen], 6), ("chosen", scored[scored.chosen], 0)):
        figure.add_trace(
            go.Scatter(
                x=rows[key], y=rows[SCORE], mode="markers", name=name, marker={"size": 6 if rank else 11},
                marker_color=figures.COLOURS[rank], text=[f"agent {member}" for member in rows.member],
                hovertemplate=f"%{{text}}: {shown}, Sharpe %{{y:.2f}}<extra></extra>",
            )
        )  # fmt: skip
    mean = scored.groupby(key)[SCORE].mean()
    if len(mean) < len(scored):
        trace = go.Scatter(x=mean.index, y=mean, mode="lines" if numbers else "markers", name="mean at the value")
        trace.line.color = trace.marker.color = figures.COLOURS[1]
        trace.line.width, trace.marker.symbol = 1.5, "diamond-open"
        figure.add_trace(trace)
    figures.finish(figure, np.arange(1), height=340, last_row=1, x_title=key)
    if numbers and (table[key] > 0).all() and table[key].max() > 10 * table[key].min():
        figure.update_xaxes(type="log")
    figure.update_layout(hovermode="closest")
    figure.update_yaxes(title_text="Sharpe ratio on validation, annual")
    lost = len(table) - len(scored)
    without = f" {lost} agents without a score are not drawn." if lost else ""
    return figure, f"Each point is the best checkpoint of an agent.{without}"


def _table(table: pd.DataFrame, keys: list[str]) -> str:
    """A row for each of the best agents."""
    head = ["Agent", *map(escaped, keys), "Seed", "Validation Sharpe", "Checkpoint", "Iterations"]
    best = table.sort_values(SCORE, ascending=False, kind="stable", na_position="last")
    rows = []
    for _, agent in best.head(MOST_ROWS).iterrows():
        values = [escaped(value_text(agent[key])) for key in keys]
        score = MISSING if pd.isna(agent[SCORE]) else number_text(float(agent[SCORE]), "ratio")
        cells = [*values, f"{agent.seed}", score, f"{agent.best_iteration}", f"{agent.iterations}"]
        mark = " (chosen)" if agent.chosen else f" ({agent.stopped})" if agent.stopped else ""
        rows.append(markup.row(cells, escaped(f"{agent.member}{mark}")))
    left = len(table) - MOST_ROWS
    more = f" {left} more are in sweep.csv." if left > 0 else ""
    return markup.table(head, rows) + markup.caption(f"The agents with the highest scores.{more}")
