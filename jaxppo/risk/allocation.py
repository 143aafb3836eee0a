"""Shares of capital from means and covariances: equal contributions to risk, and Kelly under estimation error."""

from __future__ import annotations

import jax
import jax.numpy as jnp

SWEEPS = 30


def equal_risk(covariance: jax.Array) -> jax.Array:
    """Weights `[M]`, > 0, of sum 1, each of which adds the same risk: `w_i (S w)_i` is the same for all.

    Without correlation they are the inverse volatilities.

    Args:
      covariance: `[M, M]` positive definite.

    References:
      Maillard, Roncalli & Teiletche (2010), The properties of equally weighted risk contribution portfolios, JPM 36.
      Griveau-Billion, Richard & Roncalli (2013), A fast algorithm for computing high-dimensional risk parity
      portfolios, arXiv:1311.4057: coordinate descent on `x' S x / 2 - sum log x`, here on correlations.
    """
    number = covariance.shape[0]
    spread = jnp.sqrt(jnp.diagonal(covariance))
    other = covariance / (spread[:, None] * spread[None, :]) * (1.0 - jnp.eye(number))

    def sweep(_: int, x: jax.Array) -> jax.Array:
        for i in range(number):
            pull = other[i] @ x
            root = jnp.sqrt(jnp.square(pull) + 4.0)
            # The same number twice, each where it does not cancel.
            x = x.at[i].set(jnp.where(pull > 0, 2.0 / (root + jnp.abs(pull)), (root - pull) / 2.0))
        return x

    risk = jax.lax.fori_loop(0, SWEEPS, sweep, jnp.ones(number))
    weights = risk / spread
    return weights / jnp.sum(weights)


def kelly(mean: jax.Array, covariance: jax.Array, observations: jax.Array, admitted: jax.Array) -> jax.Array:
    """Kelly fractions `[M]`, signed, of the admitted series, scaled for the error of their means and covariance.

    `c S^-1 m` with the mean shrunk towards that of the minimum-variance portfolio,
    `m = (1 - v) m^ + v m0`, `v = (N + 2) / (N + 2 + T (m^ - m0)' S^-1 (m^ - m0))`, and
    `c = q / (q + N / T) (T - N - 1)(T - N - 4) / (T (T - 2))`, `q = m' S^-1 m`, for N series and T observations; 0 for
    `T <= N + 4`.

    Args:
      mean: `[M]` excess return per bar.
      covariance: `[M, M]` positive definite, of one bar.
      observations: `[]` T, number of bars behind the mean.
      admitted: `[M]` bool; the others get 0, as if they were not there.

    References:
      Jorion (1986), Bayes-Stein estimation for portfolio analysis, JFQA 21, equations 14 and 17.
      Kan & Zhou (2007), Optimal portfolio choice with parameter uncertainty, JFQA 42, equations 22 and 34.
    """
    both = admitted[:, None] & admitted[None, :]
    spread = jnp.sqrt(jnp.diagonal(covariance))
    correlation = covariance / (spread[:, None] * spread[None, :])
    correlation = jnp.where(both, correlation, jnp.eye(mean.shape[0]))
    ratio = jnp.where(admitted, mean / spread, 0.0)
    ones = jnp.where(admitted, 1.0 / spread, 0.0)
    solved, per_unit = jnp.linalg.solve(correlation, jnp.stack([ratio, ones], axis=1)).T
    number = jnp.sum(admitted)
    total = jnp.dot(ones, per_unit)
    middle = jnp.dot(ones, solved) / jnp.where(total > 0, total, 1.0)
    apart, solved_apart = ratio - middle * ones, solved - middle * per_unit
    weight = (number + 2.0) / (number + 2.0 + observations * jnp.maximum(jnp.dot(apart, solved_apart), 0.0))
    ratio = ratio - weight * apart
    solved = solved - weight * solved_apart
    quality = jnp.maximum(jnp.dot(ratio, solved), 0.0)
    bars = jnp.maximum(observations, number + 4.0)
    certain = quality / jnp.maximum(quality + number / bars, jnp.finfo(jnp.float32).tiny)
    lost = (bars - number - 1.0) * (bars - number - 4.0) / (bars * (bars - 2.0))
    return jnp.where(admitted, certain * lost * solved / spread, 0.0)
