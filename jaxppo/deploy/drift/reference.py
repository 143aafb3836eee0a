"""What training looked like: the distribution of every feature, spreads, volatility and costs, and their limits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from jaxppo.deploy.drift.stability import (
    N_BINS,
    N_CATEGORIES,
    Limits,
    bin_edges,
    categories,
    population_stability,
    window_limits,
)

WINDOW = 63
"""Bars that are compared with training, unless a session is long or training is short."""
SESSIONS = 5
"""A window is no shorter than these, so that it holds every hour of a session."""
WINDOWS_IN_TRAINING = 10
"""Training holds so many windows at least, or limits would be guesses."""
STARTS_PER_WINDOW = 8
"""Windows of training begin a window over this apart."""
MOST_SORTED = 2_000_000
"""Values of a feature that bins are made from; of more, bars at equal distances are taken."""
LEAST_STABILITY, SPREAD_FACTOR, VOLATILITY_FACTOR = 0.1, 1.5, 1.5
"""What an alarm has to exceed at least: population stability; live over training of half-spreads and of volatility."""


class History(NamedTuple):
    """The training period, bar by bar.

    Attributes:
      features: `[n, A, F]`; NaN where unknown.
      half_spread: `[n, A]` fraction of the price; NaN where an asset could not be traded.
      squared_return: `[n, A]` see `squared_returns`.
    """

    features: np.ndarray
    half_spread: np.ndarray
    squared_return: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """What live bars are compared with; F features, A assets, B categories: bins, then unknown.

    Attributes:
      features: names of the features.
      symbols: of the assets.
      window: N, bars that are compared.
      n_bars: of training.
      edges: `[F, B - 2]` between bins; infinite where there are fewer.
      shares: `[F, B]` expected shares; of an asset from the bar on at which the feature is first known.
      compared: `[F, A]` 1 where the feature of the asset was ever known in training, else 0: its live values count.
      stability: limits of the population stability of each feature.
      half_spread: `[A]` mean in training, fraction of the price.
      half_spread_quantiles: `[A, 3]` 5 %, 50 % and 95 % of it.
      half_spread_limits: of the mean of a window over that of training.
      volatility: `[A]` root mean square of the log return of a bar in training.
      volatility_quantiles: `[A, 3]` 5 %, 50 % and 95 % of that of a window.
      volatility_limits: of that of a window over that of training.
      cost: `[A]` modelled cost of a trade of a tenth of the opening equity, fraction of its value, mean over training.
    """

    features: tuple[str, ...]
    symbols: tuple[str, ...]
    window: int
    n_bars: int
    edges: np.ndarray
    shares: np.ndarray
    compared: np.ndarray
    stability: Limits
    half_spread: np.ndarray
    half_spread_quantiles: np.ndarray
    half_spread_limits: Limits
    volatility: np.ndarray
    volatility_quantiles: np.ndarray
    volatility_limits: Limits
    cost: np.ndarray

    @property
    def floor(self) -> float:
        """Smallest share that population stability is computed with: half an observation of a window."""
        return share_floor(self.window, len(self.symbols))

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and text; what is not finite is null."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Reference:
        """The reference of which `as_dict` has told.

        Args:
          plain: from `as_dict`.

        Raises:
          KeyError: something is missing.
          ValueError: something is of another shape.
        """
        n, a = len(plain["features"]), len(plain["symbols"])
        shapes = {"edges": (n, N_BINS - 1), "shares": (n, N_CATEGORIES), "half_spread": (a,), "volatility": (a,)}
        shapes |= {"compared": (n, a), "half_spread_quantiles": (a, 3), "volatility_quantiles": (a, 3), "cost": (a,)}
        arrays: dict[str, Any] = {
            name: _array(plain[name], shape, np.inf if name == "edges" else np.nan) for name, shape in shapes.items()
        }
        sizes = {"stability": n, "half_spread_limits": a, "volatility_limits": a}
        arrays |= {
            name: Limits(*(_array(plain[name][x], (m,), np.inf) for x in Limits._fields)) for name, m in sizes.items()
        }
        return cls(
            features=tuple(plain["features"]),
            symbols=tuple(plain["symbols"]),
            window=int(plain["window"]),
            n_bars=int(plain["n_bars"]),
            **arrays,
        )


def share_floor(window: int, n_assets: int) -> float:
    """Half an observation of a window, as a share of all."""
    return 0.5 / (window * n_assets)


def window_length(n_bars: int, bars_per_session: float = 1.0) -> int:
    """Bars that are compared with training.

    Args:
      n_bars: of training.
      bars_per_session: mean number.
    """
    wanted = max(WINDOW, round(SESSIONS * bars_per_session))
    return max(min(wanted, n_bars // WINDOWS_IN_TRAINING), 1)


def squared_returns(close: np.ndarray, tradable: np.ndarray) -> np.ndarray:
    """Squares the log return of each bar of an asset since its bar before; NaN where there is none.

    Args:
      close: `[T, A]`.
      tradable: `[T, A]` bool, the asset has a bar.
    """
    own = pd.DataFrame(np.where(tradable, np.asarray(close, np.float64), np.nan))
    return np.square(np.log(own / own.ffill().shift(1))).to_numpy()


def make_reference(
    history: History,
    *,
    features: Sequence[str],
    symbols: Sequence[str],
    cost: np.ndarray | None = None,
    window: int | None = None,
) -> Reference:
    """Describes a training period, and what its windows of the length of the live one reach.

    Each window is compared with the rest of training, as live bars are compared with training. A limit therefore
    holds as far as live windows are drawn as those of training are: the same market, and each window longer than what
    the bars remember; what windows share beyond that is measured, see `window_limits`.

    Args:
      history: the training period, n bars.
      features: names of the F features.
      symbols: of the A assets.
      cost: `[A]` modelled, see `Reference`.
      window: N, bars; None takes `window_length(n)`.
    """
    n, n_assets = history.half_spread.shape
    window = window_length(n) if window is None else window
    step = max(window // STARTS_PER_WINDOW, 1)
    starts = np.arange(0, n - window + 1, step)
    independent, lag, floor = n / window, -(-window // step), share_floor(window, n_assets)
    edges, shares, figures, compared = [], [], [], []
    for number in range(len(features)):
        values = np.asarray(history.features[:, :, number], np.float32)
        edge, share, figure = _feature(values, starts, window, floor)
        compared.append(np.isfinite(values).any(axis=0))
        edges.append(edge)
        shares.append(share)
        figures.append(figure)
    spread, _ = _mean_and_windows(history.half_spread, starts, window)
    square, square_windows = _mean_and_windows(history.squared_return, starts, window)
    own = [_against_rest(x, starts, window) for x in (history.half_spread, history.squared_return)]
    return Reference(
        features=tuple(features),
        symbols=tuple(symbols),
        window=window,
        n_bars=n,
        edges=np.stack(edges),
        shares=np.stack(shares),
        compared=np.stack(compared).astype(np.float64),
        stability=window_limits(np.stack(figures, axis=1), independent, lag, LEAST_STABILITY),
        half_spread=spread,
        half_spread_quantiles=_quantiles(history.half_spread),
        half_spread_limits=window_limits(own[0], independent, lag, SPREAD_FACTOR),
        volatility=np.sqrt(square),
        volatility_quantiles=_quantiles(np.sqrt(square_windows)),
        volatility_limits=window_limits(np.sqrt(own[1]), independent, lag, VOLATILITY_FACTOR),
        cost=np.full(n_assets, np.nan) if cost is None else np.asarray(cost, np.float64),
    )


def _feature(values: np.ndarray, starts: np.ndarray, window: int, floor: float) -> tuple[np.ndarray, ...]:
    """Edges, expected shares, and population stability `[W]` of windows against the rest, of a feature `[n, A]`."""
    every = -(-values.size // MOST_SORTED)
    some = values[::every]
    edge = bin_edges(some[np.isfinite(some)])
    found = categories(values.reshape(-1, 1), edge[None])[:, 0].astype(np.int64).reshape(values.shape)
    rows, counted = np.arange(len(values))[:, None] * N_CATEGORIES, np.logical_or.accumulate(np.isfinite(values))
    counts = np.bincount((rows + found)[counted], minlength=len(values) * N_CATEGORIES).reshape(-1, N_CATEGORIES)
    sums = np.concatenate([np.zeros((1, N_CATEGORIES), np.int64), np.cumsum(counts, axis=0)])
    inside, total = sums[starts + window] - sums[starts], sums[-1]
    inside_shares, rest_shares = (x / np.maximum(x.sum(axis=1, keepdims=True), 1) for x in (inside, total - inside))
    stability = population_stability(inside_shares, rest_shares, floor)
    stability = np.where(inside.sum(axis=1) > 0, stability, np.nan)
    return edge, total / max(total.sum(), 1), stability


def _sums(values: np.ndarray, starts: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sums and numbers of known values `[n, A]`: of windows `[W, A]`, and of all `[A]`."""
    known = np.isfinite(values)
    zero = np.zeros((1, values.shape[1]))
    sums, numbers = (
        np.concatenate([zero, np.cumsum(x, axis=0)]) for x in (np.where(known, values, 0.0), known.astype(np.float64))
    )
    stops = starts + window
    return sums[stops] - sums[starts], numbers[stops] - numbers[starts], sums[-1], numbers[-1]


