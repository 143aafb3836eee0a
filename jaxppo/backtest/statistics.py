"""How sure can we be? Stationary bootstrap, its block length, and confidence intervals of any metric.

Returns of a trading strategy are serially dependent (volatility clusters, positions last), so they are resampled in
blocks of random length (Politis & Romano, "The Stationary Bootstrap", JASA 1994), the mean length chosen from the data
(Politis & White, "Automatic block-length selection", Econometric Reviews 2004, with the correction of Patton, Politis &
White 2009).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.risk import metrics

Metric = Callable[[jax.Array], jax.Array]

# Numbers drawn at once: what bounds the memory of a bootstrap whatever the length of the series.
_BATCH_ELEMENTS = 2**20


def stationary_indices(start: jax.Array, uniform: jax.Array, probability: jax.Array | float) -> jax.Array:
    """Bars visited by a stationary bootstrap, from the random numbers that drive it (unbatched).

    With probability `p` a new block begins at a fresh `start_t`, else the walk goes on to the next bar, from the last
    to the first: `i_t = start_t if u_t <= p else (i_{t-1} + 1) mod n`, `i_0 = start_0`. The recursion only ever counts
    the bars since the block began, so it is a running maximum and needs no loop.

    Args:
      start: `[n]` int32, uniform on [0, n).
      uniform: `[n]` uniform on [0, 1).
      probability: of a new block in a bar, the inverse of the mean block length, in (0, 1].

    Returns:
      `[n]` int32 in [0, n).
    """
    n = start.shape[0]
    position = jnp.arange(n, dtype=start.dtype)
    begins = (uniform <= probability) | (position == 0)
    block_start = jax.lax.cummax(jnp.where(begins, position, 0))
    return (start[block_start] + position - block_start) % n


def stationary_bootstrap_indices(key: jax.Array, n: int, mean_block: jax.Array | float) -> jax.Array:
    """One resample of `n` bars by the stationary bootstrap (unbatched; `vmap` over keys).

    Args:
      key: consumed.
      n: number of bars, static, >= 1.
      mean_block: mean length of a block in bars, >= 1; 1 is the ordinary bootstrap. Traceable.

    Returns:
      `[n]` int32 in [0, n): `returns[indices]` is the resample, all columns of a panel together.
    """
    start_key, block_key = jax.random.split(key)
    start = jax.random.randint(start_key, (n,), 0, n)
    return stationary_indices(start, jax.random.uniform(block_key, (n,)), 1.0 / mean_block)


def optimal_block_length(returns: np.ndarray, *, circular: bool = False) -> float:
    """Mean block length that minimises the mean squared error of the bootstrap variance of the mean. Host-side.

    `b = (2 G^2 / D)^(1/3) n^(1/3)` with `G = sum_k lambda(k / M) |k| R(k)`, the spectral density at zero
    `g = sum_k lambda(k / M) R(k)`, `D = 2 g^2` (stationary) or `4/3 g^2` (circular blocks), the flat-top window
    `lambda(x) = min(1, 2 (1 - |x|))`, and `M` twice the first lag from which `max(5, log10 n)` autocorrelations in a
    row are within `2 sqrt(log10(n) / n)`. At most `ceil(min(3 sqrt(n), n / 3))`.

    Args:
      returns: `[n]` or `[n, S]`; of several series the longest length is taken, so that one resampling serves all.
      circular: for the circular block bootstrap with fixed block length.

    Returns:
      Length in bars, >= 1; 1 where there is nothing to estimate (fewer than 4 bars, a constant series).

    Raises:
      ValueError: if a value is not finite.

    Reference: Politis & White 2004, section 3; Patton, Politis & White, Econometric Reviews 28(4), 2009.
    """
    columns = np.asarray(returns, dtype=np.float64)
    if not np.isfinite(columns).all():
        raise ValueError("returns contain a value that is not finite; drop those bars first")
    columns = columns[:, None] if columns.ndim == 1 else columns
    return max(_block_length(column, circular) for column in columns.T)


def bootstrap_interval(
    key: jax.Array,
    returns: jax.Array,
    metric: Metric,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    mean_block: float | None = None,
) -> tuple[Any, Any]:
    """Percentile interval of a metric by the stationary bootstrap, in one compiled call of bounded memory.

    The ends are order statistics of the resampled metric, rounded outwards. Resamples where the metric is undefined
    (NaN) are left out as long as they are no more than one tail holds; with more of them the interval is NaN, since its
    ends would depend on what one takes them for.

    Args:
      key: consumed.
      returns: `[n]` or `[n, S]` return per bar; the columns are resampled together.
      metric: jittable map of an array shaped like `returns` to a scalar or an array. It is a static argument: pass the
        same function again, rather than a new lambda or partial, to reuse what was compiled.
      level: coverage in (0, 1).
      n_resamples: number of resamples, >= 2.
      mean_block: mean block length in bars; None takes `optimal_block_length(returns)`.

    Returns:
      `(low, high)`: floats for a scalar metric, else NumPy arrays in the metric's shape. +-inf where the metric is.

    Raises:
      ValueError: for an empty series, a level outside (0, 1), fewer than two resamples or a block shorter than a bar.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}; it must lie strictly between 0 and 1, for example 0.95")
    if n_resamples < 2:
        raise ValueError(f"n_resamples is {n_resamples}; an interval needs at least 2")
    returns = jnp.asarray(returns)
    if returns.shape[0] == 0:
        raise ValueError("returns are empty; an interval needs at least one bar")
    if mean_block is None:
        mean_block = optimal_block_length(np.asarray(returns))
    if not mean_block >= 1.0:
        raise ValueError(f"mean_block is {mean_block}; a block is at least one bar long")
    block = jnp.asarray(mean_block, jnp.float32)
    resampled = np.asarray(_resampled_metric(key, returns, block, metric=metric, n_resamples=n_resamples))
    return _percentile_interval(resampled, level)


