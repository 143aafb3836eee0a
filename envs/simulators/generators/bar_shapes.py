"""Whole bars around simulated returns: gap, range, volume, spread and calendar come from bars of the source.

A simulator draws an asset's return in a bar and the volatility of the bar. All else comes from a bar of the source,
scaled to that volatility. A gap is a fixed share of the return plus the source bar's residual. That residual, the range
beyond open and close, volume and half-spread scale with the power of volatility with which they move in the source.
Source bars are taken in order, so that calendar and time of day are real.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxppo.envs.market.market_data import MarketData, MarketInfo
from jaxppo.envs.market.own_bars import carried_forward

FEWEST_PER_TIME = 30
"""Returns that a time of day needs to have its volatility estimated."""

LARGEST_HALF_SPREAD = 0.5
"""Half-spreads are cut here: half of the price."""


@dataclasses.dataclass(frozen=True)
class Returns:
    """Deseasonalised log returns of a market, to which simulators are fitted; host-side, float64.

    Attributes:
      values: `[T, A]` log return from the previous bar's close, divided by `season`; 0 where not known.
      known: `[T, A]` bool, the asset traded in this bar and in the one before.
      season: `[T, A]` volatility at this time of day over that at all times; 1 for daily bars.
    """

    values: np.ndarray
    known: np.ndarray
    season: np.ndarray


def fitted_returns(market: MarketData) -> Returns:
    """Computes returns of consecutive bars without the volatility pattern of the day.

    The season of a time of day is the root mean square of the asset's returns at that time over the one at all times; 1
    for times with fewer than 30 returns.

    Raises:
      ValueError: an asset with fewer than 10 returns, or one whose price never moves.

    Reference: Andersen, Bollerslev (1997), Intraday periodicity and volatility persistence, without its
    smoothing over the day.
    """
    close, tradable = np.asarray(market.close, np.float64), np.asarray(market.tradable)
    minute = np.asarray(market.minute_of_day)
    known = np.zeros_like(tradable)
    known[1:] = tradable[1:] & tradable[:-1]
    values = np.zeros_like(close)
    values[1:] = np.diff(np.log(close), axis=0)
    values = np.where(known, values, 0.0)
    for asset in range(market.n_assets):
        if known[:, asset].sum() < 10:
            raise ValueError(f"asset {asset} has {known[:, asset].sum()} returns of consecutive bars; a fit needs 10")
        if not np.ptp(values[known[:, asset], asset]) > 0:
            raise ValueError(f"asset {asset} has a price that never moves; there is nothing to fit")
    overall = _root_mean_square(values, known)
    season = np.ones_like(close)
    for time in np.unique(minute):
        here = minute == time
        ratio = _root_mean_square(values[here], known[here]) / overall
        enough = (known[here].sum(axis=0) >= FEWEST_PER_TIME) & (ratio > 0)
        season[here] = np.where(enough, ratio, 1.0)
    return Returns(values / season, known, season)


def _root_mean_square(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    return np.sqrt(np.where(known, values**2, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1))


class BarShapes(struct.PyTreeNode):
    """Source bars without their returns, to be put around simulated returns; `[T, A]` unless noted.

    Attributes:
      gap: residual of the log return from the previous close to the open, given the bar's return.
      gap_share: `[A]` share of a return that falls on the gap.
      up: log distance from the higher of open and close to the high, >= 0.
      down: log distance from the lower of open and close to the low, >= 0.
      deviation: volatility of the bar under the simulator's model, per bar and without season, > 0.
      season: as in `Returns`.
      volume: shares.
      half_spread: fraction of the price.
      tradable: bool.
      gap_power, range_power, volume_power, spread_power: `[A]` elasticities to volatility, in [0, 2].
      start_price: `[A]` price before the first bar of a path.
      volume_known: `[A]` bool.
      minute_of_day, session, day_of_week, seconds_since_previous: `[T]`, as in `MarketData`.
      futures: `[A]`, as in `MarketData`.
    """

    gap: jax.Array
    gap_share: jax.Array
    up: jax.Array
    down: jax.Array
    deviation: jax.Array
    season: jax.Array
    volume: jax.Array
    half_spread: jax.Array
    tradable: jax.Array
    gap_power: jax.Array
    range_power: jax.Array
    volume_power: jax.Array
    spread_power: jax.Array
    start_price: jax.Array
    volume_known: jax.Array
    minute_of_day: jax.Array
    session: jax.Array
    day_of_week: jax.Array
    seconds_since_previous: jax.Array
    futures: Any = ()


def bar_shapes(market: MarketData, returns: Returns, deviation: np.ndarray) -> BarShapes:
    """Extracts the shapes of the bars of a market; host-side.

    A halt of an asset is a halt in paths as well. Before its listing and after its delisting an asset takes the shapes
    of its other bars, so that on every path all assets are listed throughout.

    Args:
      market: `[T, A]` source.
      returns: of the market.
      deviation: `[T, A]` volatility of each bar under the fitted model, without season, > 0.
    """
    open_, high, low, close = (
        np.log(np.asarray(x, np.float64)) for x in (market.open, market.high, market.low, market.close)
    )
    known, tradable = returns.known, np.asarray(market.tradable)
    gap = np.where(known, open_ - np.concatenate([close[:1], close[:-1]]), 0.0)
    moved = returns.values * returns.season
    share = np.where(known, gap * moved, 0.0).sum(axis=0) / np.where(known, moved**2, 0.0).sum(axis=0)
    columns = {
        "gap": np.where(known, gap - share * moved, 0.0),
        "up": np.where(tradable, high - np.maximum(open_, close), 0.0),
        "down": np.where(tradable, np.minimum(open_, close) - low, 0.0),
        "deviation": deviation,
        "volume": np.where(tradable, np.asarray(market.volume, np.float64), 0.0),
        "half_spread": np.asarray(market.half_spread, np.float64),
    }
    moving = {
        "gap_power": np.abs(columns["gap"]),
        "range_power": columns["up"] + columns["down"],
        "volume_power": columns["volume"],
        "spread_power": columns["half_spread"],
    }
    powers = {name: _elasticity(amount, deviation, tradable) for name, amount in moving.items()}
    rows, listed = _listed_rows(tradable)
    columns = {name: np.take_along_axis(values, rows, axis=0) for name, values in columns.items()}
    first = np.argmax(tradable, axis=0)
    numbers = {
        **columns,
        **powers,
        "gap_share": share,
        "season": returns.season,
        "start_price": np.exp(close[first, np.arange(market.n_assets)]),
    }
    return BarShapes(
        **{name: jnp.asarray(values, jnp.float32) for name, values in numbers.items()},
        tradable=jnp.asarray(tradable | ~listed),
        volume_known=market.volume_known,
        minute_of_day=market.minute_of_day,
        session=market.session,
        day_of_week=market.day_of_week,
        seconds_since_previous=market.seconds_since_previous,
        futures=market.futures,
    )


def _listed_rows(tradable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row from which each `[T, A]` bar takes its shape, and whether the asset is listed in it."""
    n_bars, n_assets = tradable.shape
    bars = np.arange(n_bars)
    rows, listed = np.tile(bars[:, None], (1, n_assets)), np.ones_like(tradable)
    for asset in range(n_assets):
        traded = np.flatnonzero(tradable[:, asset])
        listed[:, asset] = (bars >= traded[0]) & (bars <= traded[-1])
        outside = bars[~listed[:, asset]]
        rows[outside, asset] = traded[outside % len(traded)]
    return rows, listed


