"""Composition of mask transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxppo.envs.execution.limits import Limits, intersection, no_limits
from jaxppo.envs.execution.portfolio import Portfolio
from jaxppo.envs.trading.transform import MaskTransform, init_all, longest_warmup, table_all
from jaxppo.envs.trading.view import MarketView


def market_only(
    name: str, table: Callable[[MarketView], Any], limits: Callable[[Any], Limits], *, warmup: int = 0
) -> MaskTransform:
    """A mask without state, whose limits depend on the market alone.

    Args:
      name: of the mask.
      table: `MarketView -> pytree` with leading axis T.
      limits: `row -> Limits`, of a row of the table.
      warmup: bars of history before its rows are formed, >= 0.
    """
    return MaskTransform(name, lambda state, row, portfolio: (limits(row), state), table=table, warmup=warmup)


def chain(*transforms: MaskTransform) -> MaskTransform:
    """Allows what all masks allow; their order does not matter.

    Example:
      >>> from jaxppo import masks
      >>> limits = masks.chain(masks.no_short(), masks.volatility_cap(0.15, span=42))
      >>> [part.name for part in limits.parts], limits.warmup
      (['no_short', 'volatility_cap'], 42)

    Args:
      *transforms: the masks; none allow everything.
    """

    def apply(state: Any, row: Any, portfolio: Portfolio) -> tuple[Limits, Any]:
        each, states = apply_each(transforms, state, row, portfolio)
        limits = no_limits(portfolio.shares.shape[0])
        for one in each:
            limits = intersection(limits, one)
        return limits, states

    return MaskTransform(
        "chain", apply, init_all(transforms), table_all(transforms), longest_warmup(transforms), transforms
    )


def apply_each(
    transforms: tuple[MaskTransform, ...], state: Any, row: Any, portfolio: Portfolio
) -> tuple[tuple[Limits, ...], Any]:
    """Limits of each mask of a chain by itself, and the chain's next state.

    Args:
      transforms: the masks.
      state: of the chain.
      row: of its table.
      portfolio: of the account at the close.
    """
    results = [
        transform.apply(before, part, portfolio) for transform, before, part in zip(transforms, state, row, strict=True)
    ]
    return tuple(limits for limits, _ in results), tuple(after for _, after in results)
