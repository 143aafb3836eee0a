"""Raw features of each group, before they are normalised: of each asset's own bars, `[T, A]` each."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxppo.envs.market import indicators, trend
from jaxppo.envs.market.market_data import SECONDS_PER_YEAR, MarketData
from jaxppo.envs.market.normalisation import CLIP, zscore
from jaxppo.envs.market.own_bars import OwnBars
from jaxppo.envs.market.rows import row_number, running_count
from jaxppo.envs.market.safe import ratio
from jaxppo.envs.market.windows import exponential_average, linear_recurrence, rolling_mean, rolling_valid_sum, shift

RETURN_HORIZONS = (1, 5, 21, 63)
AVERAGE_WINDOWS = (10, 21, 63)
CHANNEL_WINDOWS = (21, 63)
VOLATILITY_WINDOW = 21
LIQUIDITY_WINDOW = 21
TREND_HORIZONS = (1, 5, 21, 63, 126, 252)
TREND_SCALES = ((8, 24), (16, 48), (32, 96))
HIGH_WINDOWS = (63, 252)
RANKED_HORIZONS = (21, 63, 252)
OTHERS_HORIZONS = (1, 21, 63, 252)
CARRY_WINDOW, CARRY_LOOKBACK, CARRY_HORIZON = 21, 5, 252
STALE = 21
"""Bars without one of its own after which an asset is no longer among the others."""
RISKMETRICS_SPAN = 2 / (1 - 0.94) - 1
"""Span of the RiskMetrics daily average, lambda = 0.94."""

SESSION_SCALE = 6 * 3600.0
"""Seconds since the open of a session at which `since_open` is 1."""

VOLUME_FLOOR = 0.01
"""Smallest volume as a fraction of the average volume, so that an empty bar has a logarithm."""


COLUMNS = ("open", "high", "low", "close", "volume", "half_spread")
"""Fields of a market that raw features of an asset are made of: those of its own bars, row by row."""


def _log(x: jax.Array) -> jax.Array:
    """Logarithm, NaN (no value) where x is not positive."""
    return jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1)), jnp.nan)


def price(bars: MarketData) -> dict[str, jax.Array]:
    """Raw features of the price group, `[T, A]` each; `staleness` is set later, on the market's time axis."""
    return {
        **{f"return_{h}": indicators.log_return(bars.close, h) for h in RETURN_HORIZONS},
        "range": jnp.log(bars.high / bars.low),
        "gap": indicators.gap(bars.open, bars.close),
        "close_location": indicators.close_location(bars.high, bars.low, bars.close),
        "staleness": jnp.zeros_like(bars.close),
    }


def volume(bars: MarketData) -> dict[str, jax.Array]:
    """Raw features of the volume group, `[T, A]` each; NaN (no value) where volume is not reported.

    `relative_volume` is the log volume, `dollar_volume` the log of the mean dollar volume of 21 bars, `amihud` the log
    of Amihud's illiquidity over 21 bars.

    Args:
      bars: own bars of each asset.
    """
    volume = jnp.where(bars.volume_known[None], bars.volume, 0)
    average = exponential_average(volume, jnp.ones(volume.shape, bool), LIQUIDITY_WINDOW)
    return {
        "relative_volume": _log(jnp.maximum(volume, VOLUME_FLOOR * average)),
        "dollar_volume": _log(rolling_mean(bars.close * volume, LIQUIDITY_WINDOW)),
        "amihud": _log(indicators.amihud(bars.close, volume, LIQUIDITY_WINDOW)),
    }


def technical(bars: MarketData) -> dict[str, jax.Array]:
    """Raw features of the technical group, `[T, A]` each; MACD and ATR as fractions of the close."""
    high, low, close = bars.high, bars.low, bars.close
    line, signal = indicators.macd(close)
    return {
        "rsi": indicators.rsi(close) / 50 - 1,
        "macd": line / close,
        "macd_histogram": (line - signal) / close,
        "bollinger": indicators.bollinger_position(close),
        "atr": indicators.atr(high, low, close) / close,
        **{f"average_distance_{w}": indicators.average_distance(close, w) for w in AVERAGE_WINDOWS},
        **{f"channel_{w}": indicators.channel_position(high, low, close, w) for w in CHANNEL_WINDOWS},
    }


def volatility(bars: MarketData) -> dict[str, jax.Array]:
    """Raw features of the volatility group, `[T, A]` each: logarithms, because volatility is skewed."""
    open_, high, low, close = bars.open, bars.high, bars.low, bars.close
    window = VOLATILITY_WINDOW
    return {
        "ewma_volatility": _log(indicators.ewma_deviation(close, RISKMETRICS_SPAN)),
        "parkinson": _log(indicators.parkinson(high, low, window)),
        "garman_klass": _log(indicators.garman_klass(open_, high, low, close, window)),
        "yang_zhang": _log(indicators.yang_zhang(open_, high, low, close, window)),
        "half_spread": _log(bars.half_spread),
    }


def trends(bars: MarketData) -> dict[str, jax.Array]:
    """Raw features of the trend group, `[T, A]` each, in (-1, 1): no mean is subtracted from them."""
    high, close = bars.high, bars.close
    return {
        **{f"trend_{h}": trend.trend(close, h) for h in TREND_HORIZONS},
        **{f"macd_{fast}_{slow}": trend.macd_response(close, fast, slow) for fast, slow in TREND_SCALES},
        **{f"from_high_{w}": trend.distance_from_high(high, close, w) for w in HIGH_WINDOWS},
    }


