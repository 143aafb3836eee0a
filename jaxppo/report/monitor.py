"""What watched limits say of a period: figures for the summary, sentences, and their section of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxppo.report.formatting import MISSING, escaped, percent
from jaxppo.risk.monitor import Monitor

Figures = Mapping[str, Mapping[str, Any]]


def watched_figures(monitor: Monitor, levels: Mapping[str, np.ndarray], closes: Sequence[Any]) -> dict[str, Any]:
    """Limit -> its figures over n bars, as JSON: the limit itself, bars beyond it and its warning level, the worst.

    Args:
      monitor: the limits.
      levels: limit -> `[n]`, see `Ledger.levels`.
      closes: n names of the closes of the bars.
    """
    found = {}
    for limit in monitor.limits:
        level = np.asarray(levels[limit.name])
        breached = limit.breached(level)
        found[limit.name] = {
            "limit": limit.limit,
            "warning": limit.warning,
            "stop": limit.stop,
            "worst": float(level.max()),
            "warned": int(limit.warned(level).sum()),
            "breached": int(breached.sum()),
            "first_breach": closes[int(breached.argmax())] if breached.any() else None,
        }
    return found


def stopped_by(monitor: Monitor, levels: Mapping[str, np.ndarray], closes: Sequence[Any]) -> dict[str, Any] | None:
    """The first breach of a limit that says `stop`: which, its level, and when; None without one."""
    first = None
    for limit in monitor.limits:
        level = np.asarray(levels[limit.name])
        breached = limit.breached(level)
        bar = int(breached.argmax())
        if limit.stop and breached[bar] and (first is None or bar < first[0]):
            first = (bar, {"limit": limit.name, "allowed": limit.limit, "level": float(level[bar]), "at": closes[bar]})
    return None if first is None else first[1]


def breaches(figures: Figures, n_bars: int) -> tuple[str, ...]:
    """A sentence for every limit that was breached."""
    return tuple(
        f"Beyond a watched limit: {name} exceeded {percent(row['limit'])} at {row['breached']} of {n_bars} closes, "
        f"first {row['first_breach']}; the worst was {percent(row['worst'])}."
        for name, row in figures.items()
        if row["breached"]
    )


def stop_sentence(stopped: Mapping[str, Any]) -> str:
    """What a stop did."""
    return (
        f"The agent was stopped at {stopped['at']}: {stopped['limit']} reached {percent(stopped['level'])}, where at "
        f"most {percent(stopped['allowed'])} is allowed. Its positions were closed; it stays out of the market."
    )


def one_line(figures: Figures, stopped: Mapping[str, Any] | None) -> str:
    """Every limit with its worst level, breaches and the stop, in a line of text."""
    parts = []
    for name, row in figures.items():
        beyond = f", breached {row['breached']}x since {row['first_breach']}" if row["breached"] else ""
        parts.append(f"{name} {row['worst']:.1%} of {row['limit']:.1%}{beyond}")
    stop = f"; stopped by {stopped['limit']} at {stopped['at']}" if stopped else ""
    return f"watched limits: {'; '.join(parts)}{stop}"


def section(of: Mapping[str, Figures], stopped: Mapping[str, Any] | None, training: Sequence[Mapping[str, Any]]) -> str:
    """The section of the report as HTML.

    Args:
      of: strategy -> limit -> figures; the agent first.
      stopped: what stopped the agent, see `stopped_by`.
      training: rows of `metrics.jsonl`.
    """
    if not any(of.values()):
        return '<p class="caption">No limits were watched.</p>'
    agent, *others = of
    learned = any(f"monitor_{name}_breached" in row for name in of[agent] for row in training)
    head = ["Limit", "Warning beyond", "Worst", "Bars warned", "Bars breached", "First breach"]
    head += ["Training steps breached"] * learned + [f"Worst of {name}" for name in others]
    rows = []
    for name, row in of[agent].items():
        cells = [percent(row["limit"]), percent(row["warning"] * row["limit"]), percent(row["worst"])]
        cells += [f"{row['warned']:,}", f"{row['breached']:,}", str(row["first_breach"] or MISSING)]
        if learned:
            cells.append(f"{sum(step.get(f'monitor_{name}_breached') or 0 for step in training):,.0f}")
        cells += [percent(of[other][name]["worst"]) for other in others]
        tone = ' class="breached"' if row["breached"] else ""
        text = "".join(f"<td>{escaped(cell)}</td>" for cell in cells)
        rows.append(f'<tr{tone}><th scope="row">{escaped(name)}{" (stops)" if row["stop"] else ""}</th>{text}</tr>')
    columns = "".join(f'<th scope="col">{escaped(name)}</th>' for name in head)
    table = f'<table class="compact"><thead><tr><th></th>{columns}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    note = (
        "Levels at the close of every bar, fractions of equity; volatility is per year. Bars warned include those "
        "breached. Baselines are watched and never stopped."
    )
    end = f"<p>{escaped(stop_sentence(stopped))}</p>" if stopped else ""
    return f'{end}<div class="scroll">{table}</div><p class="caption">{note}</p>'
