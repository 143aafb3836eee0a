"""Bootstrap tests: is any of many strategies better than a benchmark, and is one agent better than another?"""

from __future__ import annotations

import functools
from statistics import NormalDist
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.statistics.block_length import block_length_or
from jaxppo.statistics.bootstrap import Metric, difference_of, percentile_interval, resampled_metric
from jaxppo.statistics.calibration import bootstrap_variance, lost_spread, widened_level, widening
from jaxppo.statistics.checks import check_count, check_level, check_panel, check_returns
from jaxppo.statistics.resampling import resampled_means


class SuperiorAbility(NamedTuple):
    """The p-values of "no strategy is better than the benchmark", `lower <= consistent <= upper`.

    Attributes:
      lower: strategies worse than the benchmark are taken to be equal to it where that helps to reject: too liberal.
      consistent: Hansen's; those that are clearly worse do not count.
      upper: all are taken to be as good as the benchmark: conservative, weak when many are bad.
    """

    lower: float
    consistent: float
    upper: float


class PairedTest(NamedTuple):
    """Whether two agents differ in a metric.

    Attributes:
      difference: `metric(first) - metric(second)`.
      low: end of the interval of the difference.
      high: end of the interval of the difference.
      p_value: two-sided, of no difference.
    """

    difference: float
    low: float
    high: float
    p_value: float


def superior_predictive_ability(
    key: jax.Array,
    returns: jax.Array,
    benchmark: jax.Array | float = 0.0,
    *,
    n_resamples: int = 2000,
    mean_block: float | None = None,
    studentised: bool = True,
) -> SuperiorAbility:
    """Tests whether the best of many strategies is better than a benchmark: Hansen's superior predictive ability (SPA).

    The statistic is `max(0, max_k sqrt(T) d_k / w_k)` of the mean differences `d_k` with the standard error `w_k` of
    the stationary bootstrap itself; its distribution without skill comes from resampling all strategies together,
    centred on their means, less those that are below `-w_k sqrt(2 log log T / T)` (consistent).

    Args:
      key: consumed.
      returns: `[T, N]` return per bar of every strategy that was tried.
      benchmark: `[T]` return per bar to beat, or a constant.
      n_resamples: >= 2.
      mean_block: mean block length in bars; None takes the longest of the optimal lengths of the differences, and makes
        up for the spread that such blocks lose, see `jaxppo.statistics.calibration.lost_spread`.
      studentised: False compares mean differences as they are, as `arch.bootstrap.SPA` does.

    Returns:
      `SuperiorAbility`.

    Raises:
      ValueError: a strategy equal to the benchmark up to a constant, fewer than 16 bars, differing lengths, a value
        that is not finite.

    Reference: Hansen, "A Test for Superior Predictive Ability", JBES 23(4), 2005, section 3.
    """
    excess = _excess(returns, benchmark)
    check_count("n_resamples", n_resamples, 2)
    block = block_length_or(mean_block, np.asarray(excess))
    means, centre = _resampled_means(key, excess, jnp.asarray(block, jnp.float32), n_resamples=n_resamples)
    lost = lost_spread(np.asarray(excess), block) if mean_block is None else 1.0
    error = lost * np.sqrt(bootstrap_variance(np.asarray(excess), block))
    return _ability(lost * np.asarray(means), np.asarray(centre), error, excess.shape[0], studentised)


def reality_check(
    key: jax.Array,
    returns: jax.Array,
    benchmark: jax.Array | float = 0.0,
    *,
    n_resamples: int = 2000,
    mean_block: float | None = None,
) -> float:
    """Tests whether the best of many strategies is better than a benchmark: White's reality check.

    The largest mean difference against its distribution when all strategies are as good as the benchmark: the upper
    p-value of SPA, not studentised.

    Args:
      key: consumed.
      returns: `[T, N]` return per bar of every strategy that was tried.
      benchmark: `[T]` return per bar to beat, or a constant.
      n_resamples: >= 2.
      mean_block: see `superior_predictive_ability`.

    Returns:
      p-value of "no strategy is better than the benchmark".

    Raises:
      ValueError: see `superior_predictive_ability`.

    Reference: White, "A Reality Check for Data Snooping", Econometrica 68(5), 2000.
    """
    found = superior_predictive_ability(
        key, returns, benchmark, n_resamples=n_resamples, mean_block=mean_block, studentised=False
    )
    return found.upper


