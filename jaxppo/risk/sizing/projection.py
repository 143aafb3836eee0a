"""Projection of target weights onto limits of leverage, single weights and concentration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxppo.arguments import PositiveRatio, checked
from jaxppo.envs.execution.portfolio import Portfolio, expected_weights
from jaxppo.envs.trading.transform import SizingTransform
from jaxppo.envs.trading.view import MarketView

HALVINGS = 40
"""Steps of each bisection: more than float32 resolves."""


@checked
def projection(
    *,
    leverage: PositiveRatio | None = None,
    weight: PositiveRatio | None = None,
    concentration: PositiveRatio | None = None,
) -> SizingTransform:
    """Projects targets onto the nearest weights within limits, fractions of equity; None leaves one out.

    Distance is Euclidean. Assets without a bar keep their position, and the others share what that leaves.

    Args:
      leverage: largest sum of absolute weights.
      weight: largest absolute weight of one asset.
      concentration: largest sum of squared weights.

    Raises:
      ValueError: no limit.
    """
    if leverage is None and weight is None and concentration is None:
        raise ValueError("a projection must limit something: leverage, weight or concentration")

    def table(view: MarketView) -> jax.Array:
        return view.market.tradable

    def apply(state: Any, tradable: jax.Array, portfolio: Portfolio, targets: jax.Array) -> tuple[jax.Array, Any]:
        fixed = jnp.where(tradable, 0.0, jnp.abs(expected_weights(portfolio)))
        gross = None if leverage is None else jnp.maximum(leverage - jnp.sum(fixed), 0.0)
        squares = None if concentration is None else jnp.maximum(concentration - jnp.sum(jnp.square(fixed)), 0.0)
        found = project(jnp.where(tradable, targets, 0.0), gross=gross, largest=weight, squares=squares)
        return jnp.where(tradable, found, targets), state

    return SizingTransform("projection", apply, table=table)


def project(
    weights: jax.Array,
    *,
    gross: jax.Array | float | None = None,
    largest: jax.Array | float | None = None,
    squares: jax.Array | float | None = None,
) -> jax.Array:
    """Finds the nearest `w` `[A]` with `sum |w_i| <= gross`, `|w_i| <= largest`, `sum w_i^2 <= squares`.

    By the optimality conditions `|w_i| = min((|v_i| - a)^+ / (1 + b), largest)` with multipliers `a, b >= 0` of the two
    sums; each sum falls with its own, and both are found by bisection, from above, so that the result keeps the limits
    and does not change when projected again.

    Args:
      weights: `[A]` v.
      gross: `[]` >= 0, largest sum of absolute weights; None for no limit.
      largest: `[]` >= 0, largest absolute weight; None for no limit.
      squares: `[]` >= 0, largest sum of squared weights; None for no limit.

    Reference: Boyd, Vandenberghe (2004), Convex Optimization, sections 5.5 and 8.1.
    """
    size = jnp.abs(weights)

    def shrunk(a: jax.Array | float, b: jax.Array | float) -> jax.Array:
        left = jnp.maximum(size - a, 0.0) / (1.0 + b)
        return left if largest is None else jnp.minimum(left, largest)

    def shift(b: jax.Array | float) -> jax.Array | float:
        if gross is None:
            return 0.0
        return _least(lambda a: jnp.sum(shrunk(a, b)) <= gross, jnp.max(size))

    if squares is None:
        return jnp.sign(weights) * shrunk(shift(0.0), 0.0)
    # The largest b that can be needed: scaling down to the limit of the squares alone, and a little more for rounding.
    most = 1e-5 + jnp.linalg.norm(size) / jnp.sqrt(jnp.maximum(squares, jnp.finfo(size.dtype).tiny)) * (1.0 + 1e-5)
    b = _least(lambda b: jnp.sum(jnp.square(shrunk(shift(b), b))) <= squares, most)
    return jnp.sign(weights) * shrunk(shift(b), b)


def _least(fits: Callable[[jax.Array | float], jax.Array], top: jax.Array) -> jax.Array:
    """Finds the smallest number `[]` in [0, top] that fits, given that all from some number up to `top` do."""

    def halve(_: jax.Array, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        good = fits(middle)
        return jnp.where(good, low, middle), jnp.where(good, middle, high)

    found = jax.lax.fori_loop(0, HALVINGS, halve, (jnp.zeros_like(top), top))[1]
    return jnp.where(fits(0.0), 0.0, found)
