"""Statistics of a batch that is spread over devices; they run under `shard_map` and are equal on every device."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.policy.rollout import DATA_AXIS

HALVINGS = 40
"""Bisections of the bracket of a quantile: samples closer than the range of all times `2^-40` count as equal."""


def count(counted: jax.Array) -> jax.Array:
    """Counts what is true in `counted` (bool, any shape) over all devices: `[]` float32."""
    return jax.lax.psum(counted.sum(dtype=jnp.float32), DATA_AXIS)


def mean(x: jax.Array, counted: jax.Array) -> jax.Array:
    """Mean `[]` of the counted values, 0 of none.

    Args:
      x: any shape.
      counted: bool, same shape.
    """
    total = jax.lax.psum(jnp.where(counted, x, 0.0).sum(), DATA_AXIS)
    return total / jnp.maximum(count(counted), 1.0)


def quantile(x: jax.Array, counted: jax.Array, share: float) -> jax.Array:
    """Finds the smallest counted value `[]` with at least a `share` of the counted ones at or below it.

    It is the sample quantile without interpolation (numpy's `inverted_cdf`), by bisection on the number at or below: no
    device needs to see another one's sample. 0 of none.

    Args:
      x: any shape, finite where counted.
      counted: bool, same shape.
      share: in (0, 1).
    """
    n = count(counted)
    # A share such as 1 - 0.9 of a whole number must not round up to the next one.
    wanted = jnp.maximum(jnp.ceil(share * n * (1.0 - 1e-6)), 1.0)
    low = jax.lax.pmin(jnp.where(counted, x, jnp.inf).min(), DATA_AXIS)
    high = jax.lax.pmax(jnp.where(counted, x, -jnp.inf).max(), DATA_AXIS)
    at_lowest = count(counted & (x <= low)) >= wanted

    def halve(_: int, bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bracket
        middle = 0.5 * low + 0.5 * high
        enough = count(counted & (x <= middle)) >= wanted
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    _, above = jax.lax.fori_loop(0, HALVINGS, halve, (low, high))
    found = jax.lax.pmax(jnp.where(counted & (x <= above), x, -jnp.inf).max(), DATA_AXIS)
    return jnp.where(n > 0, jnp.where(at_lowest, low, found), 0.0)


def tail_mean(x: jax.Array, counted: jax.Array, level: float) -> tuple[jax.Array, jax.Array]:
    """Quantile `q` `[]` and mean `q - mean((q - x)^+) / (1 - level)` `[]` of the worst `1 - level` of a sample.

    The mean is the maximum over q of the Rockafellar-Uryasev function of the sample, so that any maximiser gives the
    same one.

    Args:
      x: any shape, gains: low is bad.
      counted: bool, same shape.
      level: in (0, 1).

    Reference: Rockafellar & Uryasev, "Optimization of conditional value-at-risk", Journal of Risk 2000, theorem 1.
    """
    threshold = quantile(x, counted, 1.0 - level)
    return threshold, threshold - mean(jnp.maximum(threshold - x, 0.0), counted) / (1.0 - level)


class Average(struct.PyTreeNode):
    """Exponential average of a measurement that may be absent.

    Attributes:
      value: `[]`.
      weight: `[]` sum of weights, which corrects the start; 0 before the first measurement.
    """

    value: jax.Array
    weight: jax.Array

    def include(self, measured: jax.Array, rate: float, known: jax.Array) -> Average:
        """Averages in one more measurement.

        Args:
          measured: `[]`.
          rate: its weight, in (0, 1].
          known: `[]` bool; an unknown measurement counts only until there is a known one.
        """
        weight = (1.0 - rate) * self.weight + rate
        averaged = self.value + rate / weight * (measured - self.value)
        provisional = jnp.where(self.weight > 0, self.value, measured)
        return Average(jnp.where(known, averaged, provisional), jnp.where(known, weight, self.weight))


def no_average() -> Average:
    """Average before the first measurement."""
    return Average(jnp.zeros(()), jnp.zeros(()))


def spread_of_means(x: jax.Array) -> jax.Array:
    """Variance `[]` over the portfolios of all devices of the mean of `x` `[P, S, K]` over the S bars of a rollout."""
    means = x.mean(axis=1)
    middle = jax.lax.pmean(means.mean(), DATA_AXIS)
    return jax.lax.pmean(jnp.square(means - middle).mean(), DATA_AXIS)
