"""Stationary features, spreads and returns that remember, as arrays."""

from __future__ import annotations

import numpy as np
from scipy.signal import lfilter

from jaxppo.deploy.drift.reference import History

ASSETS = ("A", "B", "C")
FEATURES = tuple(f"{name}_{rho}" for rho in (0.0, 0.5, 0.8, 0.9) for name in "abcd")


def remembering(draws: np.random.Generator, n: int, n_assets: int, rho: float) -> np.ndarray:
    """An autoregression of order one `[n, A]` of unit variance, half of which the assets share."""
    noise = np.sqrt(0.5) * (draws.normal(size=(n + 300, n_assets)) + draws.normal(size=(n + 300, 1)))
    return lfilter([1.0], [1.0, -rho], noise, axis=0)[300:] * np.sqrt(1.0 - rho**2)


def stationary(seed: int, n: int) -> History:
    """A market that does not change: `FEATURES`, clustered volatility of 1 % a bar, half-spreads of about 1 bp."""
    draws, n_assets = np.random.default_rng(seed), len(ASSETS)
    features = np.stack([remembering(draws, n, n_assets, float(name.split("_")[1])) for name in FEATURES], axis=-1)
    spread, level = (0.3 * remembering(draws, n, n_assets, 0.9) for _ in range(2))
    returns = 0.01 * np.exp(level) * draws.normal(size=(n, n_assets))
    return History(features.astype(np.float32), 1e-4 * np.exp(spread), returns**2)


def rows(history: History, start: int, stop: int | None = None) -> History:
    """A part of a history."""
    return History(*(x[start:stop] for x in history))


def feed(tracker, history: History) -> None:
    """Counts every bar of a history, with the closes that its squared returns come from."""
    last = np.where(np.isfinite(tracker._close), tracker._close, 1.0)
    close = last * np.exp(np.cumsum(np.sqrt(history.squared_return), axis=0))
    for number in range(len(close)):
        fields = {"tradable": np.ones(len(ASSETS), bool), "half_spread": history.half_spread[number]}
        tracker.count(history.features[number], {**fields, "close": close[number]})
