"""Shared rules of the metrics: float arrays, ruin, ratios with a zero denominator, checks of arguments."""

from __future__ import annotations

import jax
import jax.numpy as jnp

TRADING_DAYS = 252.0


def as_float(returns: jax.Array) -> jax.Array:
    """Converts to a floating-point array; integers are promoted."""
    returns = jnp.asarray(returns)
    return returns if jnp.issubdtype(returns.dtype, jnp.floating) else returns.astype(jnp.result_type(float))


def log_growth(returns: jax.Array) -> jax.Array:
    """Computes `log(1 + r)`, exact for the tiny returns of short bars, which `1 + r` rounds away; -inf at ruin."""
    return jnp.log1p(jnp.maximum(returns, -1.0))


def ratio(numerator: jax.Array, denominator: jax.Array | float) -> jax.Array:
    """Divides by the rule of the metrics for zeros, without an invalid gradient where the ratio is finite.

    Args:
      numerator: any shape.
      denominator: same shape; where it is 0 the ratio is +-inf, or NaN if the numerator is 0 too.
    """
    zero = jnp.equal(denominator, 0)
    undefined = jnp.where(numerator == 0, jnp.nan, jnp.sign(numerator) * jnp.inf)
    return jnp.where(zero, undefined, numerator / jnp.where(zero, 1.0, denominator))


def undefined(returns: jax.Array, axis: int) -> jax.Array:
    """NaN in the shape of a metric.

    Args:
      returns: `[..., n]` simple return per bar.
      axis: the time axis, which the metric reduces.
    """
    axis = axis % returns.ndim
    return jnp.full(returns.shape[:axis] + returns.shape[axis + 1 :], jnp.nan, returns.dtype)


def unless_missing(value: jax.Array, returns: jax.Array, axis: int) -> jax.Array:
    """Turns a metric into NaN where a return is NaN: maxima over an axis do not pass it on on every device.

    Args:
      value: `[...]` metric.
      returns: `[..., n]` simple return per bar.
      axis: the time axis.
    """
    return jnp.where(jnp.any(jnp.isnan(returns), axis=axis), jnp.nan, value)


def tail_count(level: float, n: int) -> float:
    """Counts the bars `(1 - level) n` in the tail, without the rounding error that would turn 5 bars into 5 + 4e-15.

    Args:
      level: confidence in (0, 1).
      n: bars.

    Raises:
      ValueError: for a level outside (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}; it must lie strictly between 0 and 1, for example 0.95")
    tail = (1.0 - level) * n
    whole = round(tail)
    return float(whole) if whole > 0 and abs(tail - whole) < 1e-9 * n else tail


def choice(name: str, value: str, allowed: tuple[str, ...]) -> str:
    """Returns an argument that names a convention, if it is allowed.

    Args:
      name: of the argument.
      value: of the argument.
      allowed: its conventions.

    Raises:
      ValueError: any other value; lists the allowed ones.
    """
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")
    return value
