"""Return, dispersion, and their ratios."""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp

from jaxppo.risk.metrics.common import TRADING_DAYS, as_float, choice, log_growth, ratio, undefined, unless_missing


def total_return(returns: jax.Array, *, axis: int = -1, compounded: bool = True) -> jax.Array:
    """Total return over the whole series, `prod(1 + r) - 1`; the plain sum when not `compounded`.

    Args:
      returns: `[..., n]` simple return per bar.
      axis: the time axis.
      compounded: profits are reinvested; otherwise every bar trades the starting equity.

    Returns:
      `[...]` fraction of the starting equity, >= -1 when compounded; 0 for an empty series.
    """
    returns = as_float(returns)
    if not compounded:
        return jnp.sum(returns, axis=axis)
    return jnp.expm1(jnp.sum(log_growth(returns), axis=axis))


def annual_return(
    returns: jax.Array, *, axis: int = -1, periods: float = TRADING_DAYS, compounded: bool = True
) -> jax.Array:
    """Compound annual growth rate `prod(1 + r)^(periods / n) - 1`; `periods * mean(r)` when not `compounded`.

    The calendar convention (a year of 365.25 days whatever the bars) is `periods = n / years`.

    Args:
      returns: `[..., n]` simple return per bar.
      axis: the time axis.
      periods: bars per year, > 0.
      compounded: profits are reinvested.

    Returns:
      `[...]` fraction per year; NaN for an empty series.
    """
    returns = as_float(returns)
    n = returns.shape[axis]
    if n == 0:
        return undefined(returns, axis)
    if not compounded:
        return periods * jnp.mean(returns, axis=axis)
    return jnp.expm1(jnp.sum(log_growth(returns), axis=axis) * (periods / n))


def volatility(returns: jax.Array, *, axis: int = -1, periods: float = TRADING_DAYS, ddof: int = 1) -> jax.Array:
    """Annualised standard deviation `std(r) * sqrt(periods)`.

    Args:
      returns: `[..., n]` simple return per bar.
      axis: the time axis.
      periods: bars per year; 1 leaves the figure per bar.
      ddof: the variance divides by `n - ddof`.

    Returns:
      `[...]` fraction per square root of a year, >= 0; NaN below two bars.
    """
    returns = as_float(returns)
    if returns.shape[axis] < 2:
        return undefined(returns, axis)
    constant = jnp.max(returns, axis=axis) == jnp.min(returns, axis=axis)
    return jnp.where(constant, 0.0, jnp.std(returns, axis=axis, ddof=ddof)) * math.sqrt(periods)


def downside_deviation(
    returns: jax.Array,
    *,
    axis: int = -1,
    periods: float = TRADING_DAYS,
    target: float = 0.0,
    about: Literal["target", "mean"] = "target",
    ddof: int = 0,
) -> jax.Array:
    """Annualised root mean square shortfall, `sqrt(sum(min(r - b, 0)^2) / (n - ddof)) * sqrt(periods)`.

    Bars without shortfall count in the denominator. (The standard deviation of the negative returns alone, which also
    goes by this name, is another number.)

    Args:
      returns: `[..., n]` simple return per bar.
      axis: the time axis.
      periods: bars per year.
      target: required return per bar.
      about: shortfall below `target` (Sortino; empyrical, ffn), or below the sample mean (semi-deviation; skfolio, with
        `ddof=1`).
      ddof: the mean square divides by `n - ddof`.

    Returns:
      `[...]` fraction per square root of a year, >= 0; NaN below two bars.
    """
    returns = as_float(returns)
    n = returns.shape[axis]
    if n < 2:
        return undefined(returns, axis)
    below_mean = choice("about", about, ("target", "mean")) == "mean"
    reference = jnp.mean(returns, axis=axis, keepdims=True) if below_mean else target
    shortfall = jnp.minimum(returns - reference, 0.0)
    return jnp.sqrt(jnp.sum(jnp.square(shortfall), axis=axis) / (n - ddof)) * math.sqrt(periods)


