"""Configured baselines on the prices of a run: mistakes surface before anything is compiled."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pandas as pd

from jaxppo.config import Config
from jaxppo.config.evaluation import BASELINE_RULES, BaselineConfig, BenchmarkBaseline
from jaxppo.config.items import OWN
from jaxppo.envs.data.load import load_market
from jaxppo.envs.data.reading import read_tables
from jaxppo.envs.data.rows import column_key
from jaxppo.envs.market.market_data import MarketData
from jaxppo.errors import ConfigError
from jaxppo.policy import rules
from jaxppo.policy.protocol import Policy
from jaxppo.run import folder as run_folder
from jaxppo.run.own import own_policy
from jaxppo.run.periods import Period

PRICES = ("open", "high", "low", "close", "adjclose", "adjustedclose", "bid", "ask", "volume")
"""Columns, by `column_key`, that a benchmark of another column does not read."""
DAY = np.timedelta64(1, "D")
DAILY = np.timedelta64(20, "h")
"""Bars at least this far apart are daily: their price is known once the day is over."""


def check_baselines(config: Config, market: MarketData, test: Period) -> None:
    """Refuses configured baselines that cannot be traded or compared over a period.

    Args:
      config: of the run.
      market: its prices.
      test: the period.

    Raises:
      ConfigError: names the key, its value and what is allowed.
      envs.DataError: a benchmark's file cannot be used.
    """
    for number, item in enumerate(config.evaluation.baselines):
        if item.kind in (*BASELINE_RULES, OWN):
            rule_of(item, number)
        elif item.run is not None:
            run_folder.open_folder(item.run.folder)
        elif item.benchmark is not None and item.benchmark.path is not None:
            benchmark_prices(item.benchmark, config, market, test)
        elif item.benchmark is not None:
            asset_of(item.benchmark, market, number)


def rule_of(item: BaselineConfig, number: int) -> Policy:
    """Builds a rule, or a policy of a user's own, by its keys.

    Args:
      item: the rule.
      number: in the list, for messages.

    Raises:
      ConfigError: keys that do not fit together, or own code that returns no policy.
    """
    if item.kind == OWN:
        return own_policy(item.values, f"evaluation.baselines[{number}]")
    keys = {name: value for name, value in dict(item.values).items() if name != "name"}
    try:
        return getattr(rules, item.kind)(**keys)
    except ValueError as error:
        raise ConfigError(f"evaluation.baselines[{number}].{item.kind}: {error}") from None


def asset_of(keys: BenchmarkBaseline, market: MarketData, number: int) -> int:
    """Position of a benchmark's symbol among the assets.

    Args:
      keys: of the benchmark.
      market: the prices.
      number: in the list, for messages.

    Raises:
      ConfigError: there is no such asset.
    """
    symbols = market.info.symbols
    if keys.symbol not in symbols:
        known = ", ".join(symbols[:10]) + (" ..." if len(symbols) > 10 else "") if symbols else "without names"
        raise ConfigError(
            f"evaluation.baselines[{number}].benchmark.symbol is {keys.symbol!r}; the assets are {known}. Prices that "
            "are not traded are given by path"
        )
    return symbols.index(keys.symbol)


def benchmark_prices(keys: BenchmarkBaseline, config: Config, market: MarketData, period: Period) -> np.ndarray:
    """The latest price of an index that was known at each mark of a period.

    Daily prices are known at the marks of daily bars of their date, and of shorter bars from the next day on.

    Args:
      keys: of the benchmark, with a path.
      config: of the run: the zone and the order of its dates are those of the benchmark's.
      market: the prices that are traded.
      period: `n` decisions.

    Returns:
      `[n + 1]` float64.

    Raises:
      ConfigError: the index does not cover the period, or the market has no times.
      envs.DataError: the file cannot be used.
    """
    where, times = f"evaluation.baselines: benchmark.path {keys.path!r}", market.info.timestamps
    if not len(times):
        raise ConfigError(f"{where}: the prices of the run have no times to align it with")
    index = load_market(_source(keys, where), timezone=config.data.timezone, day_first=config.data.day_first)
    if index.n_assets > 1:
        raise ConfigError(f"{where} has {index.n_assets} symbols; a benchmark is one series of prices")
    known, marks = index.info.timestamps, times[period.first : period.last + 1]
    if _daily(known) and not _daily(times):
        known = known + DAY
    if known[0] > marks[0] or known[-1] < marks[-1] - (DAY if _daily(known) else np.timedelta64(0)):
        raise ConfigError(
            f"{where} is known from {str(known[0])[:10]} to {str(known[-1])[:10]}; the test needs it from "
            f"{str(marks[0])[:10]} to {str(marks[-1])[:10]}"
        )
    latest = np.searchsorted(known, marks, side="right") - 1
    return np.asarray(index.close, np.float64)[latest, 0]


def _daily(times: np.ndarray) -> bool:
    return len(times) > 1 and np.diff(times).min() >= DAILY


def _source(keys: BenchmarkBaseline, where: str) -> Any:
    """The benchmark's file, with the named column as its close.

    Raises:
      ConfigError: there is no such column.
    """
    assert keys.path is not None
    if keys.column is None:
        return keys.path
    tables = read_tables(keys.path)
    frame: pd.DataFrame = tables[0].frame
    if len(tables) > 1 or keys.column not in frame.columns:
        names = ", ".join(map(str, frame.columns[:10]))
        raise ConfigError(f"{where}: column is {keys.column!r}; the columns are {names}")
    others = [name for name in frame.columns if column_key(name) in PRICES and name != keys.column]
    renamed = frame.drop(columns=others).rename(columns={keys.column: "close"})
    return {pathlib.Path(keys.path).stem: renamed}
