"""The smallest difference of two Sharpe ratios that a number of years can show."""

from __future__ import annotations

import math

import numpy as np

STANDARD_ERRORS = 2.49
"""Standard errors that a one-sided test at 5 % finds with power 80 %: 1.645 + 0.842."""


def detectable_difference(returns: np.ndarray, baseline: np.ndarray, periods: float) -> float | None:
    """Computes the smallest difference of annual Sharpe ratios that a one-sided test at 5 % finds four times in five.

    `2.49 sqrt(2 (1 - rho) / years)`, with `rho` the correlation of the returns: from the error of the difference
    of two small Sharpe ratios.

    Args:
      returns: `[n]` simple return per bar.
      baseline: `[n]` of what it is compared with.
      periods: bars per year, > 0.

    Returns:
      The difference; None where a series never changes, so that it has no Sharpe ratio.

    References:
      Jobson & Korkie, JF 36(4), 1981, with the correction of Memmel, Finance Letters 1, 2003.
    """
    rho = correlation(returns, baseline)
    if rho is None:
        return None
    years = len(returns) / periods
    return STANDARD_ERRORS * math.sqrt(2.0 * max(1.0 - rho, 0.0) / years)


def correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """Pearson's correlation of two series `[n]`; None where one of them never changes or is not finite.

    Args:
      one: `[n]`.
      other: `[n]`.
    """
    centred = [series - series.mean() for series in (np.asarray(one, np.float64), np.asarray(other, np.float64))]
    scale = math.sqrt(float(centred[0] @ centred[0]) * float(centred[1] @ centred[1]))
    if not (math.isfinite(scale) and scale > 0.0):
        return None
    return float(np.clip(centred[0] @ centred[1] / scale, -1.0, 1.0))
