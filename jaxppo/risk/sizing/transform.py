"""Composition of sizing transforms, which turn the targets of a decision into the sizes that are traded.

The environment applies the sizing between the decision and the masks, so that what the masks forbid stays forbidden, in
training, evaluation and backtest alike. Everything is written for one account and one market; `vmap` over accounts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.arguments import ProperFraction, checked
from jaxppo.envs.execution.costs import Costs
from jaxppo.envs.execution.portfolio import Portfolio, expected_weights
from jaxppo.envs.trading.transform import SizingTransform, longest_warmup, stateless, table_all
from jaxppo.envs.trading.view import MarketView

UNCHANGED = 1e-5
"""Relative difference up to which the size of a held position counts as the position."""


class Sizing(NamedTuple):
    """Sizing transforms in order, with a memory of the last decision; what `TradingEnv` takes as `sizing`.

    Attributes:
      table: `MarketView -> pytree` with leading axis T.
      init: `n_assets -> SizingState`.
      pre_sizing_targets: `(state, portfolio) -> [A]`, the targets of which the present positions are the sizes: holding
        an asset keeps its pre-sizing target.
      apply: `(state, row, portfolio, weights [A], hold [A]) -> (sizes [A], state)`. Assets that are held come with
        their present weight, outstanding orders filled; where it comes back the asset is not traded.
      parts: the transforms.
      warmup: bars of history before the rows of the table are formed, >= 0.
      base: what decisions are tilts around; None where they are targets.
    """

    table: Callable[[MarketView], Any]
    init: Callable[[int], SizingState]
    pre_sizing_targets: Callable[[SizingState, Portfolio], jax.Array]
    apply: Callable[[SizingState, Any, Portfolio, jax.Array, jax.Array], tuple[jax.Array, SizingState]]
    parts: tuple[Any, ...]
    warmup: int = 0
    base: Base | None = None


class Base(NamedTuple):
    """What the decisions of a policy are tilts around, from the state of the sizing.

    Attributes:
      weights: `(state, portfolio) -> [A]` weights of the base at the present marks, fractions of its equity.
      settle: `(state, next bar, costs) -> (state, [])`: the base through the bar in which its orders fill, and its log
        return.
    """

    weights: Callable[[Any, Portfolio], jax.Array]
    settle: Callable[[Any, jax.Array, Costs], tuple[Any, jax.Array]]


class SizingState(struct.PyTreeNode):
    """State of a sizing: the last decision.

    Attributes:
      target: `[A]` decided weights.
      size: `[A]` sizes that the transforms made of them.
      price: `[A]` marks at the decision.
      equity: `[]` equity at the decision.
      parts: states of the transforms.
    """

    target: jax.Array
    size: jax.Array
    price: jax.Array
    equity: jax.Array
    parts: tuple[Any, ...]


def chain(*transforms: SizingTransform) -> Sizing:
    """Applies sizing transforms in order; those that scale come before those that cap.

    Holding an asset keeps its pre-sizing target, which moves with its price. The part of a size that was not filled, or
    was forbidden, has no such target; a position that the last decision did not lead to is its own.

    Example:
      >>> from jaxppo.risk import sizing
      >>> scaled = sizing.chain(sizing.volatility_target(0.1), sizing.projection(weight=0.5))
      >>> [part.name for part in scaled.parts], scaled.warmup
      (['volatility_target', 'projection'], 63)

    Args:
      *transforms: each sizes what the ones before it leave.
    """

    def init(n_assets: int) -> SizingState:
        zeros, ones = jnp.zeros(n_assets), jnp.ones(n_assets)
        return SizingState(
            zeros, zeros, ones, jnp.ones(()), tuple(transform.init(n_assets) for transform in transforms)
        )

    def pre_sizing_targets(state: SizingState, portfolio: Portfolio) -> jax.Array:
        present = expected_weights(portfolio)
        equity = jnp.where(portfolio.equity > 0, portfolio.equity, 1.0)
        moved = portfolio.price / state.price * (state.equity / equity)
        # A position on the other side than its last size came from elsewhere: it is its own target.
        led = present * state.size > 0
        filled = jnp.clip(present / jnp.where(led, state.size * moved, 1.0), 0.0, 1.0)
        nothing_to_fill = (present == 0) & (state.size == 0)
        return jnp.where(led, state.target * moved * filled, jnp.where(nothing_to_fill, state.target, present))

    def apply(
        state: SizingState, row: Any, portfolio: Portfolio, weights: jax.Array, hold: jax.Array
    ) -> tuple[jax.Array, SizingState]:
        targets = jnp.where(hold, pre_sizing_targets(state, portfolio), weights)
        sizes, states = through(transforms, state.parts, row, portfolio, targets)
        # A held asset whose size comes back as its position, but for rounding, must not be traded for the rounding.
        same = jnp.abs(sizes - weights) <= UNCHANGED * jnp.abs(weights)
        equity = jnp.where(portfolio.equity > 0, portfolio.equity, 1.0)
        remembered = SizingState(targets, sizes, portfolio.price, equity, states)
        return jnp.where(hold & same, weights, sizes), remembered

    table, warmup = table_all(transforms), longest_warmup(transforms)
    return Sizing(table, init, pre_sizing_targets, apply, transforms, warmup)


def through(
    transforms: Sequence[SizingTransform],
    states: Sequence[Any],
    rows: Sequence[Any],
    portfolio: Portfolio,
    x: jax.Array,
) -> tuple[jax.Array, tuple[Any, ...]]:
    """What transforms make of targets in order, `[A]`, and their next states.

    Args:
      transforms: in order.
      states: one each.
      rows: of their tables.
      portfolio: the account.
      x: `[A]` targets, fractions of equity.
    """
    found = []
    for transform, state, row in zip(transforms, states, rows, strict=True):
        x, state = transform.apply(state, row, portfolio, x)
        found.append(state)
    return x, tuple(found)


class ScaleState(struct.PyTreeNode):
    """State of a transform that scales.

    Attributes:
      factor: `[A]` by which each target was last multiplied; 0 before.
      inner: state of what computes the factors.
    """

    factor: jax.Array
    inner: Any


@checked
def scaling(
    name: str,
    table: Callable[[MarketView], Any],
    factor: Callable[[Any, Any, Portfolio, jax.Array], tuple[jax.Array, Any]],
    init: Callable[[int], Any] = stateless,
    *,
    warmup: int = 0,
    tolerance: ProperFraction = 0.0,
    cap: float = jnp.inf,
) -> SizingTransform:
    """Makes a transform that multiplies every target by a factor.

    Args:
      name: of the transform.
      table: `MarketView -> pytree` with leading axis T.
      factor: `(state, row, portfolio, targets [A]) -> (factors [A], state)`.
      init: `n_assets -> state` of what computes the factors.
      warmup: bars of history before the rows of the table are formed, >= 0.
      tolerance: relative change of a factor that is not traded: up to it the last factor stays.
      cap: gross exposure beyond which the last factors do not stay.
    """

    def start(n_assets: int) -> ScaleState:
        return ScaleState(jnp.zeros(n_assets), init(n_assets))

    def apply(state: ScaleState, row: Any, portfolio: Portfolio, targets: jax.Array) -> tuple[jax.Array, ScaleState]:
        wanted, inner = factor(state.inner, row, portfolio, targets)
        last = state.factor
        # The factor follows a forecast that moves a little with every bar: trading each move would cost more than it
        # corrects. But a factor that stays must not carry the account beyond its cap when targets have grown.
        near = jnp.abs(wanted - last) <= tolerance * jnp.abs(last)
        capped = jnp.sum(jnp.abs(last * targets)) <= cap * (1.0 + UNCHANGED)
        now = jnp.where(near & capped, last, wanted)
        return now * targets, ScaleState(now, inner)

    return SizingTransform(name, apply, start, table, warmup)