RAW = {"price": price, "volume": volume, "technical": technical, "volatility": volatility, "trend": trends}


def session_starts(market: MarketData) -> jax.Array:
    """Whether each bar is the first of its session, `[T]` bool.

    Args:
      market: `[T, A]` bars.
    """
    return (row_number(market.session) == 0) | (market.session != shift(market.session, 1))


def calendar(market: MarketData, window: int) -> jax.Array:
    """Calendar features `[T, 7]` on the market's time axis.

    `elapsed` is the z-score of the log time between bars, `since_open` the time since the first bar of the session,
    `to_close` the fraction of its bars that is left if the session is as long as the one before.

    Args:
      market: `[T, A]` bars.
      window: span in bars of the z-score, >= 2.
    """
    minute = market.minute_of_day.astype(jnp.float32) * (2 * math.pi / 1440)
    weekday = market.day_of_week.astype(jnp.float32) * (2 * math.pi / 7)
    elapsed = market.seconds_since_previous
    score = zscore(jnp.log(jnp.maximum(elapsed, 1)), elapsed > 0, window)
    # The length of a session is known only at its end, so `to_close` takes that of the previous one; none in the first.
    opens = session_starts(market)
    since_open = linear_recurrence(~opens, jnp.where(opens, 0.0, elapsed)) / SESSION_SCALE
    bars = linear_recurrence(~opens, jnp.ones_like(elapsed))
    expected = linear_recurrence(~opens, jnp.where(opens, shift(bars, 1), 0.0))
    expected = jnp.where(running_count(opens) > 1, expected, jnp.nan)
    to_close = jnp.maximum(expected - bars, 0.0) / expected
    columns = [jnp.sin(minute), jnp.cos(minute), jnp.sin(weekday), jnp.cos(weekday), score]
    return jnp.stack([*columns, jnp.minimum(since_open, CLIP), to_close], axis=-1)


def cross_section(market: MarketData, bars: OwnBars, bars_since: jax.Array, lookback: int) -> jax.Array:
    """Features of the group of that name on the market's time axis, `[T, A, 8]`, in [-1, 1].

    Ranks of trends and of volatility, and the mean trend of the other assets. An asset is one of them from `lookback`
    own bars on, as long as it has had one in the last 21 bars. Later its ranks are 0, and so are those of an only asset
    and the mean of no others.

    Args:
      market: `[T, A]` bars.
      bars: own bars of its assets.
      bars_since: `[T, A]` int32, bars since the last one of the asset.
      lookback: own bars, >= 0.
    """
    known = bars.listed & (bars.latest >= lookback)
    present = known & (bars_since < STALE)
    horizons = sorted({*RANKED_HORIZONS, *OTHERS_HORIZONS})

    def of_asset(close: jax.Array) -> tuple[dict[int, jax.Array], jax.Array]:
        return {h: trend.trend(close, h) for h in horizons}, indicators.ewma_deviation(close, trend.VOLATILITY_SPAN)

    trends, volatility = bars.computed(of_asset, market.close)
    columns = [trend.rank_among(trends[h], present) for h in RANKED_HORIZONS]
    columns += [trend.rank_among(volatility, present)]
    columns += [trend.mean_of_others(trends[h], present) for h in OTHERS_HORIZONS]
    return jnp.where(known[..., None], jnp.stack(columns, axis=-1), jnp.nan)


def carry(market: MarketData, bars: OwnBars) -> jax.Array:
    """Features of the group of that name on the market's time axis, `[T, A, 2]`: mean carry, and its rank.

    Carry over 252 bars in units of their volatility, `tanh(252 carry / (sigma sqrt(252)) / 1.5)` as a trend, of the
    mean of those known in the last 21 own bars; NaN where fewer than 5 are. The length of a bar, by which carry per
    year becomes carry per bar, is the mean over the last 252, or those there are.

    Args:
      market: `[T, A]` bars, with carry.
      bars: own bars of its assets.

    Reference: Koijen, Moskowitz, Pedersen, Vrugt (2018), Carry.
    """
    elapsed = market.seconds_since_previous
    steps, seconds = (rolling_valid_sum(x, elapsed > 0, CARRY_HORIZON) for x in (jnp.ones_like(elapsed), elapsed))
    years = seconds / jnp.maximum(steps, 1) / SECONDS_PER_YEAR

    def of_asset(carry: jax.Array, close: jax.Array) -> tuple[jax.Array, jax.Array]:
        valid = jnp.isfinite(carry)
        count, total = (rolling_valid_sum(x, valid, CARRY_WINDOW) for x in (jnp.ones_like(carry), carry))
        deviation = indicators.ewma_deviation(close, trend.VOLATILITY_SPAN)
        mean = total / jnp.maximum(count, 1) * CARRY_HORIZON**0.5
        return jnp.tanh(ratio(mean, deviation, 0.0) / trend.SQUEEZE), count

    value, count = bars.computed(of_asset, market.carry * years[:, None], market.close)
    known = bars.listed & (count >= CARRY_LOOKBACK)
    columns = [value, trend.rank_among(value, known & (bars.bars_since < STALE))]
    return jnp.where(known[..., None], jnp.stack(columns, axis=-1), jnp.nan)
