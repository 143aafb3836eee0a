"""Causal features of a market in groups: `compute_features(market) -> [T, A, F]`, one compiled pass over the table.

Conventions:
  - Every value at row t uses rows <= t only.
  - Indicators run on an asset's *own* bars (`tradable` True), so a halt neither dilutes a window nor adds a zero
    return. Between own bars the last features are held and `staleness` counts the wait. The return over a halt belongs
    to the bar that ends it.
  - A value is valid after `lookback` own bars, then after a quarter of the normalisation window of valid raw values.
    Values that are not valid are 0, or NaN on request.
  - Before an asset's first bar none of its features is valid, and its placeholder price 1.0 is never read.
  - Unbounded features are exponential z-scores clipped to +-5; bounded ones lie in [-1, 1] or a few units around it.
    All are dimensionless: multiplying an asset's prices or volumes by a constant changes none.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from pydantic import Field

from jaxppo.arguments import AtLeastTwo, checked
from jaxppo.envs.market import indicators
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.normalisation import CLIP, minimum_observations, zscore
from jaxppo.envs.market.own_bars import OwnBars, own_bars
from jaxppo.envs.market.windows import exponential_average, linear_recurrence, rolling_mean, shift

Group = Literal["price", "volume", "technical", "volatility", "calendar", "regime"]
Groups = Annotated[tuple[Group, ...], Field(min_length=1)]
GROUPS: tuple[Group, ...] = ("price", "volume", "technical", "volatility", "calendar")
"""Default feature groups, in order; the group `regime` needs probabilities of regimes beside the market."""

REGIMES = ("bull", "bear", "sideways", "crisis")
"""Market regimes, in the order of the last axis of every array of their probabilities."""

RETURN_HORIZONS = (1, 5, 21, 63)
AVERAGE_WINDOWS = (10, 21, 63)
CHANNEL_WINDOWS = (21, 63)
VOLATILITY_WINDOW = 21
LIQUIDITY_WINDOW = 21
RISKMETRICS_SPAN = 2 / (1 - 0.94) - 1
"""Span of the RiskMetrics daily average, lambda = 0.94."""

STALENESS_SCALE = math.log(1 + 63)
"""`log(1 + bars)` of a quarter of daily bars: without a bar for that long, staleness is 1."""

UNKNOWN_VOLATILITY = 0.01
"""`ewma_volatility`, per bar, of an asset without a bar so far or whose price has never moved."""

MINIMUM_VOLATILITY = 1e-6
MINIMUM_VOLUME = 1e-6
SESSION_SCALE = 6 * 3600.0
"""Seconds since the open of a session at which `since_open` is 1."""

VOLUME_FLOOR = 0.01
"""Smallest volume as a fraction of the average volume, so that an empty bar has a logarithm."""


@dataclasses.dataclass(frozen=True)
class Feature:
    """One column of the feature table.

    Attributes:
      name: name of the column.
      lookback: own bars before the first valid raw value.
      normalised: whether the raw value goes through `zscore`; otherwise it is bounded by construction and only clipped.
    """

    name: str
    lookback: int
    normalised: bool = True


FEATURES: dict[str, tuple[Feature, ...]] = {
    "price": (
        *(Feature(f"return_{h}", h) for h in RETURN_HORIZONS),
        Feature("range", 0),
        Feature("gap", 1),
        Feature("close_location", 0, normalised=False),
        Feature("staleness", 0, normalised=False),
    ),
    "volume": (
        Feature("relative_volume", 0),
        Feature("dollar_volume", LIQUIDITY_WINDOW - 1),
        Feature("amihud", LIQUIDITY_WINDOW),
    ),
    "technical": (
        Feature("rsi", 14, normalised=False),
        Feature("macd", 25),
        Feature("macd_histogram", 33),
        Feature("bollinger", 19, normalised=False),
        Feature("atr", 14),
        *(Feature(f"average_distance_{w}", w - 1) for w in AVERAGE_WINDOWS),
        *(Feature(f"channel_{w}", w - 1, normalised=False) for w in CHANNEL_WINDOWS),
    ),
    "volatility": (
        Feature("ewma_volatility", 1),
        Feature("parkinson", VOLATILITY_WINDOW - 1),
        Feature("garman_klass", VOLATILITY_WINDOW - 1),
        Feature("yang_zhang", VOLATILITY_WINDOW),
        Feature("half_spread", 0),
    ),
    "calendar": (
        Feature("minute_sin", 0, normalised=False),
        Feature("minute_cos", 0, normalised=False),
        Feature("weekday_sin", 0, normalised=False),
        Feature("weekday_cos", 0, normalised=False),
        Feature("elapsed", 1),
        Feature("since_open", 0, normalised=False),
        Feature("to_close", 1, normalised=False),
    ),
    "regime": tuple(Feature(name, 0, normalised=False) for name in REGIMES),
}
"""Columns of each group, in order."""


def _validated(groups: Sequence[str]) -> tuple[str, ...]:
    """Returns the groups as a tuple; raises ValueError for an unknown, repeated or missing group."""
    names = (groups,) if isinstance(groups, str) else tuple(groups)
    unknown = [name for name in names if name not in FEATURES]
    if unknown:
        raise ValueError(f"unknown feature group {unknown[0]!r}; the groups are {', '.join(FEATURES)}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"feature groups must be a non-empty list without repeats, got {list(names)}")
    return names


def feature_names(groups: Sequence[str] = GROUPS) -> tuple[str, ...]:
    """Lists the names of the F columns of `compute_features(market, groups=groups)`, in order.

    Raises:
      ValueError: unknown, repeated or no group.
    """
    return tuple(feature.name for group in _validated(groups) for feature in FEATURES[group])


def group_slices(groups: Sequence[str] = GROUPS) -> dict[str, slice]:
    """Maps each group to its columns in `compute_features(market, groups=groups)`.

    Raises:
      ValueError: unknown, repeated or no group.
    """
    slices, start = {}, 0
    for group in _validated(groups):
        slices[group] = slice(start, start + len(FEATURES[group]))
        start += len(FEATURES[group])
    return slices


def warmup(groups: Sequence[str] = GROUPS, normalisation_window: int = 252) -> int:
    """Counts the bars before the first row at which all features are valid, of an asset without missing bars.

    Later rows still depend on the start of the table, with weight `exp(-2 n / normalisation_window)` after n bars.

    Args:
      groups: feature groups, out of `FEATURES`.
      normalisation_window: span in bars of the exponential z-scores, >= 2.

    Raises:
      ValueError: unknown, repeated or no group.
    """
    wait = minimum_observations(normalisation_window) - 1
    return max(
        feature.lookback + (wait if feature.normalised else 0)
        for group in _validated(groups)
        for feature in FEATURES[group]
    )


@checked
def compute_features(
    market: MarketData,
    *,
    groups: Groups = GROUPS,
    normalisation_window: AtLeastTwo = 252,
    unknown: float = 0.0,
    regimes: jax.Array | None = None,
) -> jax.Array:
    """Computes the feature table of a market; compiled once per shape, `vmap` over a leading axis of markets.

    Args:
      market: `[T, A]` bars.
      groups: feature groups, in the order of the columns; `regime` needs regimes.
      normalisation_window: span in bars of the causal normalisation, an exponential z-score.
      unknown: replaces values that are not valid (incomplete windows, no bar so far, volume not reported): 0 or NaN.
      regimes: `[T, A, 4]` probabilities of `REGIMES` known at each close, for the group `regime`.

    Returns:
      `[T, A, F]` float32 within +-5, or `unknown`, with columns `feature_names(groups)`.

    Raises:
      ValueError: unknown, repeated or no group; a window below 2; the group `regime` without regimes.
    """
    chosen = _validated(groups)
    if "regime" in chosen and regimes is None:
        raise ValueError("the feature group 'regime' needs the probabilities of the regimes")
    regimes = regimes if "regime" in chosen else None
    table = _feature_table(market, regimes, groups=chosen, normalisation_window=int(normalisation_window))
    return jnp.where(jnp.isnan(table), unknown, table)


@functools.partial(jax.jit, static_argnames=("groups", "normalisation_window"))
def _feature_table(
    market: MarketData, regimes: jax.Array | None, *, groups: tuple[str, ...], normalisation_window: int
) -> jax.Array:
    """Computes features of validated groups; NaN where unknown."""
    bars = own_bars(market.tradable)
    asset_groups = tuple(group for group in groups if group not in ("calendar", "regime"))
    tables = {}
    if asset_groups:
        packed = bars.spread(_asset_table(market, bars, asset_groups, normalisation_window))
        slices = group_slices(asset_groups)
        tables = {group: packed[..., slices[group]] for group in asset_groups}
    if "price" in groups:
        stale = jnp.log1p(bars.bars_since.astype(jnp.float32)) / STALENESS_SCALE
        column = feature_names(("price",)).index("staleness")
        tables["price"] = tables["price"].at[..., column].set(jnp.clip(stale, 0, CLIP))
    if "calendar" in groups:
        calendar = _calendar(market, normalisation_window)
        tables["calendar"] = jnp.broadcast_to(calendar[:, None], (*market.tradable.shape, calendar.shape[-1]))
    if regimes is not None:
        tables["regime"] = regimes
    table = jnp.concatenate([tables[group] for group in groups], axis=-1)
    return jnp.where(bars.listed[..., None], table, jnp.nan)


def _asset_table(market: MarketData, bars: OwnBars, groups: tuple[str, ...], window: int) -> jax.Array:
    """Features `[T, A, F]` of each asset's own bars, in packed rows (`OwnBars.pack`)."""
    raw: dict[str, jax.Array] = {}
    for group in groups:
        raw |= _RAW_FEATURES[group](market, bars)
    features = [feature for group in groups for feature in FEATURES[group]]
    age = jnp.arange(market.n_bars)[:, None, None]
    lookback = jnp.asarray([feature.lookback for feature in features])
    values = jnp.stack([raw[feature.name] for feature in features], axis=-1)
    valid = (age >= lookback[None, None]) & jnp.isfinite(values)
    normalised = [i for i, feature in enumerate(features) if feature.normalised]
    scores = zscore(values[..., jnp.asarray(normalised)], valid[..., jnp.asarray(normalised)], window)
    bounded = jnp.where(valid, jnp.clip(values, -CLIP, CLIP), jnp.nan)
    return bounded.at[..., jnp.asarray(normalised)].set(scores)


