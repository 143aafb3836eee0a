"""Mask transforms: pure functions that limit what one account may hold, and their composition.

In the manner of optax: a factory with static hyper-parameters returns a `MaskTransform`; `chain` composes several.
Everything is written for one account and one market; `vmap` over accounts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxppo.envs.execution.limits import Limits, intersection, no_limits
from jaxppo.envs.execution.portfolio import Portfolio
from jaxppo.envs.trading.view import MarketView


class MaskTransform(NamedTuple):
    """Limits of positions as pure functions.

    Attributes:
      name: for statistics and messages.
      table: `MarketView -> pytree` with leading axis T: what depends on the market alone, computed once. Row t may use
        bars <= t only.
      init: `n_assets -> state` of one account at the start of an episode, a pytree of arrays.
      apply: `(state, row, portfolio) -> (Limits, state)` at the close of a bar: `row` of the table, the account then.
      parts: the transforms of a chain, in order; empty for a single one.
    """

    name: str
    table: Callable[[MarketView], Any]
    init: Callable[[int], Any]
    apply: Callable[[Any, Any, Portfolio], tuple[Limits, Any]]
    parts: tuple[MaskTransform, ...] = ()


def market_only(name: str, table: Callable[[MarketView], Any], limits: Callable[[Any], Limits]) -> MaskTransform:
    """A transform without state, whose limits depend on the row of its table alone."""
    return MaskTransform(name, table, lambda n_assets: (), lambda state, row, portfolio: (limits(row), state))


def chain(*transforms: MaskTransform) -> MaskTransform:
    """What all transforms allow; their order does not matter."""

    def table(view: MarketView) -> Any:
        return tuple(transform.table(view) for transform in transforms)

    def init(n_assets: int) -> Any:
        return tuple(transform.init(n_assets) for transform in transforms)

    def apply(state: Any, row: Any, portfolio: Portfolio) -> tuple[Limits, Any]:
        each, states = apply_each(transforms, state, row, portfolio)
        limits = no_limits(portfolio.shares.shape[0])
        for one in each:
            limits = intersection(limits, one)
        return limits, states

    return MaskTransform("chain", table, init, apply, tuple(transforms))


def apply_each(
    transforms: tuple[MaskTransform, ...], state: Any, row: Any, portfolio: Portfolio
) -> tuple[tuple[Limits, ...], Any]:
    """The limits of each transform of a chain by itself, and the chain's next state."""
    results = [
        transform.apply(own, part, portfolio) for transform, own, part in zip(transforms, state, row, strict=True)
    ]
    return tuple(limits for limits, _ in results), tuple(after for _, after in results)
