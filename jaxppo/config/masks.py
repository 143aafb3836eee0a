"""Keys of the masks in a configuration: the arguments of the factories in `jaxppo.masks`."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from jaxppo import masks
from jaxppo.arguments import Ratio, Text
from jaxppo.config.from_signature import key_of, keys_of
from jaxppo.config.items import Item, Keys, OwnFunction


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


class OwnMask(OwnFunction):
    """A mask of your own: `module:function` returns a `jaxppo.masks.MaskTransform`; its keys are the arguments of the
    function."""


class MaskConfig(
    Item,
    own=OwnMask,
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


def check_masks(items: Sequence[MaskConfig], environment: str) -> None:
    """Refuses masks that limit nothing, or are there already.

    Args:
      items: the list.
      environment: `env.name`.

    Raises:
      ValueError: masks outside trading, or two of one kind.
    """
    if items and environment != "trading":
        raise ValueError(f"masks limit positions in trading, but env.name is {environment!r}; leave them out")
    kinds = [item.label for item in items]
    for number, kind in enumerate(kinds):
        if kind in kinds[:number]:
            raise ValueError(f"masks[{number}] names {kind}, which masks[{kinds.index(kind)}] has; give it once")
