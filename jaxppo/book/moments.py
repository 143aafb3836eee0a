"""Exponentially weighted mean and covariance of several return series, one bar at a time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

SMALLEST_VARIANCE = 0.01
"""Floor of the variance of a series, as a share of the mean variance: a strategy that does nothing is not riskless."""


class Moments(struct.PyTreeNode):
    """Weighted sums over the bars so far; the weight of a bar falls by a constant factor with each later bar.

    Attributes:
      weight: `[]` sum of the weights.
      squares: `[]` sum of the squared weights.
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
    """Creates the moments of M series before any bar."""
    zero = jnp.zeros(())
    return Moments(zero, zero, jnp.zeros(n_series), jnp.zeros((n_series, n_series)))


def update_moments(moments: Moments, returns: jax.Array, span: float) -> Moments:
    """Updates the moments by another bar; weights fall by `1 - 2 / (span + 1)` a bar.

    Args:
      moments: before the bar.
      returns: `[M]` of the bar.
      span: bars, > 1.

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


def shrunk_covariance(covariance: jax.Array, observations: jax.Array) -> jax.Array:
    """Shrinks a covariance `[M, M]` so that it can be inverted: variances get a floor, correlations shrink towards 0.

    The intensity is that of the oracle approximating shrinkage estimator on standardised returns. A covariance of zeros
    gives the identity.

    Args:
      covariance: `[M, M]` of M series.
      observations: `[]` effective number of bars that it was estimated from.

    Reference: Chen, Wiesel, Eldar & Hero (2010), Shrinkage algorithms for MMSE covariance estimation, IEEE TSP 58,
      equation 23.
    """
    number = covariance.shape[0]
    variance = jnp.diagonal(covariance)
    usual = jnp.mean(variance)
    variance = jnp.where(usual > 0, jnp.maximum(variance, SMALLEST_VARIANCE * usual), 1.0)
    spread = jnp.sqrt(variance)
    diagonal = jnp.eye(number, dtype=bool)
    correlation = jnp.where(diagonal, 1.0, covariance / (spread[:, None] * spread[None, :]))
    squares = jnp.sum(jnp.square(correlation))
    apart = (observations + 1.0 - 2.0 / number) * (squares - number)
    noise = (1.0 - 2.0 / number) * squares + number**2
    retained = 1.0 - jnp.minimum(jnp.where(apart > 0, noise / jnp.where(apart > 0, apart, 1.0), 1.0), 1.0)
    return jnp.where(diagonal, 1.0, retained * correlation) * (spread[:, None] * spread[None, :])
