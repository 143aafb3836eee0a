"""The rewards and the watched limits of a configuration."""

from __future__ import annotations

from collections.abc import Sequence

from jaxppo.config.monitor import MonitorConfig
from jaxppo.config.rewards import RewardConfig
from jaxppo.risk import monitor, rewards


def make_rewards(configs: Sequence[RewardConfig], periods: float) -> rewards.RewardTransform | None:
    """The chain of the configured reward transforms, None for none.

    Args:
      configs: in order.
      periods: bars per year.
    """
    parts = []
    for config in configs:
        keys = dict(config.values)
        if "volatility" in keys:
            keys["volatility"] /= periods**0.5
        parts.append(getattr(rewards, config.kind)(**keys))
    return rewards.chain(*parts) if parts else None


def make_monitor(configs: Sequence[MonitorConfig], periods: float) -> monitor.Monitor:
    """The configured limits.

    Args:
      configs: in order.
      periods: bars per year.
    """
    annual = {"volatility": {"periods": periods}}
    limits = (getattr(monitor, config.kind)(**dict(config.values), **annual.get(config.kind, {})) for config in configs)
    return monitor.Monitor(tuple(limits))
