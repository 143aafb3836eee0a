"""The annual Sharpe ratio of dependent bars, which does not scale with the square root of time."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxppo.statistics.checks import check_returns


class AnnualSharpe(NamedTuple):
    """An estimate of the annual Sharpe ratio.

    Attributes:
      sharpe: `[]` per square root of a year.
      standard_error: `[]` in the same unit.
    """

    sharpe: jax.Array
    standard_error: jax.Array


def autocorrelation_adjusted_sharpe(returns: jax.Array, *, periods: int = 252, lags: int | None = None) -> AnnualSharpe:
    """Annualises the Sharpe ratio of serially correlated returns, after Lo.

    `SR(q) = eta SR`, `eta = q / sqrt(q + 2 sum_{k=1}^{q-1} (q - k) rho_k)`, which is `sqrt(q)` for independent bars;
    smooth returns (stale marks, positive autocorrelation) overstate the naive figure. The standard error is that of SR
    per bar by the generalised method of moments, with the covariance of `(r - mu, (r - mu)^2 - sigma^2)` by Newey and
    West, times eta (which is taken as known). Jittable with static keywords.

    Args:
      returns: `[n]` excess return per bar, n >= 4.
      periods: q, bars per year, static.
      lags: autocorrelations that are estimated, static, fewer than n; the others are taken as 0, as a year of daily
        lags would be mostly noise. None: Newey and West's `floor(4 (n / 100)^(2/9))`. At most q - 1 enter eta.

    Returns:
      `AnnualSharpe`; NaN where the estimated variance of a year is not positive.

    Raises:
      ValueError: too few bars, a value that is not finite, a constant series, `periods` below 1, too many lags.

    Reference: Lo, "The Statistics of Sharpe Ratios", FAJ 58(4), 2002, eq. 16-20 and appendix A.
    """
    returns = check_returns(returns, at_least=4)
    if returns.ndim != 1:
        raise ValueError(f"returns has shape {returns.shape}; one series [n] is expected")
    n = returns.shape[0]
    lags = int(4 * (n / 100) ** (2 / 9)) if lags is None else lags
    if periods < 1 or periods != int(periods):
        raise ValueError(f"periods is {periods}; a whole number of bars per year is expected")
    if not 0 <= lags < n:
        raise ValueError(f"lags is {lags}; it must lie between 0 and {n - 1} for {n} bars")
    mean, variance = jnp.mean(returns), jnp.var(returns, ddof=1)
    moments = jnp.stack([returns - mean, (returns - mean) ** 2 - variance])
    sharpe = mean / jnp.sqrt(variance)
    used = range(1, min(lags, int(periods) - 1) + 1)
    centred, total = moments[0], jnp.sum(moments[0] ** 2)
    correlation = [jnp.sum(centred[k:] * centred[: n - k]) / total for k in used]
    annual = periods + 2.0 * sum(((periods - k) * rho for k, rho in zip(used, correlation, strict=True)), 0.0)
    scale = periods / jnp.sqrt(jnp.where(annual > 0, annual, jnp.nan))
    gradient = jnp.stack([1.0 / jnp.sqrt(variance), -mean / (2.0 * variance**1.5)])
    error = jnp.sqrt(jnp.maximum(gradient @ _newey_west(moments, lags) @ gradient, 0.0) / n)
    return AnnualSharpe(scale * sharpe, scale * error)


def _newey_west(moments: jax.Array, lags: int) -> jax.Array:
    """Long-run covariance `[2, 2]` of centred `moments [2, n]`, weights `1 - k / (lags + 1)`."""
    n = moments.shape[1]
    covariance = moments @ moments.T / n
    for k in range(1, lags + 1):
        cross = moments[:, k:] @ moments[:, : n - k].T / n
        covariance = covariance + (1.0 - k / (lags + 1)) * (cross + cross.T)
    return covariance
