"""Calibration of block bootstraps: by how much their intervals are too narrow, and the level that makes up for it."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from jaxppo.statistics.block_length import flat_top

FEWEST_DEGREES = 5.0


def bootstrap_variance(series: np.ndarray, mean_block: float) -> np.ndarray:
    """Variance of `sqrt(T)` times the mean under a stationary bootstrap, in closed form.

    `g_0 + 2 sum_k ((1 - k / T) (1 - p)^k + k / T (1 - p)^(T - k)) g_k` with the autocovariances g and `p = 1 / block`.

    Args:
      series: `[T, N]` float.
      mean_block: mean block length in bars.

    Returns:
      `[N]`.

    Reference: Politis & Romano, JASA 1994, lemma 1.
    """
    series = np.asarray(series, np.float64)
    n = len(series)
    spectrum = np.fft.rfft(series - series.mean(axis=0), 2 * n, axis=0)
    covariance = np.fft.irfft(np.abs(spectrum) ** 2, 2 * n, axis=0)[:n] / n
    lag, stay = np.arange(n), 1.0 - 1.0 / mean_block
    weight = (1.0 - lag / n) * stay**lag + (lag / n) * stay ** (n - lag)
    return np.maximum(np.where(lag == 0, 1.0, 2.0 * weight) @ covariance, 0.0)


def lost_spread(series: np.ndarray, mean_block: float) -> np.ndarray:
    """Standard error of a mean over that within the bootstrap: `[N]` factors >= 1, `sqrt(max(V, V_b) / V_b)`.

    Blocks cut dependence short, so the variance within the bootstrap, V_b, is below the long-run variance. The flat-top
    window estimates the latter as V, with a smaller bias.

    Args:
      series: `[T, N]` float, T >= 4, none of them constant.
      mean_block: mean block length in bars.

    Reference: Politis & Romano, "Bias-corrected nonparametric spectral estimation", J. Time Series Analysis 16, 1995.
    """
    series = np.asarray(series, np.float64)
    within = bootstrap_variance(series, mean_block)
    variance = np.array([flat_top(one).variance for one in series.T])
    return np.sqrt(np.where(within > 0, np.maximum(variance, within) / np.where(within > 0, within, 1.0), 1.0))


def widening(returns: np.ndarray, mean_block: float, level: float, *, bars: int | None = None) -> float:
    """Factor >= 1 by which the interval of a block bootstrap has to be widened to cover at its level.

    `lost_spread` times `t / z`: a variance is estimated from about `n / M` independent stretches of M bars, the window
    of `flat_top`, so that the quantile is Student's t rather than the normal one.

    Args:
      returns: `[n]` or `[n, S]` float; of several series the largest factor is taken.
      mean_block: mean block length in bars.
      level: in (0, 1).
      bars: n, how many of the bars count; None takes all. A statistic of some bars alone is given by its influence,
        which is 0 at all others.

    Returns:
      The factor; 1 where there is nothing to estimate (fewer than 4 bars, a constant series).
    """
    columns = np.asarray(returns, np.float64)
    columns = columns[:, None] if columns.ndim == 1 else columns
    if len(columns) < 4:
        return 1.0
    columns = columns[:, np.ptp(columns, axis=0) > 0]
    z = NormalDist().inv_cdf(0.5 + level / 2.0)
    count = len(columns) if bars is None else bars
    degrees = (max(count / flat_top(one).window, FEWEST_DEGREES) for one in columns.T)
    student = (_student_quantile(z, of) / z for of in degrees)
    return max((t * lost for t, lost in zip(student, lost_spread(columns, mean_block), strict=True)), default=1.0)


def widened_level(level: float, factor: float) -> float:
    """Level at which the percentile interval of normal resamples is wider than at `level`.

    Args:
      level: in (0, 1).
      factor: >= 1.
    """
    normal = NormalDist()
    return 2.0 * normal.cdf(factor * normal.inv_cdf(0.5 + level / 2.0)) - 1.0


def _student_quantile(z: float, degrees: float) -> float:
    """Quantile of Student's t where the normal has `z`, by its expansion: Abramowitz & Stegun 26.7.5, two terms."""
    return z + (z**3 + z) / (4.0 * degrees) + (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / (96.0 * degrees**2)
