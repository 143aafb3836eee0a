"""Monitored limits over a period: figures for the summary, sentences, and their section of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxppo.report.formatting import MISSING, escaped, percent
from jaxppo.report.markup import caption, row, table
from jaxppo.risk.monitor import Monitor

Figures = Mapping[str, Mapping[str, Any]]


def monitored_figures(monitor: Monitor, metrics: Mapping[str, np.ndarray], closes: Sequence[Any]) -> dict[str, Any]:
    """Summarises monitored metrics over n bars, ready for JSON.

    Args:
      monitor: the limits.
      metrics: limit -> `[n]` monitored metric after each bar.
      closes: n names of the closes of the bars.

    Returns:
      limit -> `limit`, `warning`, `stop`, `worst`, bars `warned` and `breached`, and the close of the `first_breach`.
    """
    found = {}
    for limit in monitor.limits:
        level = np.asarray(metrics[limit.name])
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


def stopped_by(monitor: Monitor, metrics: Mapping[str, np.ndarray], closes: Sequence[Any]) -> dict[str, Any] | None:
    """Finds the first breach of a limit that says `stop`.

    Args:
      monitor: the limits.
      metrics: limit -> `[n]` monitored metric after each bar.
      closes: n names of the closes of the bars.

    Returns:
      `limit`, what is `allowed`, the `level` that was reached, and the close it was reached `at`; None without one.
    """
    first = None
    for limit in monitor.limits:
        level = np.asarray(metrics[limit.name])
        breached = limit.breached(level)
        bar = int(breached.argmax())
        if limit.stop and breached[bar] and (first is None or bar < first[0]):
            first = (bar, {"limit": limit.name, "allowed": limit.limit, "level": float(level[bar]), "at": closes[bar]})
    return None if first is None else first[1]


def breaches(figures: Figures, n_bars: int) -> tuple[str, ...]:
    """A sentence for every limit that was breached.

    Args:
      figures: from `monitored_figures`.
      n_bars: of the period.
    """
    return tuple(
        f"Beyond a monitored limit: {name} exceeded {percent(of['limit'])} at {of['breached']} of {n_bars} closes, "
        f"first {of['first_breach']}; the worst was {percent(of['worst'])}."
        for name, of in figures.items()
        if of["breached"]
    )


def stop_sentence(stopped: Mapping[str, Any]) -> str:
    """A sentence on a stop, from `stopped_by`."""
    return (
        f"The agent was stopped at {stopped['at']}: {stopped['limit']} reached {percent(stopped['level'])}, where at "
        f"most {percent(stopped['allowed'])} is allowed. Its positions were closed; it stays out of the market."
    )


def one_line(figures: Figures, stopped: Mapping[str, Any] | None) -> str:
    """Every limit with its worst level and breaches, and the stop, in a line of text.

    Args:
      figures: from `monitored_figures`.
      stopped: from `stopped_by`.
    """
    parts = []
    for name, of in figures.items():
        beyond = f", breached {of['breached']}x since {of['first_breach']}" if of["breached"] else ""
        parts.append(f"{name} {of['worst']:.1%} of {of['limit']:.1%}{beyond}")
    stop = f"; stopped by {stopped['limit']} at {stopped['at']}" if stopped else ""
    return f"monitored limits: {'; '.join(parts)}{stop}"


def section(
    strategies: Mapping[str, Figures], stopped: Mapping[str, Any] | None, training: Sequence[Mapping[str, Any]]
) -> str:
    """The section of the report as HTML; nothing where no limits were monitored.

    Args:
      strategies: strategy -> limit -> figures; the agent first.
      stopped: the breach that stopped the agent, see `stopped_by`.
      training: rows of `metrics.jsonl`.
    """
    if not any(strategies.values()):
        return ""
    agent, *others = strategies
    learned = any(f"monitor_{name}_breached" in step for name in strategies[agent] for step in training)
    head = ["", "Limit", "Warning beyond", "Worst", "Bars warned", "Bars breached", "First breach"]
    head += ["Training steps breached"] * learned + [f"Worst of {name}" for name in others]
    rows = []
    for name, of in strategies[agent].items():
        cells = [percent(of["limit"]), percent(of["warning"] * of["limit"]), percent(of["worst"])]
        cells += [f"{of['warned']:,}", f"{of['breached']:,}", str(of["first_breach"] or MISSING)]
        if learned:
            cells.append(f"{sum(step.get(f'monitor_{name}_breached') or 0 for step in training):,.0f}")
        cells += [percent(strategies[other][name]["worst"]) for other in others]
        label = escaped(f"{name} (stops)" if of["stop"] else name)
        rows.append(row(map(escaped, cells), label, style="breached" if of["breached"] else ""))
    note = (
        "Levels at the close of every bar, fractions of equity; volatility is per year. Bars warned include those "
        "breached. Baselines are monitored and never stopped."
    )
    end = f"<p>{escaped(stop_sentence(stopped))}</p>" if stopped else ""
    return end + table([escaped(name) for name in head], rows) + caption(note)
