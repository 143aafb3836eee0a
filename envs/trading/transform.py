"""The protocol of masks, sizing and rewards: what a trading environment lets others decide of a bar.

In the manner of optax: a factory with static hyper-parameters returns a `Transform` of pure functions, and a `chain` of
them threads their states. Everything is written for one account and one market; `vmap` over accounts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, NamedTuple, TypeVar

import jax

from jaxppo.envs.execution.limits import Limits
from jaxppo.envs.execution.portfolio import Portfolio
from jaxppo.envs.trading.types import Outcome
from jaxppo.envs.trading.view import MarketView

Apply = TypeVar("Apply", bound=Callable[..., tuple[Any, Any]])


def stateless(n_assets: int = 1) -> tuple[()]:
    """The state of a transform that remembers nothing."""
    del n_assets
    return ()


def no_table(view: MarketView) -> tuple[()]:
    """The table of a transform that reads nothing of the market."""
    del view
    return ()


class Transform(NamedTuple, Generic[Apply]):
    """One mask, sizing or reward as pure functions.

    Attributes:
      name: for statistics and messages.
      apply: `(state, ...) -> (value, state)` at the close of a bar; see `MaskTransform`, `SizingTransform`,
        `RewardTransform` for what each reads and returns.
      init: `n_assets -> state` of one account at the start of an episode, a pytree of arrays.
      table: `MarketView -> pytree` with leading axis T: what depends on the market alone, computed once. Row t may use
        bars <= t only.
      warmup: bars of history before the rows of the table are formed, >= 0.
      parts: the transforms of a chain, in order; empty for a single one.
      replaces: whether a reward transform drops the reward that came before it.
    """

    name: str
    apply: Apply
    init: Callable[..., Any] = stateless
    table: Callable[[MarketView], Any] = no_table
    warmup: int = 0
    parts: tuple[Any, ...] = ()
    replaces: bool = False


MaskTransform = Transform[Callable[[Any, Any, Portfolio], tuple[Limits, Any]]]
"""Limits positions: `apply(state, row, portfolio) -> (Limits, state)`, with the row of its table."""
SizingTransform = Transform[Callable[[Any, Any, Portfolio, jax.Array], tuple[jax.Array, Any]]]
"""Resizes targets: `apply(state, row, portfolio, targets [A]) -> (sizes [A], state)`, both fractions of equity. Assets
that are held come with their pre-sizing target."""
RewardTransform = Transform[Callable[[Any, jax.Array, Outcome], tuple[jax.Array, Any]]]
"""Shapes rewards: `apply(state, reward [], outcome) -> (reward [], state)`; it reads no table."""


def init_all(transforms: Iterable[Transform]) -> Callable[..., tuple[Any, ...]]:
    """The `init` of a chain: the states of its transforms."""
    transforms = tuple(transforms)
    return lambda n_assets=1: tuple(transform.init(n_assets) for transform in transforms)


def table_all(transforms: Iterable[Transform]) -> Callable[[MarketView], tuple[Any, ...]]:
    """The `table` of a chain: the tables of its transforms."""
    transforms = tuple(transforms)
    return lambda view: tuple(transform.table(view) for transform in transforms)


def longest_warmup(transforms: Iterable[Transform]) -> int:
    """The `warmup` of a chain, in bars."""
    return max((transform.warmup for transform in transforms), default=0)
