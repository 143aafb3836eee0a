"""The worst bars: value at risk, the mean beyond it, and the shape of the distribution."""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from jaxppo.risk.metrics.common import as_float, choice, ratio, tail_count, undefined
from jaxppo.risk.metrics.performance import volatility


def value_at_risk(
    returns: jax.Array,
    *,
    axis: int = -1,
    level: float = 0.95,
    method: Literal["empirical", "linear", "gaussian", "cornish_fisher"] = "empirical",
) -> jax.Array:
    """Value at risk: loss of one bar that is exceeded with probability at most `1 - level`; positive is a loss.

    Args:
      returns: `[..., n]` simple return per bar.
      axis: the time axis.
      level: confidence in (0, 1).
      method: `empirical`, the quantile of the sample itself, `min {v : share(loss <= v) >= level}` (skfolio,
        riskfolio); `linear`, interpolated between order statistics (numpy, empyrical); `gaussian`, from mean and
        standard deviation (quantstats); `cornish_fisher`, that with the quantile corrected for skewness and kurtosis,
        `z + (z^2 - 1) S / 6 + (z^3 - 3 z) K / 24 - (2 z^3 - 5 z) S^2 / 36` (Favre & Galeano 2002), the moments dividing
        by n (PerformanceAnalytics).

    Returns:
      `[...]` fraction of equity; NaN for an empty series (below two bars from moments).

    Raises:
      ValueError: for a level outside (0, 1) or an unknown method.
    """
    returns = as_float(returns)
    n = returns.shape[axis]
    tail = tail_count(level, n)
    if choice("method", method, ("empirical", "linear", "gaussian", "cornish_fisher")) in (
        "gaussian",
        "cornish_fisher",
    ):
        return value_at_risk_of(*_moments(returns, axis, method), level)
    if n == 0:
        return undefined(returns, axis)
    if method == "linear":
        return -jnp.quantile(returns, 1.0 - level, axis=axis)
    return _largest_losses(returns, axis)[..., min(math.floor(tail), n - 1)]


def conditional_value_at_risk(
    returns: jax.Array,
    *,
    axis: int = -1,
    level: float = 0.95,
    method: Literal["exact", "lowest", "gaussian", "cornish_fisher"] = "exact",
) -> jax.Array:
    """Conditional value at risk: mean loss of one bar in the worst `1 - level` of the bars; positive is a loss.

    `exact` is the Rockafellar-Uryasev minimum `min_v v + mean(max(-r - v, 0)) / (1 - level)` of the sample: with
    `k = (1 - level) n`, the mean of the `k` lowest returns, the last one counted by the fraction of it that falls in
    the tail.

    Args:
      returns: `[..., n]` simple return per bar.
      axis: the time axis.
      level: confidence in (0, 1).
      method: `exact` (skfolio, riskfolio); `lowest`, the plain mean of the lowest `floor((n - 1)(1 - level)) + 1`
        returns (empyrical); `gaussian`, from mean and standard deviation (quantstats); `cornish_fisher`, the mean of
        the Edgeworth density beyond the quantile of that name.

    Returns:
      `[...]` fraction of equity, >= `value_at_risk` for `exact`; NaN for an empty series (below two bars from moments).

    Raises:
      ValueError: for a level outside (0, 1) or an unknown method.

    Reference: Boudt, Peterson & Croux, "Estimation and decomposition of downside risk for portfolios with non-normal
    returns", Journal of Risk 2008, appendix.
    """
    returns = as_float(returns)
    n = returns.shape[axis]
    tail = tail_count(level, n)
    if choice("method", method, ("exact", "lowest", "gaussian", "cornish_fisher")) in ("gaussian", "cornish_fisher"):
        return conditional_value_at_risk_of(*_moments(returns, axis, method), level)
    if n == 0:
        return undefined(returns, axis)
    losses = _largest_losses(returns, axis)
    if method == "lowest":
        return jnp.mean(losses[..., : math.floor(tail_count(level, n - 1)) + 1], axis=-1)
    whole = math.ceil(tail) - 1
    return (jnp.sum(losses[..., :whole], axis=-1) + (tail - whole) * losses[..., whole]) / tail


def _largest_losses(returns: jax.Array, axis: int) -> jax.Array:
    """`[..., n]` losses `-returns`, largest first along the last axis, no negative zeros; all NaN where one is."""
    ordered = jnp.sort(jnp.moveaxis(returns, axis, -1), axis=-1)
    return jnp.where(jnp.isnan(ordered[..., -1:]), jnp.nan, 0.0 - ordered)


def tail_ratio(returns: jax.Array, *, axis: int = -1, level: float = 0.95) -> jax.Array:
    """Tail ratio: size of the best bars over that of the worst, `|q(level)| / |q(1 - level)|`.

    Args:
      returns: `[..., n]` simple return per bar.
      axis: the time axis.
      level: of the upper quantile, in (0, 1); quantiles are interpolated (numpy, empyrical).

    Returns:
      `[...]` ratio >= 0; NaN for an empty series.

    Raises:
      ValueError: for a level outside (0, 1).
    """
    returns = as_float(returns)
    tail_count(level, returns.shape[axis])
    if returns.shape[axis] == 0:
        return undefined(returns, axis)
    upper, lower = (jnp.abs(jnp.quantile(returns, q, axis=axis)) for q in (level, 1.0 - level))
    return ratio(upper, lower)


