"""Time to recovery of drawdowns: Kaplan-Meier curves over the drawdowns of many paths, also by regime."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Literal

import numpy as np

from jaxppo.envs.market.features import REGIMES
from jaxppo.statistics.checks import check_level
from jaxppo.statistics.drawdowns import Drawdowns


@dataclasses.dataclass(frozen=True, eq=False)
class RecoveryCurve:
    """Share of drawdowns not yet recovered, by their length in bars: a step function, 1 before `bars[0]`.

    Attributes:
      bars: `[m]` lengths at which a drawdown recovered or was last seen, increasing.
      unrecovered: `[m]` Kaplan-Meier estimate of the share that takes longer.
      low: `[m]` lower end of its interval.
      high: `[m]` upper end of its interval; NaN ends where the estimate is 0.
      at_risk: `[m]` drawdowns that were under observation just before.
      recoveries: `[m]` those that recovered at this length.
      n_drawdowns: all of them.
      n_censored: those that were not recovered when their path ended.
    """

    bars: np.ndarray
    unrecovered: np.ndarray
    low: np.ndarray
    high: np.ndarray
    at_risk: np.ndarray
    recoveries: np.ndarray
    n_drawdowns: int
    n_censored: int

    def after(self, bars: float) -> float:
        """Share of drawdowns that take longer than `bars`; beyond the longest one seen, an upper bound."""
        position = int(np.searchsorted(self.bars, bars, side="right"))
        return float(self.unrecovered[position - 1]) if position else 1.0

    @property
    def median(self) -> float:
        """Bars within which half of the drawdowns recover; inf if fewer than half of them did."""
        half = np.flatnonzero(self.unrecovered <= 0.5)
        return float(self.bars[half[0]]) if len(half) else np.inf


def kaplan_meier(bars: np.ndarray, recovered: np.ndarray, *, level: float = 0.95) -> RecoveryCurve:
    """Product-limit estimate of recovery, `S(t) = prod_{t_i <= t} (1 - d_i / n_i)`, with Greenwood's variance.

    The interval is that of `log(-log S)`, which stays within [0, 1]:
    `S^exp(+-z sqrt(sum d_i / (n_i (n_i - d_i))) / log S)`.

    Args:
      bars: `[m]` lengths, > 0: to the recovery, or to the last bar seen.
      recovered: `[m]` bool; False is censored.
      level: of the interval, in (0, 1).

    Raises:
      ValueError: no drawdown, lengths that are not positive, differing shapes, a level outside (0, 1).

    Reference: Kaplan & Meier, JASA 53, 1958; Kalbfleisch & Prentice, "The Statistical Analysis of Failure Time Data",
    section 1.4.
    """
    bars, recovered = np.asarray(bars, np.float64).ravel(), np.asarray(recovered, bool).ravel()
    if bars.shape != recovered.shape:
        raise ValueError(f"bars has {len(bars)} drawdowns but recovered {len(recovered)}")
    if not len(bars):
        raise ValueError("there is no drawdown, so nothing is known about recovery")
    if not (np.isfinite(bars) & (bars > 0)).all():
        raise ValueError("bars must be positive and finite: a drawdown lasts at least a bar")
    check_level(level)
    lengths, of = np.unique(bars, return_inverse=True)
    ended = np.bincount(of, weights=recovered, minlength=len(lengths)).astype(np.int64)
    seen = np.bincount(of, minlength=len(lengths))
    at_risk = seen[::-1].cumsum()[::-1]
    share = np.cumprod(1.0 - ended / at_risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.cumsum(ended / (at_risk * (at_risk - ended)))
        half = statistics.NormalDist().inv_cdf(0.5 + level / 2.0) * np.sqrt(variance) / np.log(share)
        low, high = (np.where(share == 1.0, 1.0, share ** np.exp(sign * half)) for sign in (-1.0, 1.0))
    low, high = (np.where(share == 0.0, np.nan, end) for end in (low, high))
    return RecoveryCurve(lengths, share, low, high, at_risk, ended, len(bars), int((~recovered).sum()))


def time_to_recovery(
    drawdowns: Drawdowns,
    *,
    since: Literal["peak", "trough"] = "peak",
    deeper_than: float = 0.0,
    level: float = 0.95,
) -> RecoveryCurve:
    """Estimates the time to recovery from the drawdowns of many paths.

    Args:
      drawdowns: of `[..., k]`, from `jaxppo.statistics.drawdowns.deepest`; shallower ones than those k do not count.
      since: where the time starts. The trough of a drawdown that is not over is not final; its peak is.
      deeper_than: fraction of the peak; drawdowns of at most this depth are left out.
      level: of the interval.

    Raises:
      ValueError: there is no such drawdown; see `kaplan_meier`.
    """
    _check_point("since", since)
    return _curve(drawdowns, np.ones(np.shape(drawdowns.depth), bool), since, deeper_than, level)


def time_to_recovery_by_regime(
    drawdowns: Drawdowns,
    regimes: np.ndarray,
    *,
    at: Literal["peak", "trough"] = "peak",
    since: Literal["peak", "trough"] = "peak",
    deeper_than: float = 0.0,
    level: float = 0.95,
) -> dict[str, RecoveryCurve]:
    """`time_to_recovery` of the drawdowns that have their peak (or trough) in each regime.

    Args:
      drawdowns: of `[..., k]`.
      regimes: `[..., n + 1]` or `[n + 1]` int, the regime at each point of the equity: position in `REGIMES`; -1
        unknown.
      at: which point of a drawdown decides its regime.
      since: see `time_to_recovery`.
      deeper_than: see `time_to_recovery`.
      level: of the interval.

    Returns:
      Regime -> curve, in the order of `REGIMES`; regimes without a drawdown are left out.

    Raises:
      ValueError: the shapes do not fit, or a point lies outside `regimes`.
    """
    _check_point("at", at)
    _check_point("since", since)
    point = np.asarray(getattr(drawdowns, at))
    regimes = np.asarray(regimes)
    if regimes.ndim != 1 and regimes.shape[:-1] != point.shape[:-1]:
        raise ValueError(f"regimes has shape {regimes.shape} for drawdowns of {point.shape[:-1]} paths")
    if point.size and point.max() >= regimes.shape[-1]:
        raise ValueError(f"regimes has {regimes.shape[-1]} points, but a {at} is at point {point.max()}")
    regimes = np.broadcast_to(regimes, (*point.shape[:-1], regimes.shape[-1]))
    found = np.take_along_axis(regimes, np.maximum(point, 0), axis=-1)
    deep = np.asarray(drawdowns.depth) > deeper_than
    return {
        name: _curve(drawdowns, found == number, since, deeper_than, level)
        for number, name in enumerate(REGIMES)
        if (deep & (found == number)).any()
    }


def _check_point(name: str, point: str) -> None:
    """Refuses what is no point of a drawdown."""
    if point not in ("peak", "trough"):
        raise ValueError(f"{name} is {point!r}; allowed: peak, trough")


def _curve(drawdowns: Drawdowns, chosen: np.ndarray, since: str, deeper_than: float, level: float) -> RecoveryCurve:
    """Curve of the chosen drawdowns that are deep enough."""
    chosen = chosen & (np.asarray(drawdowns.depth) > deeper_than)
    bars = np.asarray(drawdowns.recovery) - np.asarray(getattr(drawdowns, since))
    # A path that ends in its trough has waited for less than a bar: it says nothing.
    chosen &= bars > 0
    return kaplan_meier(bars[chosen], np.asarray(drawdowns.recovered)[chosen], level=level)
