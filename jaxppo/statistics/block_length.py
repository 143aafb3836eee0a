"""Block length of a bootstrap, chosen from the data.

Politis & White, "Automatic block-length selection for the dependent bootstrap", Econometric Reviews 2004, with the
correction of Patton, Politis & White 2009.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


def optimal_block_length(returns: np.ndarray, *, circular: bool = False) -> float:
    """Chooses the mean block length that minimises the error of the bootstrap variance of the mean. Host-side.

    `b = (2 G^2 / D)^(1/3) n^(1/3)` with `G = sum_k lambda(k / M) |k| R(k)`, the spectral density at zero
    `g = sum_k lambda(k / M) R(k)`, `D = 2 g^2` (stationary) or `4/3 g^2` (circular blocks), the flat-top window
    `lambda(x) = min(1, 2 (1 - |x|))`, and `M` twice the first lag from which `max(5, log10 n)` autocorrelations in a
    row are within `2 sqrt(log10(n) / n)`. At most `ceil(min(3 sqrt(n), n / 3))`.

    Args:
      returns: `[n]` or `[n, S]`; of several series the longest length is taken, so that one resampling serves all.
      circular: whether the blocks are circular and of fixed length.

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


def block_length_or(mean_block: float | None, returns: np.ndarray) -> float:
    """Mean block length that was given, or the optimal one.

    Args:
      mean_block: bars; None takes `optimal_block_length(returns)`.
      returns: `[n]` or `[n, S]`.

    Raises:
      ValueError: it is below one bar.
    """
    length = optimal_block_length(returns) if mean_block is None else mean_block
    if not length >= 1.0:
        raise ValueError(f"mean_block is {mean_block}; a block is at least one bar long")
    return length


class FlatTop(NamedTuple):
    """Flat-top lag-window estimates of one series.

    Attributes:
      window: lags that are used.
      variance: of `sqrt(n)` times the mean, the spectral density at zero.
      slope: `sum_k lambda(k / M) |k| R(k)`, the variance that blocks lose, times their length.
    """

    window: int
    variance: float
    slope: float


def flat_top(series: np.ndarray) -> FlatTop:
    """Flat-top estimates of a series `[n]` float64 that is not constant, n >= 4; see `optimal_block_length`."""
    n = len(series)
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
    return FlatTop(window, autocovariance[0] + 2.0 * np.sum(weight * autocovariance[1 : window + 1]), slope)


def _block_length(series: np.ndarray, circular: bool) -> float:
    """`optimal_block_length` of one series `[n]` float64."""
    n = len(series)
    if n < 4 or np.ptp(series) == 0.0:
        return 1.0
    _, spectrum, slope = flat_top(series)
    scale = (4.0 / 3.0 if circular else 2.0) * spectrum**2
    if scale == 0.0:
        return 1.0
    length = float((2.0 * slope**2 / scale) ** (1.0 / 3.0) * n ** (1.0 / 3.0))
    return max(1.0, min(length, math.ceil(min(3.0 * math.sqrt(n), n / 3.0))))
