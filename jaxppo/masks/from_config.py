"""The masks of a configuration."""

from __future__ import annotations

from collections.abc import Sequence

from jaxppo.config.masks import MaskConfig
from jaxppo.masks import account, market
from jaxppo.masks.transform import MaskTransform, chain


def make_masks(configs: Sequence[MaskConfig], names: tuple[str, ...], calendar: str | None) -> MaskTransform | None:
    """The chain of the configured masks, None for none.

    Args:
      configs: in order.
      names: symbols of the market's assets.
      calendar: that of the data, for masks of trading hours that name none.

    Raises:
      ValueError: names the mask that does not fit.
    """
    parts = []
    for number, config in enumerate(configs):
        try:
            parts.append(make_mask(config, names, calendar))
        except ValueError as error:
            raise ValueError(f"masks[{number}].{config.kind}: {error}") from None
    return chain(*parts) if parts else None


def make_mask(config: MaskConfig, names: tuple[str, ...], calendar: str | None) -> MaskTransform:
    """One mask; see `make_masks`."""
    kind, keys = config.kind, dict(config.values)
    if kind == "regime":
        force = keys.pop("force")
        return market.regime({name: sides for name, sides in keys.items() if sides is not None}, force=force)
    if kind == "session":
        chosen = keys.pop("calendar") or calendar
        if chosen is None:
            raise ValueError("calendar is absent; name one here or as data.calendar")
        return market.session(chosen, **keys)
    if kind == "risk_budget":
        groups = {name: (group.symbols, group.limit) for name, group in (keys.pop("groups") or {}).items()}
        return account.risk_budget(**keys, groups=groups, names=names)
    if kind == "halt":
        return market.halt(**keys, names=names)
    factories = {
        "volatility_cap": market.volatility_cap,
        "liquidity": account.liquidity,
        "turnover": account.turnover,
        "holding_period": account.holding_period,
        "no_short": market.no_short,
    }
    return factories[kind](**keys)
