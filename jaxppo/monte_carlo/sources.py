"""Generators of random markets, fitted to the test period of a run."""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np

from jaxppo.arguments import OWN_NAME, OWN_NAME_PATTERN
from jaxppo.envs.market.check import check_market
from jaxppo.envs.market.market_data import MarketData, slice_bars
from jaxppo.envs.market.own_columns import check_columns
from jaxppo.envs.market.regimes import market_regime
from jaxppo.envs.simulators.generators import GENERATORS, Generator
from jaxppo.errors import ConfigError
from jaxppo.own_code import call_of, find, said, type_shown
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
      name: one of `jaxppo.envs.simulators.generators.GENERATORS`, or `module:function` of a user's own, which takes a
        market and the number of bars like those.
      n_bars: bars of a market.

    Raises:
      ConfigError: an unknown name, regimes of a run that has none, a run that reads carry or pays funding, which it
        does not draw, or own code that fails or draws something else.
      ValueError: the period cannot be drawn from.
    """
    if ":" in name:
        return _own_generator(run, name, n_bars)
    if name not in GENERATORS:
        allowed = f"{', '.join(GENERATORS)}, or {OWN_NAME} of your own"
        raise ConfigError(f"--generator is {name!r}; it must be one of {allowed}")
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
    if not isinstance(run.setup.market.funding, tuple) and name not in OF_WHOLE_BARS:
        raise ConfigError(
            f"--generator is {name!r}, which draws no funding, and the run pays some (data.funding); choose one of "
            f"{', '.join(OF_WHOLE_BARS)}"
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


def _own_generator(run: SavedRun, name: str, n_bars: int) -> Generator:
    """What a factory of a user's own returns, tried once; its name has the hash of its code."""
    source, key = source_market(run), "--generator"
    if re.match(OWN_NAME_PATTERN, name) is None:
        raise ConfigError(f"{key} is {name!r}; {OWN_NAME} is expected")
    code = find(name, key)
    call = call_of(code, key, {}, first=2)
    try:
        made = call(source, n_bars)
        drawn = None if not isinstance(made, Generator) else jax.jit(made.draw)(made.data, jax.random.key(0))
    except Exception as error:  # whatever the code of a user raises is a mistake of the user
        raise ConfigError(f"{key} {name}: {said(error)}") from error
    if drawn is None:
        raise ConfigError(f"{key} {name} returns {type_shown(made)}; a Generator is expected")
    shape = (n_bars, source.n_assets)
    if not isinstance(drawn, MarketData) or drawn.close.shape != shape:
        what = list(drawn.close.shape) if isinstance(drawn, MarketData) else type(drawn).__name__
        raise ConfigError(f"{key} {name} draws {what}; a market of [T, A] = {list(shape)} is expected")
    try:
        check_market(drawn)
        check_columns(drawn, run.setup.config.features.column_groups)
    except ValueError as error:
        raise ConfigError(f"{key} {name}: {error}") from None
    return made._replace(name=f"{name}, SHA-256 {code.sha256[:12]}")


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
