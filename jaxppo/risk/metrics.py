"""Performance and risk metrics: jittable functions of per-bar simple returns.

Every function takes `returns`, an array of simple returns `equity_t / equity_{t-1} - 1`, and reduces `axis`; the other
axes are a batch. Arguments that choose a convention are static Python values.

Conventions, everywhere:
  * losses are positive: `max_drawdown`, `value_at_risk` and `conditional_value_at_risk` of a losing strategy are > 0;
  * the equity path includes its start, so a loss in the first bar is a drawdown;
  * `periods` is bars per year and `risk_free` a return *per bar*;
  * a return of -1 or less is ruin: the equity is zero from there on.

Degenerate series, everywhere: a ratio whose denominator is zero is +-inf when its numerator is not zero and NaN when
it is, so that a strategy that never traded has no Sharpe ratio rather than a good or a bad one. Dispersion needs two
bars: below that `volatility`, `sharpe` and `sortino` are NaN. `calmar` is NaN without a drawdown. These are the
choices of empyrical-reloaded. A sample whose values are all equal has zero dispersion exactly, whatever its mean rounds
to. A NaN among the returns makes every metric NaN: missing bars are for the caller to drop.

References: Sharpe, "The Sharpe Ratio", JPM 1994; Sortino & van der Meer, "Downside Risk", JPM 1991; Young, "Calmar
Ratio", Futures 1991; Rockafellar & Uryasev, "Conditional value-at-risk for general loss distributions", JBF 2002.
"""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

TRADING_DAYS = 252.0


def total_return(returns: jax.Array, *, axis: int = -1, compounded: bool = True) -> jax.Array:
    """Return over the whole series, `prod(1 + r) - 1`; the plain sum when not `compounded`.

    Args:
      returns: `[..., n]` simple return per bar.
      axis: the time axis.
      compounded: profits are reinvested; otherwise every bar trades the starting equity.

    Returns:
      `[...]` fraction of the starting equity, >= -1 when compounded; 0 for an empty series.
    """
    returns = _as_float(returns)
    if not compounded:
        return jnp.sum(returns, axis=axis)
    return jnp.expm1(jnp.sum(_log_growth(returns), axis=axis))


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
    returns = _as_float(returns)
    n = returns.shape[axis]
    if n == 0:
        return _undefined(returns, axis)
    if not compounded:
        return periods * jnp.mean(returns, axis=axis)
    return jnp.expm1(jnp.sum(_log_growth(returns), axis=axis) * (periods / n))


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
    returns = _as_float(returns)
    if returns.shape[axis] < 2:
        return _undefined(returns, axis)
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
    returns = _as_float(returns)
    n = returns.shape[axis]
    if n < 2:
        return _undefined(returns, axis)
    reference = target if _choice("about", about, ("target", "mean")) == "target" else None
    if reference is None:
        reference = jnp.mean(returns, axis=axis, keepdims=True)
    shortfall = jnp.minimum(returns - reference, 0.0)
    return jnp.sqrt(jnp.sum(jnp.square(shortfall), axis=axis) / (n - ddof)) * math.sqrt(periods)


def sharpe(
    returns: jax.Array, *, axis: int = -1, periods: float = TRADING_DAYS, risk_free: float = 0.0, ddof: int = 1
) -> jax.Array:
    """Sharpe ratio `mean(r - rf) / std(r - rf) * sqrt(periods)`.

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
    excess = _as_float(returns) - risk_free
    return _ratio(jnp.mean(excess, axis=axis) * periods, volatility(excess, axis=axis, periods=periods, ddof=ddof))


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
      about: see `downside_deviation`.
      ddof: see `downside_deviation`.

    Returns:
      `[...]` ratio per square root of a year; inf for gains without any shortfall, NaN for an all-zero series and below
      two bars.
    """
    excess = _as_float(returns) - risk_free
    risk = downside_deviation(excess, axis=axis, periods=periods, about=about, ddof=ddof)
    return _ratio(jnp.mean(excess, axis=axis) * periods, risk)


