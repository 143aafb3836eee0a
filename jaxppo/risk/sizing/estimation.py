"""Estimates of means and covariances, shrunk for their errors.

Written for `T` returns of `N` assets; assets that are left out have returns of 0 and `included` False.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc, betaln

from jaxppo.envs.market.precision import matmul


def ledoit_wolf(returns: jax.Array, included: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Shrinks the covariance towards a multiple of the identity; returns it and the share `[]` of the identity.

    `(1 - s) S + s m I`, S the sample covariance over T, m the mean of its diagonal, s the share with the least expected
    squared error. Assets that are left out have a variance of 1 and no correlation.

    Args:
      returns: `[T, N]`.
      included: `[N]` bool; None for all.

    Reference: Ledoit, Wolf (2004), A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices.
    """
    n_returns, n_assets = returns.shape
    included = jnp.ones(n_assets, bool) if included is None else included
    n = jnp.maximum(jnp.sum(included), 1).astype(returns.dtype)
    centred = jnp.where(included[None], returns - returns.mean(axis=0, keepdims=True), 0.0)
    sample = matmul(centred.T, centred) / n_returns
    mean_variance = jnp.trace(sample) / n
    squared = jnp.sum(jnp.square(sample))
    noise = (jnp.sum(jnp.square(jnp.sum(jnp.square(centred), axis=1))) / n_returns - squared) / n_returns
    spread = squared - n * jnp.square(mean_variance)
    noise = jnp.clip(noise, 0.0, spread)
    share = jnp.where(noise > 0, noise / jnp.where(noise > 0, spread, 1.0), 0.0)
    identity = jnp.diag(jnp.where(included, mean_variance, 0.0))
    return (1.0 - share) * sample + share * identity + jnp.diag(jnp.where(included, 0.0, 1.0)), share


def sample_covariance(returns: jax.Array, included: jax.Array | None = None) -> jax.Array:
    """Sample covariance `sum_t (r_t - mean)(r_t - mean)' / T` `[N, N]`.

    Args:
      returns: `[T, N]`.
      included: `[N]` bool; None for all. The others have a variance of 1 and no correlation.
    """
    included = jnp.ones(returns.shape[1], bool) if included is None else included
    centred = jnp.where(included[None], returns - returns.mean(axis=0, keepdims=True), 0.0)
    return matmul(centred.T, centred) / returns.shape[0] + jnp.diag(jnp.where(included, 0.0, 1.0))


def shrunk_mean(
    mean: jax.Array, covariance: jax.Array, n_returns: jax.Array | int, included: jax.Array | None = None
) -> jax.Array:
    """Shrinks means `[N]` towards their mean `m`: the estimator of James and Stein with Jorion's intensity.

    `(1 - s) mean + s m`, `s = (N + 2) / (N + 2 + T (mean - m)' C^-1 (mean - m))`.

    Args:
      mean: `[N]` sample means.
      covariance: `[N, N]` of the returns.
      n_returns: T.
      included: `[N]` bool; None for all.

    Reference: Jorion (1986), Bayes-Stein Estimation for Portfolio Analysis, with the grand mean as the target.
    """
    included = jnp.ones(mean.shape, bool) if included is None else included
    n = jnp.maximum(jnp.sum(included), 1).astype(mean.dtype)
    target = jnp.sum(jnp.where(included, mean, 0.0)) / n
    apart = jnp.where(included, mean - target, 0.0)
    share = (n + 2.0) / (n + 2.0 + n_returns * matmul(apart, solve(covariance, apart)))
    return jnp.where(included, target + (1.0 - share) * apart, 0.0)