def skewness(returns: jax.Array, *, axis: int = -1, bias: bool = True) -> jax.Array:
    """Third standardised moment, 0 for a symmetric distribution.

    Args:
      returns: `[..., n]` simple return per bar.
      axis: the time axis.
      bias: moments divide by n (scipy, the Sharpe-ratio literature); otherwise the adjusted estimator `G1` (pandas,
        quantstats, ffn), which needs three bars.

    Returns:
      `[...]`; NaN for a constant or too short series.
    """
    returns = as_float(returns)
    n = returns.shape[axis]
    if n < (1 if bias else 3):
        return undefined(returns, axis)
    skew = _standardised(returns, axis)[0]
    return skew if bias else skew * math.sqrt(n * (n - 1)) / (n - 2)


def kurtosis(returns: jax.Array, *, axis: int = -1, excess: bool = True, bias: bool = True) -> jax.Array:
    """Fourth standardised moment, less 3 if `excess`: 0 (or 3) for a normal distribution.

    Args:
      returns: `[..., n]` simple return per bar.
      axis: the time axis.
      excess: subtract 3.
      bias: moments divide by n (scipy); otherwise the adjusted estimator `G2` (pandas, quantstats, ffn), which needs
        four bars.

    Returns:
      `[...]`; NaN for a constant or too short series.
    """
    returns = as_float(returns)
    n = returns.shape[axis]
    if n < (1 if bias else 4):
        return undefined(returns, axis)
    beyond = _standardised(returns, axis)[1]
    if not bias:
        beyond = (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * beyond + 6.0)
    return beyond if excess else beyond + 3.0


def value_at_risk_of(
    mean: jax.Array, deviation: jax.Array, skew: jax.Array | None, excess: jax.Array | None, level: float
) -> jax.Array:
    """Value at risk of moments: Gaussian without skewness and excess kurtosis, Cornish-Fisher with them.

    Args:
      mean: `[...]` of the return per bar.
      deviation: `[...]` standard deviation of the return per bar.
      skew: `[...]` skewness; None for Gaussian.
      excess: `[...]` excess kurtosis; None for Gaussian.
      level: confidence in (0, 1).
    """
    return -(mean + _quantile(skew, excess, level) * deviation)


def conditional_value_at_risk_of(
    mean: jax.Array, deviation: jax.Array, skew: jax.Array | None, excess: jax.Array | None, level: float
) -> jax.Array:
    """Conditional value at risk of moments: Gaussian or, with skewness and excess kurtosis, Cornish-Fisher.

    Args:
      mean: `[...]` of the return per bar.
      deviation: `[...]` standard deviation of the return per bar.
      skew: `[...]` skewness; None for Gaussian.
      excess: `[...]` excess kurtosis; None for Gaussian.
      level: confidence in (0, 1).
    """
    h = _quantile(skew, excess, level)
    density = norm.pdf(h)
    if skew is not None and excess is not None:
        thicker = skew / 6.0 * h**3 + excess / 24.0 * (h**4 - 2.0 * h**2 - 1.0)
        density *= 1.0 + thicker + jnp.square(skew) / 72.0 * (h**6 - 9.0 * h**4 + 9.0 * h**2 + 3.0)
    return deviation * density / (1.0 - level) - mean


def _quantile(skew: jax.Array | None, excess: jax.Array | None, level: float) -> jax.Array:
    """Lower quantile of a standardised variable."""
    z = norm.ppf(1.0 - level)
    if skew is None or excess is None:
        return z
    first = (z**2 - 1.0) * skew / 6.0 + (z**3 - 3.0 * z) * excess / 24.0
    return z + first - (2.0 * z**3 - 5.0 * z) * jnp.square(skew) / 36.0


def _moments(
    returns: jax.Array, axis: int, method: str
) -> tuple[jax.Array, jax.Array, jax.Array | None, jax.Array | None]:
    """Moments for `value_at_risk_of`. Cornish-Fisher moments divide by n; a constant series has no shape, so 0."""
    mean = jnp.mean(returns, axis=axis)
    if method == "gaussian":
        return mean, volatility(returns, axis=axis, periods=1.0), None, None
    if returns.shape[axis] < 2:
        return (undefined(returns, axis),) * 4
    deviation = volatility(returns, axis=axis, periods=1.0, ddof=0)
    skew, excess = (jnp.where(deviation == 0, 0.0, x) for x in _standardised(returns, axis))
    return mean, deviation, skew, excess


def _standardised(returns: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Skewness and excess kurtosis, dividing by n; NaN for a constant series.

    Deviations are in units of the largest, so that their powers stay within the range of float32.
    """
    centred = returns - jnp.mean(returns, axis=axis, keepdims=True)
    constant = jnp.max(returns, axis=axis) == jnp.min(returns, axis=axis)
    largest = jnp.max(jnp.abs(centred), axis=axis, keepdims=True)
    scaled = centred / jnp.where(largest > 0, largest, 1.0)
    square, cube, fourth = (jnp.mean(scaled**power, axis=axis) for power in (2, 3, 4))
    square = jnp.where(constant, jnp.nan, square)
    return cube / square**1.5, fourth / jnp.square(square) - 3.0
