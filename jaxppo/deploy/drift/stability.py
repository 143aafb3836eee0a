"""Population stability of features in bins, and limits that windows of an unchanged market rarely exceed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

N_BINS = 10
UNKNOWN = N_BINS
"""Number of the category of values that are not known."""
N_CATEGORIES = N_BINS + 1
NOT_COMPARED = -1
"""In place of a category, of a value that counts nowhere."""
SAME = 1e-4
"""Values of a feature that differ by less are one value: programs round them differently."""
SMALLEST = 1e-3
"""Figures below count as this one where logarithms are taken."""
USUAL, RARE = 0.95, 0.99
LEAST_WINDOWS = 3
LARGEST_LOG = 700.0


def bin_edges(values: np.ndarray) -> np.ndarray:
    """Chooses the edges between quantile bins; each lies halfway between two values.

    A value that fills several quantiles has one bin. A feature that never changes has three: below, at and above it.

    Args:
      values: `[n]` of one feature, finite.

    Returns:
      `[N_BINS - 1]` float64, increasing; infinite where there are fewer bins.
    """
    edges = np.full(N_BINS - 1, np.inf)
    ordered = np.sort(np.asarray(values, np.float64))
    if not len(ordered):
        return edges
    if ordered[-1] - ordered[0] <= SAME:
        edges[:2] = ordered[0] - SAME, ordered[-1] + SAME
        return edges
    quantiles = ordered[np.ceil(np.arange(1, N_BINS) / N_BINS * len(ordered)).astype(int) - 1]
    following = np.searchsorted(ordered, quantiles + SAME, side="right")
    inner = following < len(ordered)
    found = np.unique((ordered[following[inner] - 1] + ordered[following[inner]]) / 2)
    edges[: len(found)] = found
    return edges


def categories(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Finds the category of each value: the number of edges below it, `UNKNOWN` where it is NaN.

    Args:
      values: `[..., F]`.
      edges: `[F, N_BINS - 1]`.

    Returns:
      `[..., F]` int8.
    """
    found = np.sum(values[..., None] > edges, axis=-1, dtype=np.int8)
    return np.where(np.isnan(values), np.int8(UNKNOWN), found)


def population_stability(live: np.ndarray, expected: np.ndarray, floor: float) -> np.ndarray:
    """Computes the population stability index `sum (p - q) ln(p / q)`, 0 for equal shares.

    It is the symmetric Kullback-Leibler divergence. Shares below the floor count as the floor, so that an empty bin
    stays finite.

    Args:
      live: `[..., B]` shares p.
      expected: `[..., B]` shares q.
      floor: smallest share, > 0.

    Returns:
      `[...]` float64, >= 0.

    Reference: Siddiqi, Credit Risk Scorecards (2006), chapter 10; Kullback & Leibler (1951), eq. 2.6, for the
    divergence. The folklore calls values above 0.1 a moderate and above 0.25 a large change, whatever the number of
    observations.
    """
    p, q = (np.maximum(np.asarray(x, np.float64), floor) for x in (live, expected))
    return np.sum((p - q) * np.log(p / q), axis=-1)


class Limits(NamedTuple):
    """What M figures of a window reach in a market that has not changed.

    Attributes:
      usual: `[M]` each alone exceeds it in 5 % of windows.
      rare: `[M]` each alone exceeds it in 1 % of windows.
      alarm: `[M]` in 1 % of windows any of the M exceeds its own.
    """

    usual: np.ndarray
    rare: np.ndarray
    alarm: np.ndarray


