"""Causal normalisation: exponential z-scores, or scales alone, which leave the mean where it is."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxppo.envs.market.rows import first_valid, running_count
from jaxppo.envs.market.windows import exponential_average, exponential_gain, linear_recurrence, shift

CLIP = 5.0
"""Largest magnitude of a normalised value, in standard deviations."""

RELATIVE_FLOOR = 1e-5
"""Smallest standard deviation as a fraction of the mean: below it a series is constant up to float32 rounding."""

ABSOLUTE_FLOOR = 1e-6
"""Smallest standard deviation in units of the series: below it a fraction of the price is float32 rounding."""


def minimum_observations(window: int) -> int:
    """Number of valid values before the first z-score: a quarter of the window, at least 2."""
    return max(2, window // 4)


def zscore(x: jax.Array, valid: jax.Array, window: int) -> jax.Array:
    """Normalises a series by its exponential mean and standard deviation, clipped to +-`CLIP`.

    Mean and variance are the bias-corrected exponentially weighted ones of the valid values up to and *including* t,
    with `window` as span (`alpha = 2 / (window + 1)`), updated by the stable recursion
    `variance_t = (1 - k_t) (variance_{t-1} + k_t (x_t - mean_{t-1})^2)`.

    Args:
      x: `[T, ...]` dimensionless (a logarithm, a return, a fraction); any value, NaN included, where not valid.
      valid: `[T, ...]` bool; other values neither enter the statistics nor get a score.
      window: span in valid values, >= 2.

    Returns:
      `[T, ...]` float32; NaN where not valid and until `minimum_observations(window)` valid values have been seen.

    Reference: West (1979), Updating mean and variance estimates: an improved method (weighted form).
    """
    # Relative to the first valid value: a constant series scores exactly 0, and a high level costs no precision.
    first = first_valid(x, valid)
    x = jnp.where(valid, x - first, 0)
    gain = exponential_gain(valid, window)
    mean = linear_recurrence(1 - gain, gain * x)
    previous_mean = shift(mean, 1)
    variance = linear_recurrence(1 - gain, (1 - gain) * gain * jnp.square(x - previous_mean))
    level = jnp.where(jnp.isfinite(first), first, 0) + mean
    floor = jnp.maximum(RELATIVE_FLOOR * jnp.abs(level), ABSOLUTE_FLOOR)
    score = (x - mean) / jnp.maximum(jnp.sqrt(variance), floor)
    enough = valid & (running_count(valid) >= minimum_observations(window))
    return jnp.where(enough, jnp.clip(score, -CLIP, CLIP), jnp.nan)


def scaled(x: jax.Array, valid: jax.Array, window: int) -> jax.Array:
    """Divides a series by its exponential root mean square, clipped to +-`CLIP`; its mean stays.

    Args:
      x: `[T, ...]` dimensionless; any value, NaN included, where not valid.
      valid: `[T, ...]` bool; other values neither enter the statistics nor get a score.
      window: span in valid values, >= 2, of the bias-corrected average up to and including t.

    Returns:
      `[T, ...]` float32; NaN where not valid and until `minimum_observations(window)` valid values have been seen.
    """
    x = jnp.where(valid, x, 0)
    size = jnp.sqrt(exponential_average(jnp.square(x), valid, window))
    enough = valid & (running_count(valid) >= minimum_observations(window))
    return jnp.where(enough, jnp.clip(x / jnp.maximum(size, ABSOLUTE_FLOOR), -CLIP, CLIP), jnp.nan)
