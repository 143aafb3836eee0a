"""Keys of the monitored limits in a configuration: the arguments of the factories in `jaxppo.risk.monitor`."""

from __future__ import annotations

from collections.abc import Sequence

from jaxppo.config.from_signature import keys_of
from jaxppo.config.items import Item
from jaxppo.risk import monitor

METRICS = ("drawdown", "leverage", "net", "concentration", "turnover", "loss", "volatility")


class MonitorConfig(Item, kinds={name: keys_of(getattr(monitor, name)) for name in METRICS}):
    """One monitored limit: a name and its keys."""


def check_monitor(items: Sequence[MonitorConfig], environment: str) -> None:
    """Refuses limits that cannot be monitored.

    Args:
      items: the list.
      environment: `env.name`.

    Raises:
      ValueError: limits outside trading, or two of one metric.
    """
    if items and environment != "trading":
        raise ValueError(f"monitor watches limits of trading, but env.name is {environment!r}; leave it out")
    kinds = [item.kind for item in items]
    for number, kind in enumerate(kinds):
        if kind in kinds[:number]:
            raise ValueError(f"monitor[{number}] names {kind}, which monitor[{kinds.index(kind)}] has; watch it once")
