"""Probabilistic Sharpe ratio, its standard error under skewed, fat-tailed returns, and the minimum track record.

Sharpe ratios are per bar here, `annual / sqrt(periods)`. Kurtosis is raw, 3 for a normal distribution.
"""

from __future__ import annotations

import functools
import statistics
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from jaxppo.risk import metrics
from jaxppo.statistics.checks import check_returns


@jax.jit
def probabilistic_sharpe_of(
    sharpe: jax.Array,
    n_bars: jax.Array | int,
    skewness: jax.Array,
    kurtosis: jax.Array,
    benchmark: jax.Array | float = 0.0,
) -> jax.Array:
    """Probability that the true Sharpe ratio exceeds the benchmark, from moments.

    `Phi((SR - SR*) sqrt(T - 1) / sqrt(1 - g3 SR + (g4 - 1) / 4 SR^2))`.

    Args:
      sharpe: `[...]` estimated ratio per bar.
      n_bars: T, bars that it is estimated from.
      skewness: `[...]` g3.
      kurtosis: `[...]` g4, raw: 3 for a normal distribution.
      benchmark: SR*, per bar.

    Returns:
      `[...]` in [0, 1]; NaN where the moments are not those of any distribution.

    Reference: Bailey & Lopez de Prado, "The Sharpe Ratio Efficient Frontier", Journal of Risk 15(2), 2012, eq. 4-5.
    """
    return norm.cdf((sharpe - benchmark) * jnp.sqrt(n_bars - 1.0) / jnp.sqrt(_shape(sharpe, skewness, kurtosis)))


def probabilistic_sharpe(
    returns: jax.Array | np.ndarray, benchmark: jax.Array | float = 0.0, *, axis: int = -1, bias: bool = True
) -> jax.Array:
    """Probabilistic Sharpe ratio (PSR) of a series: the probability that its true Sharpe ratio exceeds a benchmark.

    Assumes that bars are independent; for dependent ones see `autocorrelation_adjusted_sharpe`. Jittable.

    Args:
      returns: `[..., n]` excess return per bar, n >= 3 (4 without bias).
      benchmark: Sharpe ratio per bar to exceed.
      axis: the time axis.
      bias: skewness and kurtosis divide by n (purgedcv, vectorbt); otherwise pandas' adjusted ones (ffn, quantstats).

    Returns:
      `[...]` in [0, 1].

    Raises:
      ValueError: too few bars, a value that is not finite, a constant series.
    """
    returns = check_returns(returns, axis=axis, at_least=3 if bias else 4)
    sharpe, skew, kurtosis = _moments(returns, axis, bias)
    return probabilistic_sharpe_of(sharpe, returns.shape[axis], skew, kurtosis, benchmark)


def minimum_track_record(
    returns: jax.Array | np.ndarray,
    benchmark: jax.Array | float = 0.0,
    *,
    level: float = 0.95,
    axis: int = -1,
    bias: bool = True,
) -> jax.Array:
    """Minimum track record: the number of bars from which on the PSR of these moments would reach `level`.

    `1 + (1 - g3 SR + (g4 - 1) / 4 SR^2) (z / (SR - SR*))^2`.

    Args:
      returns: `[..., n]` excess return per bar.
      benchmark: Sharpe ratio per bar to exceed.
      level: PSR to reach, in (0.5, 1).
      axis: the time axis.
      bias: see `probabilistic_sharpe`.

    Returns:
      `[...]` number of bars, not rounded; +inf if the benchmark is not exceeded at all.

    Raises:
      ValueError: a level outside (0.5, 1); see `probabilistic_sharpe`.

    Reference: Bailey & Lopez de Prado 2012, eq. 11.
    """
    if not 0.5 < level < 1.0:
        raise ValueError(f"level is {level}; it must lie strictly between 0.5 and 1, for example 0.95")
    returns = check_returns(returns, axis=axis, at_least=3 if bias else 4)
    sharpe, skew, kurtosis = _moments(returns, axis, bias)
    beyond = sharpe - benchmark
    needed = 1.0 + _shape(sharpe, skew, kurtosis) * (statistics.NormalDist().inv_cdf(level) / beyond) ** 2
    return jnp.where(beyond > 0, needed, jnp.inf)


