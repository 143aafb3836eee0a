"""Keys of the limits that a configuration can watch; see `jaxppo.risk.monitor`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from jaxppo.config.items import Item, Keys

PositiveFloat = Annotated[float, Field(gt=0.0, le=1e6)]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]


class _Watched(Keys):
    """What every watched limit has."""

    warning: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8
    """Share of the limit beyond which a level is worth a warning."""
    stop: bool = False
    """Whether a breach ends a training run, and in an evaluation closes all positions for good."""


class DrawdownLimit(_Watched):
    """Share of the highest equity so far that is lost at the close of a bar."""

    limit: Share
    """Largest level that is no breach."""


class LeverageLimit(_Watched):
    """Gross exposure at the close."""

    limit: PositiveFloat
    """Largest level that is no breach, fraction of equity."""


class NetLimit(_Watched):
    """Absolute net exposure at the close."""

    limit: PositiveFloat
    """Largest level that is no breach, fraction of equity."""


class ConcentrationLimit(_Watched):
    """Largest absolute weight at the close."""

    limit: PositiveFloat
    """Largest level that is no breach, fraction of equity."""


class TurnoverLimit(_Watched):
    """Notional traded in one bar."""

    limit: PositiveFloat
    """Largest level that is no breach, fraction of equity."""


class LossLimit(_Watched):
    """Equity lost in one bar."""

    limit: Share
    """Largest level that is no breach, fraction of the equity before the bar."""


class VolatilityLimit(_Watched):
    """Volatility of the account, an exponential moving estimate."""

    limit: PositiveFloat
    """Largest level that is no breach, per year, fraction of equity."""
    span: Annotated[int, Field(ge=1, le=2**20)] = 21
    """Bars of the estimate."""


class MonitorConfig(Item):
    """One watched limit: a name and its keys."""

    drawdown: DrawdownLimit | None = None
    leverage: LeverageLimit | None = None
    net: NetLimit | None = None
    concentration: ConcentrationLimit | None = None
    turnover: TurnoverLimit | None = None
    loss: LossLimit | None = None
    volatility: VolatilityLimit | None = None


def check_monitor(monitor: Sequence[MonitorConfig], environment: str) -> None:
    """A ValueError if the list of limits cannot be watched in the environment `env.name`."""
    if monitor and environment != "trading":
        raise ValueError(f"monitor watches limits of trading, but env.name is {environment!r}; leave it out")
    kinds = [item.kind for item in monitor]
    for number, kind in enumerate(kinds):
        if kind in kinds[:number]:
            raise ValueError(f"monitor[{number}] names {kind}, which monitor[{kinds.index(kind)}] has; watch it once")
