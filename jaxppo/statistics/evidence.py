"""Evidence that an agent adds to a base: utility over it, its t-statistic, and what share of it to trade."""

from __future__ import annotations

import math

import numpy as np

from jaxppo.risk.rewards import BaseMoments


def base_risk_aversion(returns: np.ndarray) -> float:
    """Risk aversion with which a base is optimally levered, that of `jaxppo.risk.rewards.active_utility`.

    Scaling such a base up or down earns nothing, so that an agent is not paid for leverage. At least 1, the growth of
    the capital, also for a base that never moves.

    Args:
      returns: `[n]` simple return per bar of the base over the training period.
    """
    returns = np.asarray(returns, np.float64)
    return BaseMoments(float(returns.mean()), float(returns.var())).aversion if len(returns) else 1.0


def utility_over_base(returns: np.ndarray, base: np.ndarray, risk_aversion: float) -> np.ndarray:
    """Computes the mean-variance utility of every bar over that of the base.

    `u = (r - r_b) - lambda / 2 ((r - m)^2 - (r_b - m_b)^2)`, with `m` and `m_b` the means.

    Args:
      returns: `[n]` simple return per bar.
      base: `[n]` of the base.
      risk_aversion: from `base_risk_aversion`.

    Returns:
      `[n]` float64.
    """
    r, b = np.asarray(returns, np.float64), np.asarray(base, np.float64)
    return (r - b) - risk_aversion / 2.0 * ((r - r.mean()) ** 2 - (b - b.mean()) ** 2)


def mean_t_statistic(series: np.ndarray, lags: int | None = None) -> float:
    """Computes the t-statistic of a mean under autocorrelation: `mean / sqrt(S / n)`, `S` the long-run variance.

    `S = g_0 + 2 sum_k (1 - k / (L + 1)) g_k` over `L` autocovariances.

    Args:
      series: `[n]`.
      lags: L; None takes `floor(4 (n / 100)^(2/9))`.

    Returns:
      The statistic; 0 for fewer than three values, or for a series that never changes.

    References:
      Newey & West, Econometrica 55(3), 1987; the number of lags: RES 61(4), 1994.
    """
    series = np.asarray(series, np.float64)
    n = len(series)
    if n < 3 or np.ptp(series) == 0.0:
        return 0.0
    lags = int(4.0 * (n / 100.0) ** (2.0 / 9.0)) if lags is None else lags
    centred = series - series.mean()
    variance = centred @ centred / n
    for k in range(1, min(lags, n - 1) + 1):
        variance += 2.0 * (1.0 - k / (lags + 1.0)) * (centred[k:] @ centred[: n - k]) / n
    return float(series.mean() / math.sqrt(variance / n)) if variance > 0.0 else 0.0


def evidence_share(t: float, threshold: float, shrink: bool) -> float:
    """Share of an agent's difference from the base that the evidence warrants, in [0, 1].

    0 unless `t` exceeds the threshold; then 1, or `max(0, 1 - 1 / t^2)`, which weighs the mean by how far it is from
    its own error (James and Stein).

    Args:
      t: t-statistic of the utility over the base.
      threshold: largest one with which the base is traded, >= 0.
      shrink: whether to shrink.
    """
    if not t > threshold:
        return 0.0
    return max(0.0, 1.0 - 1.0 / t**2) if shrink else 1.0
