"""Limits on monitored metrics in training: what was breached, and whether that ends it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxppo.risk.monitor import Monitor


def breached_in(monitor: Monitor, row: Mapping[str, float]) -> str:
    """Describes the limits that training accounts breached in an iteration, how often and how far; empty for none.

    Args:
      monitor: the limits.
      row: metrics of the iteration.
    """
    counts = {limit.name: row[f"monitor_{limit.name}_breached"] for limit in monitor.limits}
    return " ".join(
        f"{name} {count:,.0f}x (worst {row[f'monitor_{name}_worst']:.3g})" for name, count in counts.items() if count
    )


def stop_in(monitor: Monitor, row: Mapping[str, float]) -> dict[str, Any] | None:
    """Finds the first limit that says `stop` and was breached in an iteration, as JSON; None for none.

    Args:
      monitor: the limits.
      row: metrics of the iteration.
    """
    for limit in monitor.limits:
        if limit.stop and row[f"monitor_{limit.name}_breached"]:
            return {"limit": limit.name, "allowed": limit.limit, "level": row[f"monitor_{limit.name}_worst"]}
    return None


def stopping_metrics(monitor: Monitor) -> tuple[str, ...]:
    """Metrics of an iteration that end training where they are above 0: see `stop_in`."""
    return tuple(f"monitor_{limit.name}_breached" for limit in monitor.limits if limit.stop)


def still_stops(monitor: Monitor, stopped: Mapping[str, Any]) -> bool:
    """Whether a breach that `stop_in` found earlier ends training under the present limits too.

    Args:
      monitor: the present limits.
      stopped: from `stop_in`.
    """
    level = np.float32(stopped["level"])
    return any(limit.stop and limit.name == stopped["limit"] and limit.breached(level) for limit in monitor.limits)


def stop_message(stopped: Mapping[str, Any]) -> str:
    """The breach that ended training, in a line; takes what `stop_in` found, with its `iteration`."""
    return (
        f"stopped by the monitor after iteration {stopped['iteration']}: {stopped['limit']} reached "
        f"{stopped['level']:.4g} where at most {stopped['allowed']:g} is allowed"
    )
