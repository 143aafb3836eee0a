"""Summary of many paths: quantile fan, distributions with intervals, chances of ruin and drawdowns, worst paths."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np

from jaxppo.monte_carlo.parts import EQUITY, Table
from jaxppo.statistics.recovery import kaplan_meier

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
DRAWDOWNS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Depths whose probabilities are given, fractions."""
WORST = 10
NO_FIGURES = ("liquidated", "ruined", "recovered", "deepest_bars")
"""Columns without a distribution: yes or no, or censored where the path ends."""
RECOVERY_POINTS = 200
"""Most lengths at which the curve of recovery is given."""


def summarise_paths(table: Table, *, level: float = 0.95) -> dict[str, Any]:
    """Summarises the paths of a job, ready for JSON; a number that does not exist is None.

    Args:
      table: rows of all paths.
      level: of every interval, in (0, 1).

    Returns:
      `n_paths`; `settings`; `figures`: name -> `mean`, `mean_ci`, `std`, `median_ci`, `quantiles`, `undefined` (paths
      without a finite value, which the others leave out); `probabilities`: `ruin`, `liquidation`, `loss` and
      `drawdown` (depth -> that of a drawdown at least as deep), each with `estimate` and Wilson's `ci`; `recovery`: see
      `recovery_of`; `worst`: paths by total return and by drawdown; `fan`: `bars`, and quantile -> equity as a fraction
      of the capital.

    Raises:
      ValueError: a level outside (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}; it must lie strictly between 0 and 1, for example 0.95")
    names = [name for name in table.names if not name.startswith(EQUITY)]
    paths, total, depth = (table.column(name) for name in ("path", "total_return", "max_drawdown"))
    count = len(total)

    def share(hits: np.ndarray) -> dict[str, Any]:
        return {"estimate": float(np.mean(hits)), "ci": list(wilson_interval(int(np.sum(hits)), count, level))}

    probabilities = {
        "ruin": share(table.column("ruined")),
        "liquidation": share(table.column("liquidated")),
        "loss": share(total < 0),
        "drawdown": {f"{at:g}": share(depth >= np.float32(at)) for at in DRAWDOWNS},
    }
    curve = [name for name in table.names if name.startswith(EQUITY)]
    fan = np.array([np.quantile(table.column(name).astype(np.float64), QUANTILES) for name in curve])
    return {
        "n_paths": count,
        "level": level,
        "settings": table.settings,
        "figures": {name: distribution(table.column(name), level) for name in names if name not in NO_FIGURES},
        "probabilities": probabilities,
        "recovery": recovery_of(table.column("deepest_bars"), table.column("recovered"), level),
        "worst": {"total_return": _worst(paths, total), "max_drawdown": _worst(paths, -depth)},
        "fan": {
            "bars": [int(name.removeprefix(EQUITY)) for name in curve],
            "quantiles": {f"{q:g}": [float(x) for x in fan[:, i]] for i, q in enumerate(QUANTILES)},
        },
    }


def distribution(values: np.ndarray, level: float) -> dict[str, Any]:
    """Computes mean, spread and quantiles of a figure, with intervals.

    The interval of the mean is the normal one of the Monte Carlo error; that of the median lies between order
    statistics `n / 2 -+ z sqrt(n) / 2`, whatever the distribution.

    Args:
      values: `[n]`, a path each; what is not finite is only counted, as `undefined`.
      level: of the intervals, in (0, 1).
    """
    values = values.astype(np.float64)
    finite = np.sort(values[np.isfinite(values)])
    n, z = len(finite), NormalDist().inv_cdf(0.5 + level / 2.0)
    found: dict[str, Any] = {"undefined": len(values) - n}
    if n == 0:
        return found | {"mean": None, "mean_ci": [None, None], "std": None, "median_ci": [None, None], "quantiles": {}}
    mean, std = float(finite.mean()), float(finite.std(ddof=1)) if n > 1 else 0.0
    half, rank = z * std / math.sqrt(n), z * math.sqrt(n) / 2.0
    ends = (max(math.floor(n / 2.0 - rank), 0), min(math.ceil(n / 2.0 + rank), n - 1))
    quantiles = np.quantile(finite, QUANTILES)
    return found | {
        "mean": mean,
        "mean_ci": [mean - half, mean + half],
        "std": std,
        "median_ci": [float(finite[end]) for end in ends],
        "quantiles": {f"{q:g}": float(x) for q, x in zip(QUANTILES, quantiles, strict=True)},
    }


def wilson_interval(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Computes Wilson's interval of a probability, sensible for no hit and for all hits as well.

    `(p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)` with `p = hits / n`.

    Args:
      hits: in [0, n].
      n: trials, >= 1.
      level: of the interval, in (0, 1).

    Reference: Wilson (1927), Probable inference, the law of succession, and statistical inference, JASA 22.
    """
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"{hits} of {n} is not a share")
    z, p = NormalDist().inv_cdf(0.5 + level / 2.0), hits / n
    middle = p + z * z / (2.0 * n)
    half = z * math.sqrt(p * (1.0 - p) / n + z * z / (4.0 * n * n))
    low, high = ((middle + side * half) / (1.0 + z * z / n) for side in (-1.0, 1.0))
    return (0.0 if hits == 0 else low, 1.0 if hits == n else high)


def recovery_of(bars: np.ndarray, recovered: np.ndarray, level: float) -> dict[str, Any] | None:
    """Estimates how long the deepest drawdown of a path takes from its peak to the first close back at it.

    This is the Kaplan-Meier curve of `jaxppo.statistics.recovery` over n paths. A path that ends before its drawdown is
    over is censored there. So is an account that was liquidated, at the end of its path and not at its death: it stays
    among those at risk for as long as its path has bars, which is what never recovering means. Censoring is not by
    chance alone, since the end of a path also decides which of its drawdowns is the deepest.

    Args:
      bars: `[n]` int, 0 for a path without a drawdown, which is left out.
      recovered: `[n]` bool.
      level: of the interval.

    Returns:
      `n_drawdowns`, `n_censored`, `median` (bars; None if fewer than half recover), and the curve at up to
      `RECOVERY_POINTS` of its steps: `bars`, `unrecovered`, `low`, `high`, the ends None where the estimate is 0. None
      without any drawdown.
    """
    under = bars > 0
    if not under.any():
        return None
    curve = kaplan_meier(bars[under], recovered[under], level=level)
    shown = np.unique(np.linspace(0, len(curve.bars) - 1, min(RECOVERY_POINTS, len(curve.bars))).round().astype(int))
    return {
        "n_drawdowns": curve.n_drawdowns,
        "n_censored": curve.n_censored,
        "median": int(curve.median) if math.isfinite(curve.median) else None,
        "bars": [int(length) for length in curve.bars[shown]],
        **{
            name: [float(x) if math.isfinite(x) else None for x in getattr(curve, name)[shown]]
            for name in ("unrecovered", "low", "high")
        },
    }


def _worst(paths: np.ndarray, values: np.ndarray) -> list[int]:
    """Numbers of the paths with the smallest values, worst first; the earlier of equal ones first."""
    return [int(paths[row]) for row in np.argsort(np.nan_to_num(values, nan=-np.inf), kind="stable")[:WORST]]
