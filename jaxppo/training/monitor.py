"""What ends a training iteration badly: breached limits on monitored metrics, and figures that are not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxppo.config import ConfigError
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


def not_finite(row: Mapping[str, float]) -> str | None:
    """The first figure of a row that is not finite, as `name is value`; None where all are finite."""
    return next((f"{name} is {value}" for name, value in row.items() if not math.isfinite(value)), None)


def divergence(where: str, figure: str, learning_rate: float) -> ConfigError:
    """Makes the error that ends a diverged training.

    Args:
      where: fold, seed and iteration, as far as there are several.
      figure: from `not_finite`.
      learning_rate: of the run.
    """
    return ConfigError(
        f"training diverged in {where}: {figure}; ppo.learning_rate is {learning_rate:g}, try a smaller one"
    )