def _elasticity(amount: np.ndarray, deviation: np.ndarray, tradable: np.ndarray) -> np.ndarray:
    """Slope `[A]`, in [0, 2], of log amount on log volatility over the bars with a positive amount; 0 without any."""
    slopes = np.zeros(amount.shape[1])
    for asset in range(amount.shape[1]):
        use = tradable[:, asset] & (amount[:, asset] > 0)
        if use.sum() < 10:
            continue
        x, y = np.log(deviation[use, asset]), np.log(amount[use, asset])
        variation = np.square(x - x.mean()).sum()
        slopes[asset] = np.clip((x - x.mean()) @ (y - y.mean()) / variation, 0.0, 2.0) if variation > 1e-12 else 0.0
    return slopes


def consecutive_rows(key: jax.Array, n_bars: int, n_source: int) -> jax.Array:
    """Draws source bars in order from a random one on, `[n_bars]` int32; bar 1 follows the last, as bar 0 has no gap.

    Args:
      key: consumed.
      n_bars: of the path.
      n_source: T, bars of the source.
    """
    start = jax.random.randint(key, (), 0, n_source - 1)
    return (start + jnp.arange(n_bars, dtype=jnp.int32)) % (n_source - 1) + 1


def bars_around(shapes: BarShapes, row: jax.Array, log_return: jax.Array, deviation: jax.Array) -> MarketData:
    """Builds a market with given returns and volatilities and the bar shapes of a source.

    Args:
      shapes: of the source.
      row: `[N]` int32 source bar of each bar, in [1, T).
      log_return: `[N, A]` close to close, without season.
      deviation: `[N, A]` volatility per bar, without season, > 0.

    Returns:
      `[N, A]` market without names and times. Where the source bar was a halt, nothing trades; the bar that ends the
      halt has the returns of the whole halt.
    """
    season = shapes.season[row]
    ratio = deviation / shapes.deviation[row]
    moved = log_return * season
    log_close = jnp.log(shapes.start_price)[None] + jnp.cumsum(moved, axis=0)

    def scaled(amount: jax.Array, power: jax.Array) -> jax.Array:
        return amount[row] * ratio ** power[None]

    gap = shapes.gap_share[None] * moved + scaled(shapes.gap, shapes.gap_power)
    log_open = log_close - moved + gap
    log_high = jnp.maximum(log_open, log_close) + scaled(shapes.up, shapes.range_power)
    log_low = jnp.minimum(log_open, log_close) - scaled(shapes.down, shapes.range_power)
    tradable = shapes.tradable[row]
    close, listed = carried_forward(jnp.exp(log_close), tradable, shapes.start_price)

    def placed(price: jax.Array) -> jax.Array:
        return jnp.where(listed, jnp.where(tradable, price, close), 1.0)

    open_ = placed(jnp.exp(log_open))
    close = placed(close)
    previous = jnp.maximum(row - 1, 0)
    new_session = (shapes.session[row] != shapes.session[previous]) | (row == 1)
    return MarketData(
        open=open_,
        high=jnp.maximum(placed(jnp.exp(log_high)), jnp.maximum(open_, close)),
        low=jnp.minimum(placed(jnp.exp(log_low)), jnp.minimum(open_, close)),
        close=close,
        volume=jnp.where(tradable, scaled(shapes.volume, shapes.volume_power), 0.0),
        half_spread=jnp.minimum(scaled(shapes.half_spread, shapes.spread_power), LARGEST_HALF_SPREAD),
        tradable=tradable,
        volume_known=shapes.volume_known,
        minute_of_day=shapes.minute_of_day[row],
        session=jnp.cumsum(new_session.at[0].set(True), dtype=jnp.int32) - 1,
        day_of_week=shapes.day_of_week[row],
        seconds_since_previous=shapes.seconds_since_previous[row].at[0].set(0.0),
        info=MarketInfo(),
        futures=shapes.futures,
    )
