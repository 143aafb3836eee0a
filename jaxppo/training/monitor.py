"""What watched limits say of one training iteration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxppo.risk.monitor import Monitor


def breached_in(monitor: Monitor, row: Mapping[str, float]) -> str:
    """The limits that training accounts breached in an iteration, how often and how far; empty for none.

    Args:
      monitor: the limits.
      row: metrics of the iteration.
    """
    counts = {limit.name: row[f"monitor_{limit.name}_breached"] for limit in monitor.limits}
    return " ".join(
        f"{name} {count:,.0f}x (worst {row[f'monitor_{name}_worst']:.3g})" for name, count in counts.items() if count
    )


def stop_in(monitor: Monitor, row: Mapping[str, float]) -> dict[str, Any] | None:
    """The first limit that says `stop` and was breached in an iteration, as JSON; None for none.

    Args:
      monitor: the limits.
      row: metrics of the iteration.
    """
    for limit in monitor.limits:
        if limit.stop and row[f"monitor_{limit.name}_breached"]:
            return {"limit": limit.name, "allowed": limit.limit, "level": row[f"monitor_{limit.name}_worst"]}
    return None


def still_stops(monitor: Monitor, stopped: Mapping[str, Any]) -> bool:
    """Whether what `stop_in` found earlier ends training under these limits too."""
    level = np.float32(stopped["level"])
    return any(limit.stop and limit.name == stopped["limit"] and limit.breached(level) for limit in monitor.limits)


def stop_message(stopped: Mapping[str, Any], best: int) -> str:
    """One line on what ended training, and on what is evaluated instead: the checkpoint of iteration `best`."""
    return (
        f"stopped by the monitor after iteration {stopped['iteration']}: {stopped['limit']} reached "
        f"{stopped['level']:.4g} where at most {stopped['allowed']:g} is allowed; evaluating iteration {best}"
    )
