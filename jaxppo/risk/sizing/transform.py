"""Sizing transforms: pure functions that turn the targets of a decision into the sizes that are traded.

In the manner of optax: a factory with static hyper-parameters returns a `SizingTransform`; `chain` composes several, in
order. Everything is written for one account and one market; `vmap` over accounts. The environment applies the transform
between the decision and the masks, so that what the masks forbid stays forbidden, in training, backtest and live alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from envs.portfolio import Portfolio
from jaxppo.masks.transform import MarketView

SMALLEST_FACTOR = 1e-6
"""A position that was sized by less cannot be traced back to the target behind it, and counts as no target."""


class SizingTransform(NamedTuple):
    """Sizes of positions as pure functions.

    Attributes:
      name: for statistics and messages.
      table: `MarketView -> pytree` with leading axis T: what depends on the market alone, computed once. Row t may use
        bars <= t only.
      init: `n_assets -> state` of one account at the start of an episode, a pytree of arrays.
      apply: `(state, row, portfolio, weights [A], hold [A]) -> (weights [A], state)` at the close of a bar. Weights are
        fractions of equity; those of assets that are held come as the present position with outstanding orders filled,
        which earlier bars have sized already. An asset that is held and comes back unchanged is not traded.
      parts: the transforms of a chain, in order; empty for a single one.
    """

    name: str
    table: Callable[[MarketView], Any]
    init: Callable[[int], Any]
    apply: Callable[[Any, Any, Portfolio, jax.Array, jax.Array], tuple[jax.Array, Any]]
    parts: tuple[SizingTransform, ...] = ()


def chain(*transforms: SizingTransform) -> SizingTransform:
    """Each transform sizes what the ones before it leave; those that scale come before those that cap."""

    def table(view: MarketView) -> Any:
        return tuple(transform.table(view) for transform in transforms)

    def init(n_assets: int) -> Any:
        return tuple(transform.init(n_assets) for transform in transforms)

    def apply(state: Any, row: Any, portfolio: Portfolio, weights: jax.Array, hold: jax.Array) -> tuple[jax.Array, Any]:
        states = []
        for transform, own, part in zip(transforms, state, row, strict=True):
            weights, after = transform.apply(own, part, portfolio, weights, hold)
            states.append(after)
        return weights, tuple(states)

    return SizingTransform("chain", table, init, apply, tuple(transforms))


@struct.dataclass
class ScaleState:
    """What a transform that scales remembers.

    Attributes:
      factor: `[A]` by which each target was last multiplied.
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
) -> SizingTransform:
    """A transform that multiplies every target by a factor.

    Holding keeps the target behind a position: it is traded only where the factor has moved since.

    Args:
      name: of the transform.
      table: see `SizingTransform`.
      init: of whatever `factor` carries.
      factor: `(own, row, portfolio, targets [A]) -> (factors [A], own)`.
      tolerance: relative change of a factor, >= 0, up to which the last one is kept, so that small moves of it are not
        traded.
    """

    def start(n_assets: int) -> ScaleState:
        return ScaleState(jnp.ones(n_assets), init(n_assets))

    def apply(
        state: ScaleState, row: Any, portfolio: Portfolio, weights: jax.Array, hold: jax.Array
    ) -> tuple[jax.Array, ScaleState]:
        last = state.factor
        known = jnp.abs(last) > SMALLEST_FACTOR
        behind = jnp.where(known, weights / jnp.where(known, last, 1.0), 0.0)
        targets = jnp.where(hold, behind, weights)
        wanted, own = factor(state.own, row, portfolio, targets)
        now = jnp.where(jnp.abs(wanted - last) <= tolerance * jnp.abs(last), last, wanted)
        sized = jnp.where(hold & (now == last), weights, now * targets)
        return sized, ScaleState(now, own)

    return SizingTransform(name, table, start, apply)
