"""Intervals under a condition, such as a regime, which is resampled with the returns."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.statistics.block_length import optimal_block_length
from jaxppo.statistics.bootstrap import percentile_interval, resampled_metric
from jaxppo.statistics.calibration import widened_level, widening
from jaxppo.statistics.checks import check_count, check_level

LEAST_BARS = 30
"""Bars under a condition below which an interval would not cover at its level."""


class ConditionalIntervals(NamedTuple):
    """Intervals over the bars under a condition, of S strategies; NaN ends where too few resamples have such bars.

    Attributes:
      mean: `(low, high)`, `[S]` each, of the mean return per bar.
      sharpe: `(low, high)`, `[S]` each, of the Sharpe ratio per bar.
    """

    mean: tuple[np.ndarray, np.ndarray]
    sharpe: tuple[np.ndarray, np.ndarray]


def conditional_intervals(
    key: jax.Array, returns: np.ndarray, inside: np.ndarray, *, level: float = 0.95, n_resamples: int = 2000
) -> ConditionalIntervals:
    """Bootstraps percentile intervals of the mean and the Sharpe ratio of the bars inside, from the whole series.

    Each resample of a stationary bootstrap takes blocks of bars with their returns and their condition, so that the
    number of bars inside is random. Joining the bars inside to one series would make neighbours of bars that are years
    apart, and take their number for known. The block length is chosen from the influence of the bars on the mean
    inside, `1{inside_t} (r_t - mean)`. The intervals are widened for the dependence that blocks cut and, by Student's
    t, for how few bars the variance is from, see `jaxppo.statistics.calibration`.

    Args:
      key: consumed.
      returns: `[n, S]` finite return per bar; the strategies are resampled together.
      inside: `[n]` bool.
      level: coverage in (0, 1).
      n_resamples: >= 2.

    Raises:
      ValueError: shapes that do not fit, an empty series, a value that is not finite, a level outside (0, 1), too few
        resamples.

    Reference: Politis & Romano, "The Stationary Bootstrap", JASA 89, 1994, section 4, for smooth functions of means.
    """
    returns, inside = np.asarray(returns, np.float64), np.asarray(inside, bool)
    if returns.ndim != 2 or inside.shape != returns.shape[:1] or not returns.size:
        raise ValueError(f"returns has shape {returns.shape} and inside {inside.shape}; [n, S] and [n] are expected")
    check_level(level)
    check_count("n_resamples", n_resamples, 2)
    mean = returns[inside].mean(axis=0) if inside.any() else np.zeros(returns.shape[1])
    influence = np.where(inside[:, None], returns - mean, 0.0)
    block = optimal_block_length(influence)
    rows = jnp.asarray(np.column_stack([influence, inside]), jnp.float32)
    moments = resampled_metric(key, rows, jnp.asarray(block, jnp.float32), metric=_moments, n_resamples=n_resamples)
    departure, spread = np.moveaxis(np.asarray(moments, np.float64), 1, 0)
    means = mean + departure
    with np.errstate(divide="ignore", invalid="ignore"):
        sharpes = means / spread
    bars = int(inside.sum())
    levels = [widened_level(level, widening(one, block, level, bars=bars)) for one in influence.T]
    ends = [
        np.transpose([percentile_interval(one, wide) for one, wide in zip(of.T, levels, strict=True)])
        for of in (means, sharpes)
    ]
    return ConditionalIntervals(*((low, high) for low, high in ends))


def _moments(rows: jax.Array) -> jax.Array:
    """Means and standard deviations `[2, S]` of what is inside, of `rows [n, S + 1]`: values, then 1 where inside.

    The values, 0 outside, are departures from the sample's mean: single precision has no large number to cancel.
    """
    values, inside = rows[:, :-1], rows[:, -1]
    count = jnp.sum(inside)
    mean = jnp.sum(values, axis=0) / count
    variance = (jnp.sum(values**2, axis=0) - count * mean**2) / (count - 1.0)
    return jnp.stack([mean, jnp.sqrt(jnp.maximum(variance, 0.0))])