def kan_zhou_scale(
    squared_sharpe: jax.Array, n_returns: jax.Array | int, n_assets: jax.Array | int, *, known_covariance: bool
) -> jax.Array:
    """Share `[]` of the estimated Kelly position with the highest expected growth, given the errors of estimation.

    `c = theta^2 / (theta^2 + N / T)`; where the covariance is estimated too, by the sample covariance over T, times
    `(T - N - 1)(T - N - 4) / (T (T - 2))`. The squared Sharpe ratio `theta^2` itself is estimated: with a known
    covariance by `(t - N / T)^+`, else by Kan and Zhou's adjusted estimator, of `t` below.

    Args:
      squared_sharpe: `[]` t = mean' C^-1 mean of the estimates, per bar, >= 0.
      n_returns: T.
      n_assets: N, with T > N + 4 unless the covariance is known; 0 beyond that.
      known_covariance: whether C is known, or so well estimated that its error does not count.

    Reference: Kan, Zhou (2007), Optimal Portfolio Choice with Parameter Uncertainty: the two-fund rule.
    """
    n = jnp.asarray(n_assets, squared_sharpe.dtype)
    noise = n / n_returns
    if known_covariance:
        theta = jnp.maximum(squared_sharpe - noise, 0.0)
        return theta / (theta + noise)
    enough = n_returns > n + 4
    n = jnp.where(enough, n, 1.0)
    factor = (n_returns - n - 1.0) * (n_returns - n - 4.0) / (n_returns * (n_returns - 2.0))
    theta = adjusted_squared_sharpe(squared_sharpe, n_returns, n)
    return jnp.where(enough, factor * theta / (theta + n / n_returns), 0.0)


def adjusted_squared_sharpe(
    squared_sharpe: jax.Array, n_returns: jax.Array | int, n_assets: jax.Array | int
) -> jax.Array:
    """Estimates the squared Sharpe ratio `[]` >= 0 of the population from the sample's `t`.

    `((T - N - 2) t - N) / T + 2 t^(N/2) (1 + t)^(-(T - 2)/2) / (T B_x(N/2, (T - N)/2))`, `x = t / (1 + t)`, with the
    incomplete beta function B; computed in logarithms.

    Args:
      squared_sharpe: `[]` t, of the mean and the covariance over T.
      n_returns: T > N + 2.
      n_assets: N.

    Reference: Kan, Zhou (2007), Optimal Portfolio Choice with Parameter Uncertainty: the adjusted estimator.
    """
    n = jnp.asarray(n_assets, squared_sharpe.dtype)
    a, b = n / 2.0, (n_returns - n) / 2.0
    tiny = jnp.finfo(squared_sharpe.dtype).tiny
    t = jnp.maximum(squared_sharpe, 1e-12)
    x = t / (1.0 + t)
    share = betainc(a, b, x)
    log_power = a * jnp.log(t) - 0.5 * (n_returns - 2.0) * jnp.log1p(t)
    added = 2.0 / n_returns * jnp.exp(log_power - betaln(a, b) - jnp.log(jnp.maximum(share, tiny)))
    # Where the function is too small for a number: the first terms of its series in x.
    start = n / n_returns * (1.0 + t) * jnp.maximum(1.0 - (a + b) * x / (a + 1.0), 0.0)
    added = jnp.where(share > 1e3 * tiny, added, start)
    return jnp.maximum(((n_returns - n - 2.0) * t - n) / n_returns + added, 0.0)


def solve(covariance: jax.Array, right: jax.Array) -> jax.Array:
    """Solves `C x = right` for a positive semidefinite C, on correlations and with a ridge as large as rounding.

    Args:
      covariance: `[N, N]` C.
      right: `[N]`.

    Returns:
      `[N]` x.
    """
    deviation = jnp.sqrt(jnp.maximum(jnp.diagonal(covariance), jnp.finfo(covariance.dtype).tiny))
    n_assets = covariance.shape[0]
    ridge = n_assets * jnp.finfo(covariance.dtype).eps
    correlation = covariance / (deviation[:, None] * deviation[None, :]) + ridge * jnp.eye(n_assets)
    factor = jax.scipy.linalg.cho_factor(correlation)
    return jax.scipy.linalg.cho_solve(factor, right / deviation) / deviation