def paired_test(
    key: jax.Array,
    first: jax.Array,
    second: jax.Array,
    metric: Metric,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    mean_block: float | None = None,
) -> PairedTest:
    """Tests whether two agents differ in a metric, both resampled at the same bars.

    The p-value is twice the smaller share of the resampled differences on either side of 0, so it is below `1 - level`
    just when the interval leaves out 0 (up to a resample); both are widened as in `bootstrap_interval`.

    Args:
      key: consumed.
      first: `[n]` return per bar.
      second: `[n]` return per bar, in the same bars.
      metric: jittable map of `[n]` to a scalar; see `bootstrap_interval`.
      level: of the interval.
      n_resamples: >= 2.
      mean_block: mean block length in bars; None takes the longest of the optimal lengths of the two and of
        their difference.

    Returns:
      `PairedTest`; NaN ends and p-value if the metric is undefined in too many resamples.

    Raises:
      ValueError: differing lengths, a value that is not finite, a level outside (0, 1).
    """
    check_level(level)
    first = check_returns(first, name="first", constant=True)
    second = check_returns(second, name="second", constant=True)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"first has shape {first.shape} and second {second.shape}; two series [n] are expected")
    check_count("n_resamples", n_resamples, 2)
    pair = jnp.stack([first, second], axis=1)
    series = np.asarray(jnp.column_stack([pair, first - second]))
    length = block_length_or(mean_block, series)
    factor = widening(series, length, level) if mean_block is None else 1.0
    block = jnp.asarray(length, jnp.float32)
    between = difference_of(metric)
    resampled = np.asarray(resampled_metric(key, pair, block, metric=between, n_resamples=n_resamples))
    low, high = percentile_interval(resampled, widened_level(level, factor))
    defined = resampled[~np.isnan(resampled)]
    tails = min(np.sum(defined <= 0), np.sum(defined >= 0)) + 1
    p_value = _widened_p_value(2.0 * tails / (len(defined) + 1), factor) if np.isfinite([low, high]).all() else np.nan
    return PairedTest(float(between(pair)), low, high, float(p_value))


def _widened_p_value(p_value: float, factor: float) -> float:
    """Two-sided p-value of normal resamples whose spread is too small by `factor`."""
    normal = NormalDist()
    return min(1.0, 2.0 * normal.cdf(normal.inv_cdf(min(p_value / 2.0, 0.5)) / factor))


@functools.partial(jax.jit, static_argnames="n_resamples")
def _resampled_means(
    key: jax.Array, excess: jax.Array, mean_block: jax.Array, *, n_resamples: int
) -> tuple[jax.Array, jax.Array]:
    """Means `[B, N]` of the resamples less those of the sample, and the sample's `[N]`."""
    centre = jnp.mean(excess, axis=0)
    return resampled_means(key, excess - centre[None], mean_block, n_resamples), centre


def _ability(means: np.ndarray, centre: np.ndarray, error: np.ndarray, n: int, studentised: bool) -> SuperiorAbility:
    """The p-values, from `means [B, N]` of resamples about the sample's `centre [N]`, `error [N]` times sqrt(n)."""
    scale = error if studentised else np.ones_like(error)
    statistic = max(0.0, float(np.max(centre / scale)))
    relevant = centre >= -error * np.sqrt(2.0 * np.log(np.log(n)) / n)
    # Lower, consistent, upper: they differ in how good strategies are taken to be that look worse than the benchmark.
    shifts = np.minimum(centre, 0.0), np.where(relevant, 0.0, centre), np.zeros_like(centre)
    if statistic <= 0:
        return SuperiorAbility(1.0, 1.0, 1.0)
    exceeded = (np.maximum(((means + shift) / scale).max(axis=1), 0.0) > statistic for shift in shifts)
    return SuperiorAbility(*(float(np.mean(of)) for of in exceeded))


def _excess(returns: jax.Array, benchmark: jax.Array | float) -> jax.Array:
    """Differences `[T, N]` to the benchmark."""
    returns = jnp.asarray(returns)
    against = jnp.asarray(benchmark)
    if against.ndim > 1 or (against.ndim == 1 and against.shape != returns.shape[:1]):
        raise ValueError(f"benchmark has shape {against.shape}; a number or one return for each bar is expected")
    returns = check_panel(returns, at_least=16)
    return check_panel(returns - against.reshape(-1, 1), name="returns less benchmark")
