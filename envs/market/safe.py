"""Ratios, roots and sizes with gradients that are finite and right where `jnp` has none.

`where(b > 0, a / b, 0)` has the right value and the gradient NaN where `b` is 0: the derivative of the branch that is
not taken is infinite, and infinity times 0 is NaN. So that branch gets harmless arguments.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def ratio(numerator: jax.Array, denominator: jax.Array, otherwise: float) -> jax.Array:
    """Divides where the denominator is positive; `otherwise` elsewhere.

    Args:
      numerator: any shape.
      denominator: of the same shape, or one that broadcasts with it.
      otherwise: value where the denominator is not positive.
    """
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), otherwise)


def root(x: jax.Array) -> jax.Array:
    """Square root where x is positive, else 0, with the derivative 0 there.

    Args:
      x: any shape.
    """
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def size_of(x: jax.Array) -> jax.Array:
    """Absolute value, whose derivative at 0 is 0: that of `jnp.abs` is 1 there, as if the next move were a purchase.

    Args:
      x: any shape.
    """
    return x * jax.lax.stop_gradient(jnp.sign(x))


@jax.custom_jvp
def with_derivative(x: jax.Array, like: jax.Array) -> jax.Array:
    """The value of `x` with the derivative of `like`; where nothing is differentiated `like` is never computed.

    Args:
      x: any shape.
      like: of the same shape.
    """
    del like
    return x


@with_derivative.defjvp
def _with_derivative_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return primals[0], tangents[1]