def _mean_and_windows(values: np.ndarray, starts: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean `[A]` of known values `[n, A]`, and means `[W, A]` of windows; NaN where nothing is known."""
    inside, number, total, count = _sums(values, starts, window)
    return _over(total, count), np.maximum(_over(inside, number), 0.0)


def _against_rest(values: np.ndarray, starts: np.ndarray, window: int) -> np.ndarray:
    """Means `[W, A]` of windows over those of the rest; NaN where nothing is known."""
    inside, number, total, count = _sums(values, starts, window)
    rest = np.maximum(_over(total - inside, count - number), TINY)
    return np.maximum(_over(inside, number), 0.0) / rest


TINY = 1e-12
"""Smallest mean that others are divided by."""


def _over(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _quantiles(values: np.ndarray) -> np.ndarray:
    """Quantiles 5 %, 50 % and 95 % `[A, 3]` of known values `[n, A]`."""
    columns = [column[np.isfinite(column)] for column in values.T]
    return np.stack([np.quantile(x, (0.05, 0.5, 0.95)) if len(x) else np.full(3, np.nan) for x in columns])


def _plain(value: Any) -> Any:
    """A value as JSON has it; numbers that are not finite are null."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Limits):
        return {name: _plain(one) for name, one in value._asdict().items()}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _array(plain: Any, shape: tuple[int, ...], unknown: float) -> np.ndarray:
    """An array of a shape from lists, with a number in place of null."""
    found = np.asarray(plain, np.float64)  # null is NaN
    if found.shape != shape:
        raise ValueError(f"an array of shape {found.shape} is there, {shape} is expected")
    return np.where(np.isnan(found), unknown, found)