def drawdown_path(returns: jax.Array, *, axis: int = -1, compounded: bool = True) -> jax.Array:
    """Distance below the running peak at every point of the equity path, its start included.

    `1 - E_t / max_{s<=t} E_s` with `E_0 = 1`; when not `compounded`, `max_{s<=t} C_s - C_t` of the cumulative sum, in
    fractions of the starting equity (the convention of the drawdown-at-risk literature, and skfolio's default).

    Args:
      returns: `[..., n]` simple return per bar.
      axis: the time axis.
      compounded: see above.

    Returns:
      `[..., n + 1]` drawdown >= 0 (at most 1 when compounded); the first entry is 0.
    """
    returns = _as_float(returns)
    axis = axis % returns.ndim
    steps = _log_growth(returns) if compounded else returns
    start = [(int(i == axis), 0) for i in range(steps.ndim)]
    level = jnp.pad(jnp.cumsum(steps, axis=axis), start)
    depth = jax.lax.cummax(level, axis=axis) - level
    return -jnp.expm1(-depth) if compounded else depth


def max_drawdown(returns: jax.Array, *, axis: int = -1, compounded: bool = True) -> jax.Array:
    """Largest loss from a peak, as a positive fraction: the maximum of `drawdown_path`.

    Args:
      returns: `[..., n]` simple return per bar.
      axis: the time axis.
      compounded: see `drawdown_path`.

    Returns:
      `[...]` drawdown >= 0; 0 for a series that never fell.
    """
    return jnp.max(drawdown_path(returns, axis=axis, compounded=compounded), axis=axis)


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
    return jnp.where(drawdown > 0, _ratio(growth, drawdown), jnp.nan)


def value_at_risk(
    returns: jax.Array,
    *,
    axis: int = -1,
    level: float = 0.95,
    method: Literal["empirical", "linear", "gaussian"] = "empirical",
) -> jax.Array:
    """Loss of one bar that is exceeded with probability at most `1 - level`; positive is a loss.

    Args:
      returns: `[..., n]` simple return per bar.
      axis: the time axis.
      level: confidence in (0, 1).
      method: `empirical`, the quantile of the sample itself, `min {v : share(loss <= v) >= level}` (skfolio,
        riskfolio); `linear`, interpolated between order statistics (numpy, empyrical); `gaussian`, from mean and
        standard deviation (quantstats).

    Returns:
      `[...]` fraction of equity; NaN for an empty series (below two bars for `gaussian`).

    Raises:
      ValueError: for a level outside (0, 1) or an unknown method.
    """
    returns = _as_float(returns)
    n = returns.shape[axis]
    tail = _tail_count(level, n)
    if _choice("method", method, ("empirical", "linear", "gaussian")) == "gaussian":
        mean, deviation = jnp.mean(returns, axis=axis), volatility(returns, axis=axis, periods=1.0)
        return -(mean + norm.ppf(1.0 - level) * deviation)
    if n == 0:
        return _undefined(returns, axis)
    if method == "linear":
        return -jnp.quantile(returns, 1.0 - level, axis=axis)
    return _largest_losses(returns, axis)[..., min(math.floor(tail), n - 1)]