def _log(x: jax.Array) -> jax.Array:
    """Logarithm, NaN (no value) where x is not positive."""
    return jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1)), jnp.nan)


def _price(market: MarketData, bars: OwnBars) -> dict[str, jax.Array]:
    """Raw features of the price group, packed `[T, A]` each; `staleness` is set later, on the market's time axis."""
    open_, high, low, close = (bars.pack(x) for x in (market.open, market.high, market.low, market.close))
    return {
        **{f"return_{h}": indicators.log_return(close, h) for h in RETURN_HORIZONS},
        "range": jnp.log(high / low),
        "gap": indicators.gap(open_, close),
        "close_location": indicators.close_location(high, low, close),
        "staleness": jnp.zeros_like(close),
    }


def _volume(market: MarketData, bars: OwnBars) -> dict[str, jax.Array]:
    """Raw features of the volume group, packed `[T, A]` each; NaN (no value) where volume is not reported.

    `relative_volume` is the log volume, `dollar_volume` the log of the mean dollar volume of 21 bars, `amihud` the log
    of Amihud's illiquidity over 21 bars.
    """
    close = bars.pack(market.close)
    volume = jnp.where(market.volume_known[None], bars.pack(market.volume), 0)
    average = exponential_average(volume, jnp.ones_like(market.tradable), LIQUIDITY_WINDOW)
    return {
        "relative_volume": _log(jnp.maximum(volume, VOLUME_FLOOR * average)),
        "dollar_volume": _log(rolling_mean(close * volume, LIQUIDITY_WINDOW)),
        "amihud": _log(indicators.amihud(close, volume, LIQUIDITY_WINDOW)),
    }