def bootstrap_difference_interval(
    key: jax.Array,
    returns: jax.Array,
    baseline: jax.Array,
    metric: Metric,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    mean_block: float | None = None,
) -> tuple[Any, Any]:
    """Interval of `metric(returns) - metric(baseline)`, both resampled at the same bars.

    What the two have in common, which is most of a long-only agent's luck, cancels: the interval is the one that says
    whether the agent beats its baseline, and is much narrower than two intervals side by side.

    Args:
      key: consumed.
      returns: `[n]` return per bar of the strategy.
      baseline: `[n]` return per bar of the baseline, in the same bars.
      metric: see `bootstrap_interval`.
      level: see `bootstrap_interval`.
      n_resamples: see `bootstrap_interval`.
      mean_block: see `bootstrap_interval`; None takes the longer of the optimal lengths of the two.

    Returns:
      `(low, high)`; see `bootstrap_interval`.

    Raises:
      ValueError: if the series differ in length; see `bootstrap_interval`.
    """
    if len(returns) != len(baseline):
        raise ValueError(
            f"the strategy has {len(returns)} bars and the baseline {len(baseline)}; they must be the same bars"
        )
    pair = jnp.stack([jnp.asarray(returns), jnp.asarray(baseline)], axis=1)
    return bootstrap_interval(
        key, pair, _difference_of(metric), level=level, n_resamples=n_resamples, mean_block=mean_block
    )


def summarise(
    returns: jax.Array, *, periods: float, key: jax.Array, n_resamples: int = 2000, level: float = 0.95
) -> dict[str, Any]:
    """The out-of-sample figures of one strategy, ready for JSON: an undefined or infinite number is None.

    Args:
      returns: `[n]` simple return per bar, net of costs, n >= 1.
      periods: bars per year.
      key: consumed by the bootstrap.
      n_resamples: of the interval of the Sharpe ratio.
      level: of the same interval.

    Returns:
      `sharpe` (annual), `sharpe_ci` (`[low, high]`), `sortino` (annual), `calmar`, `max_drawdown` (positive fraction),
      `cvar_95` (positive fraction of equity per bar), `win_rate` (share of the bars with a gain or a loss),
      `total_return` (fraction), `n_bars`.

    Raises:
      ValueError: for an empty series.
    """
    returns = jnp.asarray(returns)
    interval = bootstrap_interval(key, returns, sharpe_per_bar, level=level, n_resamples=n_resamples)
    figures = jax.device_get(_figures(returns, periods=float(periods)))
    scale = math.sqrt(periods)
    return {
        "sharpe": _json_number(figures["sharpe"]),
        "sharpe_ci": [_json_number(end * scale) for end in interval],
        **{name: _json_number(figures[name]) for name in ("sortino", "calmar", "max_drawdown", "cvar_95")},
        **{name: _json_number(figures[name]) for name in ("win_rate", "total_return")},
        "n_bars": int(returns.shape[0]),
    }