def sharpe(
    returns: jax.Array, *, axis: int = -1, periods: float = TRADING_DAYS, risk_free: float = 0.0, ddof: int = 1
) -> jax.Array:
    """Sharpe ratio `mean(r - rf) / std(r - rf) * sqrt(periods)`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxppo.risk import metrics
      >>> round(float(metrics.sharpe(jnp.array([0.01, -0.005, 0.02, 0.0]), periods=252)), 2)
      8.95

    Args:
      returns: `[..., n]` simple return per bar.
      axis: the time axis.
      periods: bars per year; 1 leaves the ratio per bar.
      risk_free: return per bar of the safe asset, subtracted as it is. An annual rate R is `(1 + R)^(1 / periods) - 1`.
      ddof: the variance divides by `n - ddof`.

    Returns:
      `[...]` ratio per square root of a year; +-inf for constant excess returns other than zero, NaN for zero ones (a
      flat strategy) and below two bars.
    """
    excess = as_float(returns) - risk_free
    return ratio(jnp.mean(excess, axis=axis) * periods, volatility(excess, axis=axis, periods=periods, ddof=ddof))


def sortino(
    returns: jax.Array,
    *,
    axis: int = -1,
    periods: float = TRADING_DAYS,
    risk_free: float = 0.0,
    about: Literal["target", "mean"] = "target",
    ddof: int = 0,
) -> jax.Array:
    """Sortino ratio: annual mean excess return over annual `downside_deviation`.

    Args:
      returns: `[..., n]` simple return per bar.
      axis: the time axis.
      periods: bars per year.
      risk_free: required return per bar: what is subtracted, and the target of the downside deviation.
      about: shortfall below `risk_free`, or below the sample mean.
      ddof: the mean square divides by `n - ddof`.

    Returns:
      `[...]` ratio per square root of a year; inf for gains without any shortfall, NaN for an all-zero series and below
      two bars.
    """
    excess = as_float(returns) - risk_free
    risk = downside_deviation(excess, axis=axis, periods=periods, about=about, ddof=ddof)
    return ratio(jnp.mean(excess, axis=axis) * periods, risk)


def information_ratio(
    returns: jax.Array, benchmark: jax.Array, *, axis: int = -1, periods: float = 1.0, ddof: int = 1
) -> jax.Array:
    """Information ratio `mean(r - b) / std(r - b) * sqrt(periods)`.

    Args:
      returns: `[..., n]` simple return per bar.
      benchmark: `[..., n]` return per bar of what it is compared with.
      axis: the time axis.
      periods: bars per year; the usual ratio is per bar, `periods=1` (Grinold; empyrical, quantstats).
      ddof: the variance divides by `n - ddof`.

    Returns:
      `[...]`; +-inf for a constant difference other than zero, NaN for none and below two bars.
    """
    return sharpe(_difference(returns, benchmark), axis=axis, periods=periods, ddof=ddof)


def omega(returns: jax.Array, *, axis: int = -1, threshold: float = 0.0) -> jax.Array:
    """Omega ratio: gains beyond a threshold over shortfalls below it, `sum(max(r - b, 0)) / sum(max(b - r, 0))`.

    Args:
      returns: `[..., n]` simple return per bar.
      axis: the time axis.
      threshold: return per bar that divides gain from loss.

    Returns:
      `[...]` ratio >= 0; NaN without a shortfall and below two bars.

    Reference: Keating & Shadwick, "A Universal Performance Measure", JPM 2002.
    """
    excess = as_float(returns) - threshold
    if excess.shape[axis] < 2:
        return undefined(excess, axis)
    gain = jnp.sum(jnp.maximum(excess, 0.0), axis=axis)
    loss = jnp.sum(jnp.maximum(-excess, 0.0), axis=axis)
    return unless_missing(jnp.where(loss > 0, ratio(gain, loss), jnp.nan), excess, axis)


def _difference(returns: jax.Array, benchmark: jax.Array) -> jax.Array:
    returns, benchmark = as_float(returns), as_float(benchmark)
    if returns.shape != benchmark.shape:
        raise ValueError(f"benchmark has shape {benchmark.shape}; it must be that of the returns, {returns.shape}")
    return returns - benchmark
