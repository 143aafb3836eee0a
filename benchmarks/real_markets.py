"""Markets of `benchmarks.real`: four sets of real prices, placebos without predictability, and planted trends."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxppo.envs.data.load import load_market
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.periods import periods_per_year

CALENDAR = "XNYS"
STOCK_HALF_SPREAD = 5e-4
"""Of the closes of skfolio, which come without volume and quotes: fraction of the price."""
YEAR = 252
"""Own bars that a planted trend follows."""
ROUNDS = 4
"""Of finding the strength of a planted trend."""
FIELDS = ("open", "high", "low", "close")


@dataclasses.dataclass(frozen=True)
class PriceSet:
    """A set of real prices and how it is traded.

    Attributes:
      config: file of the configuration.
      first_year: of the tests.
      load: `folder -> market`.
      budget: volatility per year that the rules of the set aim at, fraction of equity.
    """

    config: str
    first_year: int
    load: Callable[[pathlib.Path], MarketData]
    budget: float


def _futures(folder: pathlib.Path) -> MarketData:
    """Excess-return indices of futures: closes with constant quotes and carry."""
    return load_market(folder / "futures_1d.parquet")


def _stocks(folder: pathlib.Path) -> MarketData:
    """The adjusted closes of 20 stocks that skfolio ships: their halvings are real. The folder is not read."""
    from skfolio.datasets import load_sp500_dataset

    closes = load_sp500_dataset()
    closes = closes.rename_axis(index="date", columns="symbol").stack().rename("close").reset_index()
    return load_market(closes, calendar=CALENDAR, spread="fixed", half_spread=STOCK_HALF_SPREAD, split_tolerance=0.0)


def _hourly(folder: pathlib.Path) -> MarketData:
    """Daily bars of hourly ones, without the youngest security. Highs and lows of hourly bars hold bad prints, so the
    range of a day is that of its hourly opens and closes."""
    bars = pd.read_parquet(folder / "us_equity_1h.parquet").sort_values("timestamp")
    bars = bars[bars.symbol != "VXX"]
    days = pd.DataFrame(
        {
            "symbol": bars.symbol.astype(str),
            "date": bars.timestamp.dt.tz_convert("America/New_York").dt.strftime("%Y-%m-%d"),
            "open": bars.open,
            "high": bars[["open", "close"]].max(axis=1),
            "low": bars[["open", "close"]].min(axis=1),
            "close": bars.close,
            "volume": bars.volume,
            "adj_factor": bars.adj_factor,
        }
    )
    how = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum", "adj_factor": "last"}
    return load_market(days.groupby(["symbol", "date"], as_index=False).agg(how), calendar=CALENDAR)


def _us88(folder: pathlib.Path) -> MarketData:
    return load_market(folder / "us88_1d.parquet", calendar=CALENDAR, on_bad_rows="drop")


SETS = {
    "futures": PriceSet("configs/futures.yaml", 1996, _futures, 0.1),
    "stocks": PriceSet("configs/stocks.yaml", 1996, _stocks, 0.05),
    "hourly": PriceSet("configs/stocks.yaml", 2004, _hourly, 0.1),
    "us88": PriceSet("configs/stocks.yaml", 2015, _us88, 0.02),
}
"""Budgets of risk differ with the number of stocks: all of them held are 75 to 95 % of the equity."""


def first_bar_of(market: MarketData, year: int) -> int:
    """Number of the first bar of a year.

    Args:
      market: with times.
      year: of the calendar.
    """
    return int(np.searchsorted(market.info.timestamps, np.datetime64(f"{year}-01-01")))


def shuffled(market: MarketData, seed: int) -> MarketData:
    """A placebo: the same bars in another order, so that no past bar says anything of a later one.

    One permutation of rows serves all assets, which keeps their correlation. Where it takes an asset to a row without a
    bar of it, the asset takes one of its own bars that are left over. Each asset keeps its bars, its mean return and
    its volatility; what is quoted (spread, carry, volume) stays where it was.

    Args:
      market: unbatched.
      seed: of the permutation.
    """
    random = np.random.default_rng([seed, 0])
    moves, valid = _moves(market)
    order = random.permutation(market.n_bars)
    source = np.stack([_own_order(own, order, random) for own in valid.T], axis=1)
    placed = np.take_along_axis(moves, source[..., None], axis=0)
    return _with_moves(market, np.where(valid[..., None], placed, 0.0))


def planted(market: MarketData, sharpe: float, seed: int) -> tuple[MarketData, np.ndarray]:
    """A placebo with a trend: what has risen over a year, in units of its volatility, tends to rise.

    `r_ta = shuffled r_ta + sigma_a s d_ta`, with `d_ta = tanh(past return / (sigma_a sqrt(252)))` of the 252 own bars
    up to t - 2: what is known when an order that holds bar t is placed. The rule that holds `d_ta / sigma_a` needs
    nothing but past closes; s is such that its Sharpe ratio a year before costs is `sharpe` more than in the placebo,
    in the mean.

    Args:
      market: unbatched.
      sharpe: a year, that the trend adds to the rule that follows it.
      seed: of the permutation.

    Returns:
      The market, and `[T, A]` signals d, each known two bars before.
    """
    copy = shuffled(market, seed)
    moves, valid = _moves(copy)
    returns = np.where(valid, moves[..., 3], np.nan)
    mean, deviation = np.nanmean(returns, axis=0), np.nanstd(returns, axis=0)
    noise = np.nan_to_num((returns - mean) / deviation)
    strength = 0.0
    for _ in range(ROUNDS):  # the trend makes the signals larger, and they the trend
        signal = _followed(moves[..., 3], valid, deviation, strength)
        held = np.where(valid, signal, 0.0)
        risk, gain = np.sum(held * noise, axis=1).std(), np.sum(held**2, axis=1).mean()
        strength = sharpe / math.sqrt(periods_per_year(market)) * risk / gain
    signal = _followed(moves[..., 3], valid, deviation, strength)
    lifted = moves + np.where(valid, strength * signal * deviation, 0.0)[..., None]
    return _with_moves(copy, np.where(valid[..., None], lifted, 0.0)), signal


def _followed(returns: np.ndarray, valid: np.ndarray, deviation: np.ndarray, strength: float) -> np.ndarray:
    """Signals `[T, A]` of returns to which a trend of this strength is added, bar by bar."""
    n_bars, n_assets = returns.shape
    level, own = np.zeros((n_bars + 1, n_assets)), np.zeros(n_assets, int)
    signal, assets = np.zeros((n_bars, n_assets)), np.arange(n_assets)
    late = np.zeros((2, n_assets))
    for bar in range(n_bars):
        signal[bar], late = late[0], np.roll(late, -1, axis=0)
        moved = np.where(valid[bar], returns[bar] + strength * signal[bar] * deviation, 0.0)
        own += valid[bar]
        level[own, assets] = level[own - valid[bar], assets] + moved
        past = level[own, assets] - level[np.maximum(own - YEAR, 0), assets]
        late[1] = np.where(own >= YEAR, np.tanh(past / (deviation * math.sqrt(YEAR))), 0.0)
    return signal


def _moves(market: MarketData) -> tuple[np.ndarray, np.ndarray]:
    """Log distances `[T, A, 4]` of `FIELDS` from the close before, and whether they are of a bar with one before it."""
    close = np.asarray(market.close, np.float64)
    before = np.concatenate([close[:1], close[:-1]])
    tradable = np.asarray(market.tradable)
    valid = tradable & (np.cumsum(tradable, axis=0) > 1)
    prices = np.stack([np.asarray(getattr(market, name), np.float64) for name in FIELDS], axis=-1)
    return np.log(prices / before[..., None]), valid


def _own_order(valid: np.ndarray, order: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Rows `[T]` that an asset takes: those of the common order where it has bars, and its left-over ones elsewhere."""
    source, good = order.copy(), valid & valid[order]
    used = np.zeros_like(valid)
    used[order[good]] = True
    source[valid & ~good] = random.permutation(np.flatnonzero(valid & ~used))
    return source


def _with_moves(market: MarketData, moves: np.ndarray) -> MarketData:
    """The market with other log distances `[T, A, 4]`; each asset starts from its first close."""
    close = np.asarray(market.close, np.float64)
    tradable = np.asarray(market.tradable)
    first = np.argmax(tradable, axis=0)
    start = np.log(close[first, np.arange(len(first))])
    path = start + np.cumsum(moves[..., 3], axis=0)
    before = np.concatenate([np.broadcast_to(start, (1, len(first))), path[:-1]])
    listed = np.cumsum(tradable, axis=0) > 0
    prices = np.where(listed[..., None], np.exp(before[..., None] + moves), 1.0)
    prices[first, np.arange(len(first))] = close[first, np.arange(len(first)), None]
    fields = {name: jnp.asarray(prices[..., place], jnp.float32) for place, name in enumerate(FIELDS)}
    return market.replace(**fields)
