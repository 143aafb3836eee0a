"""Drawdowns, the distance below the running peak: how deep, how long, on average and in the worst bars."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxppo.risk.metrics.common import TRADING_DAYS, as_float, log_growth, ratio, undefined, unless_missing
from jaxppo.risk.metrics.performance import annual_return
from jaxppo.risk.metrics.tails import conditional_value_at_risk


def drawdown_path(returns: jax.Array, *, axis: int = -1, compounded: bool = True) -> jax.Array:
    """Drawdown, the distance below the running peak, at every point of the equity path, its start included.

    `1 - E_t / max_{s<=t} E_s` with `E_0 = 1`; when not `compounded`, `max_{s<=t} C_s - C_t` of the cumulative sum, in
    fractions of the starting equity (the convention of the drawdown-at-risk literature, and skfolio's default).

    Args:
      returns: `[..., n]` simple return per bar.
      axis: the time axis.
      compounded: whether returns compound; else they add up.

    Returns:
      `[..., n + 1]` drawdown >= 0 (at most 1 when compounded); the first entry is 0.
    """
    returns = as_float(returns)
    axis = axis % returns.ndim
    level = _level(log_growth(returns) if compounded else returns, axis)
    depth = jax.lax.cummax(level, axis=axis) - level
    return -jnp.expm1(-depth) if compounded else depth


def max_drawdown(returns: jax.Array, *, axis: int = -1, compounded: bool = True) -> jax.Array:
    """Maximum drawdown: largest loss from a peak, as a positive fraction.

    Args:
      returns: `[..., n]` simple return per bar.
      axis: the time axis.
      compounded: drawdowns of compounded returns; else of their sum.

    Returns:
      `[...]` drawdown >= 0; 0 for a series that never fell.
    """
    returns = as_float(returns)
    deepest = jnp.max(drawdown_path(returns, axis=axis, compounded=compounded), axis=axis)
    return unless_missing(deepest, returns, axis)


def calmar(returns: jax.Array, *, axis: int = -1, periods: float = TRADING_DAYS, compounded: bool = True) -> jax.Array:
    """Calmar ratio: annual return over maximum drawdown.

    Args:
      returns: `[..., n]` simple return per bar.
      axis: the time axis.
      periods: bars per year.
      compounded: both parts compounded (empyrical), or neither.

    Returns:
      `[...]` ratio per year; NaN for a series without drawdown.
    """
    growth = annual_return(returns, axis=axis, periods=periods, compounded=compounded)
    drawdown = max_drawdown(returns, axis=axis, compounded=compounded)
    return jnp.where(drawdown > 0, ratio(growth, drawdown), jnp.nan)


def max_drawdown_duration(returns: jax.Array, *, axis: int = -1) -> jax.Array:
    """Duration of the longest drawdown in bars, from its peak to the bar that reaches the peak again, or to the end.

    A depth within rounding of the running sum (16 units in the last place) is no drawdown, so bars without a position
    do not begin one.

    Args:
      returns: `[..., n]` simple return per bar.
      axis: the time axis.

    Returns:
      `[...]` number of bars in [0, n].
    """
    returns = as_float(returns)
    level = jnp.moveaxis(_level(log_growth(returns), axis), axis, -1)
    peak = jax.lax.cummax(level, axis=level.ndim - 1)
    slack = 16.0 * jnp.finfo(level.dtype).eps * jnp.maximum(jnp.abs(peak), 1.0)
    under = peak - level > jnp.where(jnp.isfinite(peak), slack, 0.0)
    time = jnp.broadcast_to(jnp.arange(level.shape[-1], dtype=jnp.int32), level.shape)
    since = jax.lax.cummax(jnp.where(under, 0, time), axis=level.ndim - 1)
    # A bar belongs to a drawdown if it ends below the peak or climbs back to it.
    lasted = jnp.where(under[..., 1:] | under[..., :-1], time[..., 1:] - since[..., :-1], 0)
    longest = jnp.max(lasted, axis=-1, initial=0).astype(returns.dtype)
    return unless_missing(longest, returns, axis)


def ulcer_index(returns: jax.Array, *, axis: int = -1, ddof: int = 0, compounded: bool = True) -> jax.Array:
    """Ulcer index: root mean square drawdown, `sqrt(sum(D_t^2) / (n - ddof))`.

    Args:
      returns: `[..., n]` simple return per bar.
      axis: the time axis.
      ddof: the mean square divides by `n - ddof`: 0 (skfolio), 1 (quantstats), -1 counts the start as well (ffn, which
        gives per cent).
      compounded: drawdowns of compounded returns; else of their sum.

    Returns:
      `[...]` fraction >= 0; NaN for an empty series.

    Reference: Martin & McCann, "The Investor's Guide to Fidelity Funds", 1989.
    """
    returns = as_float(returns)
    n = returns.shape[axis]
    if n - ddof <= 0:
        return undefined(returns, axis)
    path = drawdown_path(returns, axis=axis, compounded=compounded)
    return jnp.sqrt(jnp.sum(jnp.square(path), axis=axis) / (n - ddof))


def conditional_drawdown_at_risk(
    returns: jax.Array, *, axis: int = -1, level: float = 0.95, compounded: bool = True
) -> jax.Array:
    """Conditional drawdown at risk: mean drawdown in the worst `1 - level` of the bars, by Rockafellar and Uryasev.

    Args:
      returns: `[..., n]` simple return per bar.
      axis: the time axis.
      level: confidence in (0, 1).
      compounded: drawdowns of compounded returns; else of their sum, as in the original and skfolio's default.

    Returns:
      `[...]` fraction >= 0, at most `max_drawdown`; NaN for an empty series.

    Raises:
      ValueError: for a level outside (0, 1).

    Reference: Chekhlov, Uryasev & Zabarankin, "Drawdown Measure in Portfolio Optimization", IJTAF 2005.
    """
    path = drawdown_path(returns, axis=axis, compounded=compounded)
    after = jax.lax.slice_in_dim(path, 1, None, axis=axis % path.ndim)
    return conditional_value_at_risk(-after, axis=axis, level=level)


def _level(steps: jax.Array, axis: int) -> jax.Array:
    """Running sum of `steps`, its start, 0, included."""
    axis = axis % steps.ndim
    return jnp.pad(jnp.cumsum(steps, axis=axis), [(int(i == axis), 0) for i in range(steps.ndim)])