def sharpe_per_bar(returns: jax.Array) -> jax.Array:
    """Sharpe ratio that is not annualised, so that one compiled bootstrap serves every bar length."""
    return metrics.sharpe(returns, periods=1.0)


@functools.partial(jax.jit, static_argnames=("periods",))
def _figures(returns: jax.Array, periods: float) -> dict[str, jax.Array]:
    """Scalars of `summarise` that come straight from the returns `[n]`."""
    return {
        "sharpe": metrics.sharpe(returns, periods=periods),
        "sortino": metrics.sortino(returns, periods=periods),
        "calmar": metrics.calmar(returns, periods=periods),
        "max_drawdown": metrics.max_drawdown(returns),
        "cvar_95": metrics.conditional_value_at_risk(returns, level=0.95),
        "win_rate": metrics.win_rate(returns),
        "total_return": metrics.total_return(returns),
    }


@functools.partial(jax.jit, static_argnames=("metric", "n_resamples"))
def _resampled_metric(
    key: jax.Array, returns: jax.Array, mean_block: jax.Array, *, metric: Metric, n_resamples: int
) -> jax.Array:
    """`[n_resamples, ...]` metric of each resample of `returns [n, ...]`; the key is consumed."""

    def one(resample_key: jax.Array) -> jax.Array:
        return metric(returns[stationary_bootstrap_indices(resample_key, returns.shape[0], mean_block)])

    batch = max(1, min(n_resamples, _BATCH_ELEMENTS // returns.size))
    return jax.lax.map(one, jax.random.split(key, n_resamples), batch_size=batch)


@functools.lru_cache(maxsize=64)
def _difference_of(metric: Metric) -> Metric:
    """The metric of column 0 less that of column 1; the same function for the same metric, so nothing recompiles."""
    return lambda pair: metric(pair[:, 0]) - metric(pair[:, 1])


def _percentile_interval(resampled: np.ndarray, level: float) -> tuple[Any, Any]:
    """Central interval of each column of `[n_resamples, ...]`; see `bootstrap_interval` for undefined resamples."""
    tail = (1.0 - level) / 2.0
    ordered = np.sort(resampled, axis=0)  # NaN last
    undefined = np.isnan(ordered).sum(axis=0)
    last = np.maximum(len(ordered) - undefined - 1, 0)
    ends = []
    for position in (np.floor(tail * last), np.ceil((1.0 - tail) * last)):
        end = np.take_along_axis(ordered, position.astype(np.int64)[None], axis=0)[0]
        ends.append(np.where(undefined > tail * len(ordered), np.nan, end))
    low, high = ends
    return (low, high) if low.ndim else (float(low), float(high))


def _block_length(series: np.ndarray, circular: bool) -> float:
    """`optimal_block_length` of one series `[n]` float64."""
    n = len(series)
    if n < 4 or np.ptp(series) == 0.0:
        return 1.0
    deviation = series - series.mean()
    in_a_row = max(5, int(math.log10(n)))
    n_lags = min(math.ceil(math.sqrt(n)) + in_a_row, n - 1)
    autocovariance = np.array([deviation[lag:] @ deviation[: n - lag] for lag in range(n_lags + 1)]) / n
    correlation = np.abs(autocovariance[1:] / autocovariance[0])
    insignificant = correlation < 2.0 * math.sqrt(math.log10(n) / n)
    runs = (
        np.convolve(insignificant, np.ones(in_a_row), mode="valid") == in_a_row if n_lags >= in_a_row else np.zeros(1)
    )
    window = min(2 * (int(np.argmax(runs)) + 1), n_lags) if runs.any() else n_lags
    lags = np.arange(1, window + 1)
    weight = np.minimum(1.0, 2.0 * (1.0 - lags / window))
    slope = 2.0 * np.sum(weight * lags * autocovariance[1 : window + 1])
    spectrum = autocovariance[0] + 2.0 * np.sum(weight * autocovariance[1 : window + 1])
    scale = (4.0 / 3.0 if circular else 2.0) * spectrum**2
    if scale == 0.0:
        return 1.0
    length = float((2.0 * slope**2 / scale) ** (1.0 / 3.0) * n ** (1.0 / 3.0))
    return max(1.0, min(length, math.ceil(min(3.0 * math.sqrt(n), n / 3.0))))


def _json_number(value: Any) -> float | None:
    """A Python float, or None where JSON has no such number."""
    number = float(value)
    return number if math.isfinite(number) else None
