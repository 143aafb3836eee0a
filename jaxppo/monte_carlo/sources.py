"""Generators of random markets, fitted to the test period of a run."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxppo.envs.market.market_data import MarketData, slice_bars
from jaxppo.envs.market.regimes import market_regime
from jaxppo.envs.simulators.generators import GENERATORS, Generator
from jaxppo.errors import ConfigError
from jaxppo.run.saved import SavedRun
from jaxppo.statistics import optimal_block_length

BY_REGIME = ("regime_bootstrap", "regime_switching")
OF_WHOLE_BARS = ("stationary_bootstrap", "circular_bootstrap", "regime_bootstrap")
"""Generators that keep everything of a bar, its carry too."""


def source_market(run: SavedRun) -> MarketData:
    """Cuts out the bars of a run's test period."""
    period = run.setup.periods["test"]
    return slice_bars(run.setup.market, period.first, period.last + 1)


def draws_of(run: SavedRun, name: str, n_bars: int) -> Generator:
    """Fits a generator of markets to the test period of a run.

    Blocks have the longest automatic length among the returns of the assets and their squares: blocks that keep the
    dependence of the mean alone would lose the clusters of volatility. Regimes are the most probable ones under the
    run's model, on average over the assets.

    Args:
      run: from `jaxppo.backtest.load_run`.
      name: one of `jaxppo.envs.simulators.generators.GENERATORS`.
      n_bars: bars of a market.

    Raises:
      ConfigError: an unknown name, regimes of a run that has none, or a run that reads carry, which it does not draw.
      ValueError: the period cannot be drawn from.
    """
    if name not in GENERATORS:
        raise ConfigError(f"--generator is {name!r}; it must be one of {', '.join(GENERATORS)}")
    if "carry" in run.setup.config.features.groups and name not in OF_WHOLE_BARS:
        raise ConfigError(
            f"--generator is {name!r}, which draws no carry, and features.groups of the run names it; choose one of "
            f"{', '.join(OF_WHOLE_BARS)}"
        )
    if run.setup.config.features.columns and name not in OF_WHOLE_BARS:
        raise ConfigError(
            f"--generator is {name!r}, which draws no columns of your own, and features.columns of the run reads some; "
            f"choose one of {', '.join(OF_WHOLE_BARS)}"
        )
    source = source_market(run)
    options: dict[str, Any] = {}
    if name == "circular_bootstrap":
        options["block"] = block_length(source, circular=True)
    elif name in ("stationary_bootstrap", "regime_bootstrap"):
        options["mean_block"] = block_length(source)
    if name in BY_REGIME:
        options["labels"] = _labels(run, name)
    return GENERATORS[name](source, n_bars, **options)


def block_length(market: MarketData, *, circular: bool = False) -> float:
    """Chooses the block length of a bootstrap of a market automatically, in bars, >= 1; see `draws_of`.

    Args:
      market: that is resampled.
      circular: for a circular bootstrap, whose blocks are of equal length; else the mean of a stationary one's.
    """
    close, tradable = np.asarray(market.close, np.float64), np.asarray(market.tradable)
    traded = tradable[1:] & tradable[:-1]
    returns = np.where(traded, np.diff(np.log(close), axis=0), 0.0)
    series = np.concatenate([returns, np.square(returns - returns.mean(axis=0))], axis=1)
    return optimal_block_length(series, circular=circular)


def _labels(run: SavedRun, name: str) -> np.ndarray:
    setup = run.setup
    if setup.regimes is None:
        raise ConfigError(f"--generator is {name!r}, but regimes.kind of the run is none; it needs rules or hmm")
    period = setup.periods["test"]
    return market_regime(np.asarray(setup.regimes[period.first : period.last + 1]))
