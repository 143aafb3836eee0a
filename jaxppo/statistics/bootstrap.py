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

from jaxppo.statistics.block_length import optimal_block_length
from jaxppo.statistics.calibration import widened_level, widening
from jaxppo.statistics.resampling import BATCH_ELEMENTS, stationary_bootstrap_indices

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
    """Percentile interval of a metric by the stationary bootstrap, in one compiled call of bounded memory.

    With the block length that it chooses, the interval is calibrated: taken at the higher level at which it makes up
    for the dependence that blocks cut, see `jaxppo.statistics.calibration`, so that it covers at its level.

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
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}; it must lie strictly between 0 and 1, for example 0.95")
    if n_resamples < 2:
        raise ValueError(f"n_resamples is {n_resamples}; an interval needs at least 2")
    returns = jnp.asarray(returns)
    if returns.shape[0] == 0:
        raise ValueError("returns are empty; an interval needs at least one bar")
    if mean_block is None:
        mean_block = optimal_block_length(np.asarray(returns))
        level = widened_level(level, widening(np.asarray(returns), mean_block, level))
    if not mean_block >= 1.0:
        raise ValueError(f"mean_block is {mean_block}; a block is at least one bar long")
    block = jnp.asarray(mean_block, jnp.float32)
    resampled = np.asarray(resampled_metric(key, returns, block, metric=metric, n_resamples=n_resamples))
    return percentile_interval(resampled, level)


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
        key, pair, difference_of(metric), level=level, n_resamples=n_resamples, mean_block=mean_block
    )


@functools.partial(jax.jit, static_argnames=("metric", "n_resamples"))
def resampled_metric(
    key: jax.Array, returns: jax.Array, mean_block: jax.Array, *, metric: Metric, n_resamples: int
) -> jax.Array:
    """`[n_resamples, ...]` metric of each resample of `returns [n, ...]`; the key is consumed."""

    def one(resample_key: jax.Array) -> jax.Array:
        return metric(returns[stationary_bootstrap_indices(resample_key, returns.shape[0], mean_block)])

    batch = max(1, min(n_resamples, BATCH_ELEMENTS // returns.size))
    return jax.lax.map(one, jax.random.split(key, n_resamples), batch_size=batch)


@functools.lru_cache(maxsize=64)
def difference_of(metric: Metric) -> Metric:
    """The metric of column 0 less that of column 1; the same function for the same metric, so nothing recompiles."""
    return lambda pair: metric(pair[:, 0]) - metric(pair[:, 1])


def percentile_interval(resampled: np.ndarray, level: float) -> tuple[Any, Any]:
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