def sharpe_error(returns: jax.Array | np.ndarray, *, axis: int = -1, bias: bool = True) -> jax.Array:
    """Standard error of the Sharpe ratio per bar of independent bars, as the PSR has it.

    Args:
      returns: `[..., n]` excess return per bar.
      axis: the time axis.
      bias: see `probabilistic_sharpe`.

    Returns:
      `[...]`.
    """
    returns = check_returns(returns, axis=axis, at_least=3 if bias else 4)
    return jnp.sqrt(_shape(*_moments(returns, axis, bias)) / (returns.shape[axis] - 1.0))


class RollingSharpe(NamedTuple):
    """Sharpe ratio of a moving window, at m of its ends.

    Attributes:
      ratio: `[m]` per bar; NaN where the window has no Sharpe ratio, because its returns are all equal.
      error: `[m]` its standard error, see `sharpe_error`; NaN likewise.
    """

    ratio: jax.Array
    error: jax.Array


def rolling_sharpe(returns: jax.Array | np.ndarray, window: int, ends: jax.Array | np.ndarray) -> RollingSharpe:
    """Sharpe ratio of the last `window` bars, as it was known at the close of some bars.

    Args:
      returns: `[n]` excess return per bar, finite.
      window: bars, in [3, n].
      ends: `[m]` int, numbers of the last bars of the windows, in [window - 1, n - 1].

    Raises:
      ValueError: an argument outside its range.
    """
    returns, ends = jnp.asarray(returns), np.asarray(ends)
    n = len(returns)
    if not 3 <= window <= n:
        raise ValueError(f"window is {window}; it must be from 3 to {n}, the number of bars")
    if len(ends) and not window - 1 <= ends.min() <= ends.max() < n:
        raise ValueError(f"ends reach from {ends.min()} to {ends.max()}; they must lie from {window - 1} to {n - 1}")
    return _rolling_sharpe(returns, window, jnp.asarray(ends, jnp.int32))


@functools.partial(jax.jit, static_argnames="window")
def _rolling_sharpe(returns: jax.Array, window: int, ends: jax.Array) -> RollingSharpe:
    """See `rolling_sharpe`; a window at a time, so that memory does not grow with them."""

    def one(end: jax.Array) -> RollingSharpe:
        own = jax.lax.dynamic_slice_in_dim(returns, end - window + 1, window)
        sharpe, skew, kurtosis = _moments(own, -1, True)
        error = jnp.sqrt(_shape(sharpe, skew, kurtosis) / (window - 1.0))
        known = jnp.isfinite(sharpe) & jnp.isfinite(error)
        return RollingSharpe(jnp.where(known, sharpe, jnp.nan), jnp.where(known, error, jnp.nan))

    return jax.lax.map(one, ends)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _moments(returns: jax.Array, axis: int, bias: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sharpe ratio per bar, skewness and raw kurtosis, `[...]` each."""
    skew = metrics.skewness(returns, axis=axis, bias=bias)
    kurtosis = metrics.kurtosis(returns, axis=axis, excess=False, bias=bias)
    return metrics.sharpe(returns, axis=axis, periods=1.0), skew, kurtosis


@jax.jit
def _shape(sharpe: jax.Array, skewness: jax.Array, kurtosis: jax.Array) -> jax.Array:
    """Variance of the Sharpe ratio times T - 1; NaN where it would not be positive."""
    variance = 1.0 - skewness * sharpe + (kurtosis - 1.0) / 4.0 * sharpe**2
    return jnp.where(variance > 0, variance, jnp.nan)