def window_limits(figures: np.ndarray, independent: float, lag: int, least: float) -> Limits:
    """Predicts what one more window of the same market may reach, from overlapping windows of it.

    Logarithms of the figures are taken as normal, and windows that do not overlap as an autoregression of order one
    with autocorrelation r: `exp(m + t s sqrt(1 + 1 / K))`, `K = n (1 - r) / (1 + r)` for n such windows, `t` the
    quantile of Student's distribution with `n (1 - r^2) / (1 + r^2) - 1` degrees of freedom, and `s` the deviation that
    `K` corrects. For all figures together `t` is the limit of the largest studentised one of a window, each window
    against those that do not overlap it, by Cornish and Fisher's expansion with its skewness; its empirical quantile
    where that is higher; but no more than Bonferroni's bound.

    Args:
      figures: `[W, M]` of overlapping windows in order of time, >= 0; NaN where there is none.
      independent: windows that the bars hold without overlap.
      lag: windows from one to the next that does not overlap it, >= 1.
      least: an alarm needs more than this.

    Returns:
      `Limits`; infinite for a figure with fewer than three independent windows.

    Reference: Hahn & Meeker, Statistical Intervals (1991), section 4.3, for the prediction limit; Bayley & Hammersley,
    JRSS Supplement 8 (1946), for the two effective numbers; Cornish & Fisher, Revue de l'Institut International de
    Statistique 5 (1938), first term.
    """
    logs = np.log(np.maximum(figures, SMALLEST))
    known = np.isfinite(logs)
    logs = np.where(known, logs, 0.0)
    share = known.mean(axis=0) if len(logs) else np.zeros(logs.shape[1])
    enough = independent * share >= LEAST_WINDOWS
    mean, scale, freedom = _moments(logs, known, independent, lag)

    def reached(factor: np.ndarray | float) -> np.ndarray:
        limit = np.exp(np.minimum(mean + np.where(enough, factor, 0.0) * scale, LARGEST_LOG))
        return np.where(enough, limit, np.inf)

    usual, rare = (reached(stdtrit(freedom, level)) for level in (USUAL, RARE))
    any_of_all = stdtrit(freedom, 1.0 - (1.0 - RARE) / max(int(enough.sum()), 1))
    together = np.minimum(_joint(logs, known & enough, independent, lag), any_of_all)
    return Limits(usual, rare, np.maximum(reached(together), least))


def _moments(
    logs: np.ndarray, known: np.ndarray, independent: float, lag: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, standard error of a prediction, and its degrees of freedom `[M]`, of what is known of `[W, M]`."""
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.sum(np.where(known, logs, 0.0), axis=0) / count
    away = np.where(known, logs - mean, 0.0)
    scale, freedom = _prediction(np.sum(away**2, axis=0) / count, independent * known.mean(axis=0), _memory(away, lag))
    return mean, scale, freedom


def _prediction(variance: np.ndarray, number: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard error of a prediction, and its degrees of freedom `[M]`, from `number` windows of autocorrelation r."""
    of_mean = np.maximum(number * (1.0 - r) / (1.0 + r), 2.0)
    of_variance = np.maximum(number * (1.0 - r**2) / (1.0 + r**2), 2.0)
    return np.sqrt(variance * of_mean / (of_mean - 1.0) * (1.0 + 1.0 / of_mean)), of_variance - 1.0


def _joint(logs: np.ndarray, known: np.ndarray, independent: float, lag: int) -> float:
    """Limit of the largest studentised figure of a window, of the known ones of `[W, M]`, for the level `RARE`."""
    if not known.any():
        return np.inf
    values = np.where(known, logs, 0.0)
    r = _memory(np.where(known, logs - values.sum(axis=0) / np.maximum(known.sum(axis=0), 1), 0.0), lag)
    sums = [np.concatenate([0 * x[:1], np.cumsum(x, axis=0)]) for x in (known.astype(float), values, values**2)]
    here = np.arange(len(logs))
    before, after = np.maximum(here - lag + 1, 0), np.minimum(here + lag, len(logs))
    count, total, square = (x[-1] - x[after] + x[before] for x in sums)
    count = np.maximum(count, 1.0)
    variance = np.maximum(square / count - (total / count) ** 2, 0.0)
    scale, _ = _prediction(variance, independent * count / len(logs), r)
    moved = known & (scale > 1e-6)
    studentised = np.where(moved, (logs - total / count) / np.where(moved, scale, 1.0), -np.inf)
    largest = np.max(studentised, axis=1)
    largest = largest[np.isfinite(largest)]
    if not len(largest):
        return 0.0
    every = np.ones((len(largest), 1), bool)
    mean, error, freedom = (float(x[0]) for x in _moments(largest[:, None], every, independent, lag))
    away = largest - mean
    skewness = max(float(np.mean(away**3) / max(np.mean(away**2), 1e-12) ** 1.5), 0.0)
    quantile = float(stdtrit(freedom, RARE))
    quantile += (quantile**2 - 1.0) / 6.0 * skewness
    return max(float(np.quantile(largest, RARE)), mean + quantile * error)


def _memory(away: np.ndarray, lag: int) -> np.ndarray:
    """Autocorrelation `[M]` at `lag` of deviations `[W, M]`, within [0, 0.8]."""
    variance = np.sum(away**2, axis=0)
    products = np.sum(away[lag:] * away[:-lag], axis=0) if len(away) > lag else np.zeros(away.shape[1])
    return np.clip(products / np.where(variance > 0, variance, 1.0), 0.0, 0.8)
