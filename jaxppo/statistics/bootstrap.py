"""Confidence intervals of any metric by the stationary bootstrap.

Returns of a trading strategy are serially dependent (volatility clusters, positions last), so they are resampled in
blocks of random length, the mean length chosen from the data.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.statistics.block_length import block_length_or
from jaxppo.statistics.calibration import widened_level, widening
from jaxppo.statistics.checks import check_count, check_level
from jaxppo.statistics.resampling import batch_size, stationary_bootstrap_indices

Metric = Callable[[jax.Array], jax.Array]


def bootstrap_interval(
    key: jax.Array,
    returns: jax.Array,
    metric: Metric,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    mean_block: float | None = None,
) -> tuple[Any, Any]:
    """Bootstraps a percentile interval of a metric, in one compiled call of bounded memory.

    With the chosen block length the interval is calibrated, see `jaxppo.statistics.calibration`: a higher level makes
    up for the dependence that blocks cut, so that the interval covers at its nominal level.

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
      mean_block: mean block length in bars, and no calibration; None takes `optimal_block_length(returns)`.

    Returns:
      `(low, high)`: floats for a scalar metric, else NumPy arrays in the metric's shape. +-inf where the metric is.

    Raises:
      ValueError: for an empty series, a level outside (0, 1), fewer than two resamples or a block shorter than a bar.
    """
    check_level(level)
    check_count("n_resamples", n_resamples, 2)
    returns = jnp.asarray(returns)
    if returns.shape[0] == 0:
        raise ValueError("returns are empty; an interval needs at least one bar")
    length = block_length_or(mean_block, np.asarray(returns))
    if mean_block is None:
        level = widened_level(level, widening(np.asarray(returns), length, level))
    block = jnp.asarray(length, jnp.float32)
    resampled = np.asarray(resampled_metric(key, returns, block, metric=metric, n_resamples=n_resamples))
    return percentile_interval(resampled, level)


def bootstrap_difference_interval(
    key: jax.Array,
    returns: jax.Array | np.ndarray,
    baseline: jax.Array | np.ndarray,
    metric: Metric,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    mean_block: float | None = None,
) -> tuple[Any, Any]:
    """Bootstraps an interval of `metric(returns) - metric(baseline)`, both resampled at the same bars.

    Luck that the two share, most of a long-only agent's, cancels: the interval says whether the agent beats its
    baseline, and is much narrower than two intervals side by side.

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
        key, pair, difference_of(metric), level=level, n_resamples=n_resamples, mean_block=mean_block
    )


@functools.partial(jax.jit, static_argnames=("metric", "n_resamples"))
def resampled_metric(
    key: jax.Array, returns: jax.Array, mean_block: jax.Array, *, metric: Metric, n_resamples: int
) -> jax.Array:
    """Computes a metric of each resample of a stationary bootstrap.

    Args:
      key: consumed.
      returns: `[n, ...]` return per bar.
      mean_block: `[]` mean block length in bars.
      metric: map of an array shaped like `returns`, static.
      n_resamples: static.

    Returns:
      `[n_resamples, ...]`.
    """

    def one(resample_key: jax.Array) -> jax.Array:
        return metric(returns[stationary_bootstrap_indices(resample_key, returns.shape[0], mean_block)])

    together = batch_size(n_resamples, returns.size)
    return jax.lax.map(one, jax.random.split(key, n_resamples), batch_size=together)


@functools.lru_cache(maxsize=64)
def difference_of(metric: Metric) -> Metric:
    """Metric of column 0 less that of column 1; the same function for the same metric, so that nothing recompiles."""
    return lambda pair: metric(pair[:, 0]) - metric(pair[:, 1])


def percentile_interval(resampled: np.ndarray, level: float) -> tuple[Any, Any]:
    """Central interval of resampled metrics, its ends rounded outwards; see `bootstrap_interval` for undefined ones.

    Args:
      resampled: `[n_resamples, ...]`, NaN where undefined.
      level: coverage in (0, 1).

    Returns:
      `(low, high)` `[...]`: floats for a scalar metric.
    """
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