def conditional_value_at_risk(
    returns: jax.Array,
    *,
    axis: int = -1,
    level: float = 0.95,
    method: Literal["exact", "lowest", "gaussian"] = "exact",
) -> jax.Array:
    """Mean loss of one bar in the worst `1 - level` of the distribution; positive is a loss.

    `exact` is the Rockafellar-Uryasev minimum `min_v v + mean(max(-r - v, 0)) / (1 - level)` of the sample: with
    `k = (1 - level) n`, the mean of the `k` lowest returns, the last one counted by the fraction of it that falls in
    the tail.

    Args:
      returns: `[..., n]` simple return per bar.
      axis: the time axis.
      level: confidence in (0, 1).
      method: `exact` (skfolio, riskfolio); `lowest`, the plain mean of the lowest `floor((n - 1)(1 - level)) + 1`
        returns (empyrical); `gaussian`, from mean and standard deviation (quantstats).

    Returns:
      `[...]` fraction of equity, >= `value_at_risk` for `exact`; NaN for an empty series (below two bars for
      `gaussian`).

    Raises:
      ValueError: for a level outside (0, 1) or an unknown method.
    """
    returns = _as_float(returns)
    n = returns.shape[axis]
    tail = _tail_count(level, n)
    if _choice("method", method, ("exact", "lowest", "gaussian")) == "gaussian":
        mean, deviation = jnp.mean(returns, axis=axis), volatility(returns, axis=axis, periods=1.0)
        return deviation * norm.pdf(norm.ppf(level)) / (1.0 - level) - mean
    if n == 0:
        return _undefined(returns, axis)
    losses = _largest_losses(returns, axis)
    if method == "lowest":
        return jnp.mean(losses[..., : int((n - 1) * (1.0 - level)) + 1], axis=-1)
    whole = math.ceil(tail) - 1
    return (jnp.sum(losses[..., :whole], axis=-1) + (tail - whole) * losses[..., whole]) / tail


def win_rate(returns: jax.Array, *, axis: int = -1, count_flat: bool = False) -> jax.Array:
    """Share of bars with a gain.

    Args:
      returns: `[..., n]` simple return per bar.
      axis: the time axis.
      count_flat: bars with a return of exactly zero (no position) count as not won; otherwise they do not count at all
        (quantstats).

    Returns:
      `[...]` fraction in [0, 1]; NaN when no bar counts.
    """
    returns = _as_float(returns)
    won = jnp.mean(returns > 0, axis=axis, dtype=returns.dtype)
    counted = 1.0 if count_flat else jnp.mean(returns != 0, axis=axis, dtype=returns.dtype)
    return jnp.where(jnp.any(jnp.isnan(returns), axis=axis), jnp.nan, _ratio(won, counted))


def _as_float(returns: jax.Array) -> jax.Array:
    """`returns` as a floating-point array; integers are promoted."""
    returns = jnp.asarray(returns)
    return returns if jnp.issubdtype(returns.dtype, jnp.floating) else returns.astype(jnp.result_type(float))


def _log_growth(returns: jax.Array) -> jax.Array:
    """`log(1 + r)`, exact for the tiny returns of short bars, where `1 + r` has rounded them away; -inf at ruin."""
    return jnp.log1p(jnp.maximum(returns, -1.0))


def _ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """`numerator / denominator` by the module's rule for zeros, without an invalid gradient where it is finite."""
    zero = jnp.equal(denominator, 0)
    undefined = jnp.where(numerator == 0, jnp.nan, jnp.sign(numerator) * jnp.inf)
    return jnp.where(zero, undefined, numerator / jnp.where(zero, 1.0, denominator))


def _largest_losses(returns: jax.Array, axis: int) -> jax.Array:
    """`[..., n]` losses `-returns`, largest first along the last axis, no negative zeros; all NaN where one is."""
    ordered = jnp.sort(jnp.moveaxis(returns, axis, -1), axis=-1)
    return jnp.where(jnp.isnan(ordered[..., -1:]), jnp.nan, 0.0 - ordered)


def _undefined(returns: jax.Array, axis: int) -> jax.Array:
    """NaN in the shape of `returns` without `axis`."""
    axis = axis % returns.ndim
    return jnp.full(returns.shape[:axis] + returns.shape[axis + 1 :], jnp.nan, returns.dtype)


def _tail_count(level: float, n: int) -> float:
    """Number of bars `(1 - level) n` in the tail, without the rounding error that would turn 5 bars into 5 + 4e-15."""
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}; it must lie strictly between 0 and 1, for example 0.95")
    tail = (1.0 - level) * n
    whole = round(tail)
    return float(whole) if whole > 0 and abs(tail - whole) < 1e-9 * n else tail


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> str:
    """`value` if it is allowed, else a ValueError that lists what is."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")
    return value
