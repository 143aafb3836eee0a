"""Sizing transforms: pure functions that turn the targets of a decision into the sizes that are traded.

In the manner of optax: a factory with static hyper-parameters returns a `SizingTransform`; `chain` makes a `Sizing` of
one or several, in order. Everything is written for one account and one market; `vmap` over accounts. The environment
applies the sizing between the decision and the masks, so that what the masks forbid stays forbidden, in training,
evaluation and backtest alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.envs.execution.portfolio import Portfolio, expected_weights
from jaxppo.envs.trading.view import MarketView

UNCHANGED = 1e-5
"""Relative difference up to which the size of a held position counts as the position."""


class SizingTransform(NamedTuple):
    """One step from targets to sizes as pure functions; `chain` makes a `Sizing` of it.

    Attributes:
      name: for statistics and messages.
      table: `MarketView -> pytree` with leading axis T: what depends on the market alone, computed once. Row t may use
        bars <= t only.
      init: `n_assets -> state` of one account at the start of an episode, a pytree of arrays.
      apply: `(state, row, portfolio, targets [A]) -> (sizes [A], state)` at the close of a bar; both are fractions of
        equity. Assets that are held come with the target behind their position.
    """

    name: str
    table: Callable[[MarketView], Any]
    init: Callable[[int], Any]
    apply: Callable[[Any, Any, Portfolio, jax.Array], tuple[jax.Array, Any]]


class Sizing(NamedTuple):
    """What `TradingEnv` takes as `sizing`: transforms in order, and the memory of what was decided.

    Attributes:
      table: `MarketView -> pytree` with leading axis T.
      init: `n_assets -> SizingState`.
      pre_sizing_targets: `(state, portfolio) -> [A]`, the targets behind the present positions: what holding stands for.
      apply: `(state, row, portfolio, weights [A], hold [A]) -> (sizes [A], state)`. Assets that are held come with
        their present weight, outstanding orders filled; where it comes back the asset is not traded.
      parts: the transforms.
    """

    table: Callable[[MarketView], Any]
    init: Callable[[int], SizingState]
    pre_sizing_targets: Callable[[SizingState, Portfolio], jax.Array]
    apply: Callable[[SizingState, Any, Portfolio, jax.Array, jax.Array], tuple[jax.Array, SizingState]]
    parts: tuple[SizingTransform, ...]


@struct.dataclass
class SizingState:
    """What is remembered of the last decision.

    Attributes:
      target: `[A]` decided weights.
      size: `[A]` what the transforms made of them.
      price: `[A]` marks then.
      equity: `[]` then.
      parts: states of the transforms.
    """

    target: jax.Array
    size: jax.Array
    price: jax.Array
    equity: jax.Array
    parts: tuple[Any, ...]


def chain(*transforms: SizingTransform) -> Sizing:
    """Each transform sizes what the ones before it leave; those that scale come before those that cap.

    Holding an asset keeps the target behind its position, which moves with its price. What was not filled, or was
    forbidden, has no target behind it; a position that the last decision did not lead to is its own target.
    """

    def table(view: MarketView) -> Any:
        return tuple(transform.table(view) for transform in transforms)

    def init(n_assets: int) -> SizingState:
        zeros, ones = jnp.zeros(n_assets), jnp.ones(n_assets)
        return SizingState(
            zeros, zeros, ones, jnp.ones(()), tuple(transform.init(n_assets) for transform in transforms)
        )

    def pre_sizing_targets(state: SizingState, portfolio: Portfolio) -> jax.Array:
        present = expected_weights(portfolio)
        equity = jnp.where(portfolio.equity > 0, portfolio.equity, 1.0)
        moved = portfolio.price / state.price * (state.equity / equity)
        led = present * state.size > 0
        filled = jnp.clip(present / jnp.where(led, state.size * moved, 1.0), 0.0, 1.0)
        nothing_to_fill = (present == 0) & (state.size == 0)
        return jnp.where(led, state.target * moved * filled, jnp.where(nothing_to_fill, state.target, present))

    def apply(
        state: SizingState, row: Any, portfolio: Portfolio, weights: jax.Array, hold: jax.Array
    ) -> tuple[jax.Array, SizingState]:
        targets = jnp.where(hold, pre_sizing_targets(state, portfolio), weights)
        sizes, states = targets, []
        for transform, own, part in zip(transforms, state.parts, row, strict=True):
            sizes, after = transform.apply(own, part, portfolio, sizes)
            states.append(after)
        same = jnp.abs(sizes - weights) <= UNCHANGED * jnp.abs(weights)
        equity = jnp.where(portfolio.equity > 0, portfolio.equity, 1.0)
        remembered = SizingState(targets, sizes, portfolio.price, equity, tuple(states))
        return jnp.where(hold & same, weights, sizes), remembered

    return Sizing(table, init, pre_sizing_targets, apply, tuple(transforms))


@struct.dataclass
class ScaleState:
    """What a transform that scales remembers.

    Attributes:
      factor: `[A]` by which each target was last multiplied; 0 before.
      own: whatever else it carries.
    """

    factor: jax.Array
    own: Any


def scaling(
    name: str,
    table: Callable[[MarketView], Any],
    init: Callable[[int], Any],
    factor: Callable[[Any, Any, Portfolio, jax.Array], tuple[jax.Array, Any]],
    *,
    tolerance: float = 0.0,
    cap: float = jnp.inf,
) -> SizingTransform:
    """A transform that multiplies every target by a factor.

    Args:
      name: of the transform.
      table: see `SizingTransform`.
      init: of whatever `factor` carries.
      factor: `(own, row, portfolio, targets [A]) -> (factors [A], own)`.
      tolerance: relative change of a factor, >= 0, up to which the last one is kept, so that small moves of it are not
        traded.
      cap: gross exposure beyond which the last factors are not kept.

    Raises:
      ValueError: a negative tolerance.
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance}; it must be >= 0")

    def start(n_assets: int) -> ScaleState:
        return ScaleState(jnp.zeros(n_assets), init(n_assets))

    def apply(state: ScaleState, row: Any, portfolio: Portfolio, targets: jax.Array) -> tuple[jax.Array, ScaleState]:
        wanted, own = factor(state.own, row, portfolio, targets)
        last = state.factor
        near = jnp.abs(wanted - last) <= tolerance * jnp.abs(last)
        within = jnp.sum(jnp.abs(last * targets)) <= cap * (1.0 + UNCHANGED)
        now = jnp.where(near & within, last, wanted)
        return now * targets, ScaleState(now, own)

    return SizingTransform(name, table, start, apply)
