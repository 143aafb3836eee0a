"""Keys of the masks in a configuration: the arguments of the factories in `jaxppo.masks`."""

from __future__ import annotations

from pydantic import Field

from jaxppo import masks
from jaxppo.arguments import Ratio, Text
from jaxppo.config.from_signature import key_of, keys_of
from jaxppo.config.items import Item, Keys


class RegimeKeys(Keys):
    """Limits the side and size of positions in each regime: [smallest, largest] weight in units of
    `env.position_limit`."""

    bull: tuple[Ratio, Ratio] | None = None
    """In a bull market; absent: no limit."""
    bear: tuple[Ratio, Ratio] | None = None
    """In a bear market."""
    sideways: tuple[Ratio, Ratio] | None = None
    """In a sideways market."""
    crisis: tuple[Ratio, Ratio] | None = None
    """In a crisis."""
    force: bool = key_of(masks.regime, "force")


class MaskConfig(
    Item,
    kinds={
        "volatility_cap": keys_of(masks.volatility_cap),
        "regime": RegimeKeys,
        "risk_budget": keys_of(masks.risk_budget),
        "session": keys_of(
            masks.session,
            calendar=(Text | None, Field(None, description="exchange_calendars name; absent: `data.calendar`.")),
        ),
        "liquidity": keys_of(masks.liquidity),
        "turnover": keys_of(masks.turnover),
        "holding_period": keys_of(masks.holding_period),
        "halt": keys_of(masks.halt),
        "no_short": keys_of(masks.no_short),
    },
):
    """One mask: a name and its keys."""
