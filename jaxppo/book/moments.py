"""Exponentially weighted mean and covariance of several return series, one bar at a time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

SMALLEST_VARIANCE = 0.01
"""Share of the mean variance of all series that each is taken to have at least: who does nothing is not riskless."""


@struct.dataclass
class Moments:
    """Weighted sums over the bars so far, the weight of a bar falling by `decay` with each later one.

    Attributes:
      weight: `[]` sum of the weights.
      squares: `[]` sum of their squares.
      mean: `[M]` return per bar.
      deviations: `[M, M]` sum of the weighted products of deviations from the mean.
    """

    weight: jax.Array
    squares: jax.Array
    mean: jax.Array
    deviations: jax.Array

    @property
    def observations(self) -> jax.Array:
        """Effective number of bars, `[]`: `(sum w)^2 / sum w^2`, about the span; 0 without any."""
        return jnp.square(self.weight) / jnp.maximum(self.squares, 1.0)

    def covariance(self) -> jax.Array:
        """Unbiased covariance `[M, M]` of the returns per bar; zeros below two bars.

        Equals `pandas.DataFrame.ewm(span).cov()`.
        """
        weight = jnp.maximum(self.weight, 1.0)
        degrees = weight - self.squares / weight
        known = degrees > 1e-6
        return jnp.where(known, self.deviations / jnp.where(known, degrees, 1.0), 0.0)


def start_moments(n_series: int) -> Moments:
    """No bars of M series."""
    zero = jnp.zeros(())
    return Moments(zero, zero, jnp.zeros(n_series), jnp.zeros((n_series, n_series)))


def update_moments(moments: Moments, returns: jax.Array, span: float) -> Moments:
    """The moments after another bar with returns `[M]`; weights fall by `1 - 2 / (span + 1)` a bar.

    Reference: West (1979), Updating mean and variance estimates, CACM 22.
    """
    decay = 1.0 - 2.0 / (span + 1.0)
    weight = decay * moments.weight + 1.0
    change = returns - moments.mean
    products = change[:, None] * change[None, :]
    return Moments(
        weight=weight,
        squares=decay**2 * moments.squares + 1.0,
        mean=moments.mean + change / weight,
        deviations=decay * moments.deviations + (1.0 - 1.0 / weight) * products,
    )


def steadied(covariance: jax.Array, observations: jax.Array) -> jax.Array:
    """A covariance `[M, M]` that can be inverted: variances with a floor, correlations shrunk towards none.

    The intensity is that of the oracle approximating shrinkage estimator on standardised returns. Without any variance
    at all it is the identity.

    Args:
      covariance: of M series.
      observations: `[]` number of bars behind it.

    References:
      Chen, Wiesel, Eldar & Hero (2010), Shrinkage algorithms for MMSE covariance estimation, IEEE TSP 58, equation 23.
    """
    number = covariance.shape[0]
    variance = jnp.diagonal(covariance)
    usual = jnp.mean(variance)
    variance = jnp.where(usual > 0, jnp.maximum(variance, SMALLEST_VARIANCE * usual), 1.0)
    spread = jnp.sqrt(variance)
    own = jnp.eye(number, dtype=bool)
    correlation = jnp.where(own, 1.0, covariance / (spread[:, None] * spread[None, :]))
    squares = jnp.sum(jnp.square(correlation))
    apart = (observations + 1.0 - 2.0 / number) * (squares - number)
    noise = (1.0 - 2.0 / number) * squares + number**2
    kept = 1.0 - jnp.minimum(jnp.where(apart > 0, noise / jnp.where(apart > 0, apart, 1.0), 1.0), 1.0)
    return jnp.where(own, 1.0, kept * correlation) * (spread[:, None] * spread[None, :])