def _technical(market: MarketData, bars: OwnBars) -> dict[str, jax.Array]:
    """Raw features of the technical group, packed `[T, A]` each; MACD and ATR as fractions of the close."""
    high, low, close = (bars.pack(x) for x in (market.high, market.low, market.close))
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


def _volatility(market: MarketData, bars: OwnBars) -> dict[str, jax.Array]:
    """Raw features of the volatility group, packed `[T, A]` each: logarithms, because volatility is skewed."""
    open_, high, low, close = (bars.pack(x) for x in (market.open, market.high, market.low, market.close))
    window = VOLATILITY_WINDOW
    return {
        "ewma_volatility": _log(indicators.ewma_deviation(close, RISKMETRICS_SPAN)),
        "parkinson": _log(indicators.parkinson(high, low, window)),
        "garman_klass": _log(indicators.garman_klass(open_, high, low, close, window)),
        "yang_zhang": _log(indicators.yang_zhang(open_, high, low, close, window)),
        "half_spread": _log(bars.pack(market.half_spread)),
    }


_RAW_FEATURES = {"price": _price, "volume": _volume, "technical": _technical, "volatility": _volatility}


def _calendar(market: MarketData, window: int) -> jax.Array:
    """Calendar features `[T, 7]` on the market's time axis.

    `elapsed` is the z-score of the log time between bars, `since_open` the time since the first bar of the session,
    `to_close` the fraction of its bars that is left if the session is as long as the one before.
    """
    minute = market.minute_of_day.astype(jnp.float32) * (2 * math.pi / 1440)
    weekday = market.day_of_week.astype(jnp.float32) * (2 * math.pi / 7)
    elapsed = market.seconds_since_previous
    score = zscore(jnp.log(jnp.maximum(elapsed, 1)), elapsed > 0, window)
    # The length of a session is known only at its end, so `to_close` takes that of the previous one; none in the first.
    opens = jnp.concatenate([jnp.ones(1, bool), market.session[1:] != market.session[:-1]])
    since_open = linear_recurrence(~opens, jnp.where(opens, 0.0, elapsed)) / SESSION_SCALE
    bars = linear_recurrence(~opens, jnp.ones(market.n_bars))
    expected = linear_recurrence(~opens, jnp.where(opens, shift(bars, 1), 0.0)).at[0].set(0.0)
    expected = jnp.where(jnp.cumsum(opens) > 1, expected, jnp.nan)
    to_close = jnp.maximum(expected - bars, 0.0) / expected
    columns = [jnp.sin(minute), jnp.cos(minute), jnp.sin(weekday), jnp.cos(weekday), score]
    return jnp.stack([*columns, jnp.minimum(since_open, CLIP), to_close], axis=-1)


