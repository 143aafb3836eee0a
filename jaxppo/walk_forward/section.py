"""The walk-forward section of the report: paths, folds, and what selecting by validation gained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from jaxppo.report import figures, markup
from jaxppo.report.formatting import MISSING, escaped, interval_text, number_text, percent
from jaxppo.walk_forward.results import SELECTED

SCHEMES = {
    "rolling": "Each agent was trained on a window of {train} bars that moves on with the tests",
    "expanding": "Each agent was trained on all bars up to its test, {train} in the first fold",
    "combinatorial": "Each choice of {test_folds} of {folds} folds of bars was tested by agents trained on the others",
}
MOST_ROWS = 200


def section(
    scheme: str,
    folds: pd.DataFrame,
    adjusted: Mapping[str, Any],
    points: np.ndarray,
    equity: Mapping[str, np.ndarray],
    edges: np.ndarray,
    combined: bool = False,
) -> str:
    """Renders the section as HTML.

    Args:
      scheme: how the bars were split, in words.
      folds: from `fold_table`.
      adjusted: from `adjust_folds_for_selection` and `tests_won`.
      points: `[n + 1]` times or numbers of the marks.
      equity: name -> `[n + 1]` equity of each path and baseline.
      edges: positions in `points` at which one test ends and the next begins.
      combined: whether the mean of all seeds was traded, instead of the one that was best on validation.
    """
    drawn = figures.as_html("walk_forward_paths", paths_figure(points, equity, edges))
    scatter = figures.as_html("walk_forward_folds", folds_figure(folds)) if len(folds) > 2 else ""
    sentences = " ".join(verdict(adjusted, combined))
    return f"<p>{escaped(scheme)} {escaped(sentences)}</p>{drawn}{scatter}{_table(folds, combined)}"


def gate_section(found: Mapping[str, Any], threshold: float) -> str:
    """Renders who trades each fold, and the evidence for it, as HTML.

    Args:
      found: from `gate_figures`.
      threshold: `evaluation.ship_t`.
    """
    rows = [
        markup.row([number_text(row["t"], "ratio"), percent(row["share"]), row["traded"]], row["fold"])
        for row in found["folds"]
    ]
    note = (
        f"The base is traded unless the t-statistic of the agents' utility over it exceeds {threshold:g}: on the "
        "validation of the fold and in all earlier tests. Nothing after the first bar of a test decides about it."
    )
    table = markup.table(("Fold", "t-statistic", "Share of the agents", "Traded by"), rows)
    return f"<p>{escaped(gate_line(found))}</p>{table}{markup.caption(escaped(note))}"


def gate_line(found: Mapping[str, Any]) -> str:
    """How many folds the agents trade, and the evidence, in a line; takes `gate_figures`."""
    each = ", ".join(f"{row['t']:.2f}" for row in found["folds"])
    return f"The agents trade {found['traded']} of {len(found['folds'])} folds, the base the others (t = {each})."


def verdict(adjusted: Mapping[str, Any], combined: bool = False) -> list[str]:
    """Says what the folds show, in plain sentences.

    Args:
      adjusted: from `adjust_folds_for_selection` and `tests_won`.
      combined: whether the mean of all seeds was traded.
    """
    who, changed = ("ensembles", "would have changed") if combined else ("selected agents", "changed")
    aside = f", and stood aside in {adjusted['idle']}" if adjusted["idle"] else ""
    found = [f"The {who} made money in {adjusted['won']} of {adjusted['tests']} tests{aside}."]
    if adjusted["rank_correlation"] is not None:
        found.append(
            "The rank correlation of validation and test Sharpe ratios between the seeds of a fold is "
            f"{adjusted['rank_correlation']:.2f} on average: 1 if validation finds the best agent, 0 if it says "
            "nothing."
        )
    if adjusted["gain"] is not None:
        low, high = adjusted["gain_ci"]
        chance = ""
        if low is not None:
            within = "within chance" if low <= 0.0 <= high else "not within chance"
            chance = f" (95 % interval {low:+.2f} to {high:+.2f}), which is {within}"
        found.append(
            f"Choosing the seed by validation {changed} the test Sharpe ratio by {adjusted['gain']:+.2f} on "
            f"average{chance}."
        )
    return found


def paths_figure(points: np.ndarray, equity: Mapping[str, np.ndarray], edges: np.ndarray) -> tuple[go.Figure, str]:
    """Draws the equity of every path and baseline, relative to the start, and the ends of the tests.

    Args:
      points: `[n + 1]` times or numbers of the marks.
      equity: name -> `[n + 1]` equity of each path and baseline, currency.
      edges: positions in `points` at which one test ends and the next begins.

    Returns:
      The figure and its caption.
    """
    figure, x = go.Figure(), figures.axis_values(points)
    for rank, (name, values) in enumerate(equity.items()):
        values = np.asarray(values, np.float64) / float(values[0])
        shown = figures.drawn_points(values)
        width = 2.4 if rank == 0 or name.startswith(SELECTED) else 1.2
        line = {"color": figures.COLOURS[rank % len(figures.COLOURS)], "width": width}
        figure.add_trace(
            go.Scatter(
                x=x[shown], y=values[shown], name=figures.label(name), mode="lines", line=line, hovertemplate="%{y:.3f}"
            )
        )
    for edge in edges:
        at = str(x[edge]) if points.dtype.kind == "M" else int(x[edge])
        figure.add_shape(type="line", x0=at, x1=at, y0=0, y1=1, yref="paper", line={"color": "#cbd5e1", "dash": "dot"})
    figure.update_yaxes(title_text="Equity, start = 1")
    dashed = figures.finish(figure, points, height=430, last_row=1)
    caption = (
        "One account through all tests of a path; at each dotted line the next fold's agent takes it over with its "
        f"positions, and pays for changing them.{dashed}"
    )
    return figure, caption


def folds_figure(folds: pd.DataFrame) -> tuple[go.Figure, str]:
    """Draws validation against test Sharpe ratios, a point for each agent and test, with the interval of the test."""
    figure = go.Figure()
    for name, rows in (("selected", folds[folds.selected]), ("not selected", folds[~folds.selected])):
        if not len(rows):
            continue
        low, high = (rows[end].astype(float).fillna(rows.sharpe) for end in ("sharpe_low", "sharpe_high"))
        figure.add_trace(
            go.Scatter(
                x=rows.validation_sharpe, y=rows.sharpe, mode="markers", name=name, marker={"size": 8},
                marker_color=figures.COLOURS[0] if name == "selected" else figures.COLOURS[6],
                error_y={"type": "data", "symmetric": False, "array": high - rows.sharpe,
                         "arrayminus": rows.sharpe - low, "thickness": 1, "width": 0},
                text=[f"fold {fold}, seed {seed}" for fold, seed in zip(rows.fold, rows.seed, strict=True)],
                hovertemplate="%{text}: validation %{x:.2f}, test %{y:.2f}<extra></extra>",
            )
        )  # fmt: skip
    figures.finish(figure, np.arange(1), height=380, last_row=1, x_title="Sharpe ratio on validation, annual")
    figure.update_layout(hovermode="closest")
    figure.update_yaxes(title_text="Sharpe ratio in the test, annual")
    return figure, "Each point is an agent in a test; the vertical lines are the intervals of its test Sharpe ratio."


def _table(folds: pd.DataFrame, combined: bool) -> str:
    """A row for each agent and test."""
    head = ["Fold", "Test", "Bars", "Seed", "Checkpoint", "Validation Sharpe", "Test Sharpe", "Return", "Drawdown"]
    head += ["Turnover a year", "Costs"]
    rows = []
    for row in folds.head(MOST_ROWS).itertuples():
        cells = [f"{str(row.first)[:10]} to {str(row.last)[:10]}", f"{row.n_bars:,}", row.seed, row.best_iteration]
        cells = [escaped(cell) for cell in cells]
        cells.append(number_text(row.validation_sharpe, "ratio"))
        cells.append(f"{number_text(row.sharpe, 'ratio')} {interval_text((row.sharpe_low, row.sharpe_high), 'ratio')}")
        cells += [MISSING if value is None else percent(value) for value in (row.total_return, row.max_drawdown)]
        cells += [number_text(row.turnover, "ratio"), MISSING if row.costs is None else percent(row.costs)]
        mark = (" (best on validation)" if combined else " (selected)") if row.selected else ""
        rows.append(markup.row(cells, f"{row.fold}{mark}"))
    left = len(folds) - MOST_ROWS
    more = f" {left} more rows are in folds.csv." if left > 0 else ""
    note = f"Validation Sharpe ratios, the best of many, selected the checkpoint: they are not out of sample.{more}"
    return markup.table(head, rows) + markup.caption(note)