@jax.jit
def ewma_volatility(market: MarketData, span: float) -> jax.Array:
    """Forecasts the volatility per bar at each close: bias-corrected exponential average of squared log returns.

    A return over n market bars (a halt) has variance `return^2 / n` per bar, so that a reopening jump is not taken for
    the volatility of one bar. The first own bar has no return; its Parkinson variance `log(high/low)^2 / (4 ln 2)` is
    the first observation.

    Args:
      market: `[T, A]` bars.
      span: own bars, >= 1, as in pandas' `ewm`.

    Returns:
      `[T, A]` float32, standard deviation of the log return of one bar, at least `MINIMUM_VOLATILITY`; held where an
      asset has no bar; `UNKNOWN_VOLATILITY` until its price first moves.

    Reference: RiskMetrics technical document (1996), eq. 5.2, with the newest return included.
    """
    bars = own_bars(market.tradable)
    close = bars.pack(market.close)
    n_elapsed = jnp.maximum(bars.source - shift(bars.source, 1), 1).astype(jnp.float32)
    observed = jnp.square(indicators.log_return(close, 1)) / n_elapsed
    first = jnp.square(jnp.log(bars.pack(market.high) / bars.pack(market.low))) / (4 * math.log(2))
    observed = observed.at[0].set(first[0])
    variance = exponential_average(observed, jnp.ones_like(market.tradable), span)
    known = jnp.where(variance > 0, jnp.maximum(jnp.sqrt(variance), MINIMUM_VOLATILITY), UNKNOWN_VOLATILITY)
    return jnp.where(bars.listed, bars.spread(known), UNKNOWN_VOLATILITY)


@jax.jit
def average_volume(market: MarketData, span: float) -> jax.Array:
    """Forecasts the volume per bar at each close: bias-corrected exponential average of the own bars' volume.

    Args:
      market: `[T, A]` bars; those without a bar of the asset do not count as bars without volume.
      span: own bars, >= 1, as in pandas' `ewm`.

    Returns:
      `[T, A]` float32, shares per bar, at least `MINIMUM_VOLUME`; that minimum before the first bar and where
      `volume_known` is False means "unknown", not "illiquid".
    """
    bars = own_bars(market.tradable)
    average = exponential_average(bars.pack(market.volume), jnp.ones_like(market.tradable), span)
    known = bars.listed & market.volume_known[None]
    return jnp.where(known, jnp.maximum(bars.spread(average), MINIMUM_VOLUME), MINIMUM_VOLUME)
