"""Causal features of a market in groups: `compute_features(market) -> [T, A, F]`, one compiled pass over the table.

Conventions:
  - Every value at row t uses rows <= t only.
  - Indicators run on an asset's *own* bars (`tradable` True), so a halt neither dilutes a window nor adds a zero
    return. Between own bars the last features are held and `staleness` counts the wait. The return over a halt belongs
    to the bar that ends it.
  - A value is valid after `lookback` own bars, then after a quarter of the normalisation window of valid raw values.
    Values that are not valid are 0, or NaN on request.
  - Coarser bars are own bars too, of a market in which an asset has one when it is over (`timeframes`): windows, spans
    and waits then count coarse bars.
  - Before an asset's first bar none of its features is valid, and its placeholder price 1.0 is never read.
  - Unbounded features are normalised as their group says: exponential z-scores unless asked otherwise, clipped to +-5;
    bounded ones lie in [-1, 1] or a few units around it, and stay as they are. Trends are bounded: a z-score would
    subtract what they measure. All are dimensionless: multiplying an asset's prices or volumes by a constant changes
    none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp

from jaxppo.arguments import AtLeastTwo, CodeOnly, checked
from jaxppo.envs.market import indicators
from jaxppo.envs.market.feature_groups import (
    COARSE,
    FEATURES,
    GROUPS,
    REGIMES,
    TREND_LOOKBACK,
    Feature,
    Group,
    Groups,
    Normalisation,
    Normalise,
    Unbounded,
    feature_names,
    features_of,
    group_slices,
    normalisation_of,
    validated,
)
from jaxppo.envs.market.kernels import compiled
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.normalisation import CLIP, minimum_observations, scaled, zscore
from jaxppo.envs.market.own_bars import OwnBars, own_bars
from jaxppo.envs.market.own_columns import OwnGroup, check_columns, own_group
from jaxppo.envs.market.raw_features import (
    COLUMNS,
    RAW,
    calendar,
    carry,
    cross_section,
)
from jaxppo.envs.market.rows import row_number
from jaxppo.envs.market.timeframes import BarsOfTimeframes, Timeframes, coarse_bars
from jaxppo.envs.market.windows import exponential_average, shift

__all__ = [
    "FEATURES",
    "GROUPS",
    "REGIMES",
    "TREND_LOOKBACK",
    "BarsOfTimeframes",
    "Feature",
    "Group",
    "Groups",
    "Normalisation",
    "Normalise",
    "Unbounded",
    "average_volume",
    "compute_features",
    "ewma_volatility",
    "feature_names",
    "group_slices",
    "warmup",
]  # fmt: skip

STALENESS_SCALE = math.log(1 + 63)
"""`log(1 + bars)` of a quarter of daily bars: without a bar for that long, staleness is 1."""

UNKNOWN_VOLATILITY = 0.01
"""`ewma_volatility`, per bar, of an asset without a bar so far or whose price has never moved."""

MINIMUM_VOLATILITY = 1e-6
MINIMUM_VOLUME = 1e-6


def warmup(
    groups: Sequence[str] = GROUPS,
    normalisation_window: int = 252,
    normalise: Mapping[str, str] | None = None,
    columns: Sequence[OwnGroup] = (),
    timeframes: BarsOfTimeframes | None = None,
) -> int:
    """Counts the bars before the first row at which all features are valid, of an asset without missing bars.

    Later rows still depend on the start of the table, with weight `exp(-2 n / normalisation_window)` after n bars.

    Args:
      groups: feature groups, out of `FEATURES`.
      normalisation_window: span in bars of the exponential z-scores and scales, >= 2.
      normalise: see `compute_features`.
      columns: groups of own columns and functions, of which every bar is taken to have a value.
      timeframes: coarser bars -> most bars of the market in one of them, see `timeframes.bars_per_timeframe`.

    Raises:
      ValueError: unknown, repeated or no group.
    """
    wait, longest = minimum_observations(normalisation_window) - 1, 0
    for name, found in features_of(groups, columns, tuple(timeframes or ())).items():
        group, _, coarse = name.partition("@")
        for feature in found:
            needed = feature.lookback + (0 if normalisation_of(feature, group, normalise) == "none" else wait)
            # A coarse bar is seen from the first bar after it on.
            longest = max(longest, (needed + 1) * timeframes[coarse] if timeframes and coarse in timeframes else needed)
    return longest


@checked
def compute_features(
    market: MarketData,
    *,
    groups: Groups = GROUPS,
    normalisation_window: AtLeastTwo = 252,
    normalise: Normalise | None = None,
    columns: CodeOnly[tuple[OwnGroup, ...]] = (),
    timeframes: Timeframes = (),
    unknown: float = 0.0,
    regimes: jax.Array | None = None,
) -> jax.Array:
    """Computes the feature table of a market; compiled once per shape, `vmap` over a leading axis of markets.

    Args:
      market: `[T, A]` bars.
      groups: feature groups, in the order of the columns; `carry` needs a market with carry, `regime` regimes.
      normalisation_window: span in bars of the causal normalisation.
      normalise: of groups with unbounded features: `zscore` (exponential; if the group is not named), `scale` (the
        same without subtracting a mean) or `none`. Bounded features, such as trends, stay as they are.
      columns: groups of own columns and functions, behind the others.
      timeframes: coarser bars, whose features follow: those of the groups that are made of prices and volume, as of
        the last coarse bar that was over before the present bar began.
      unknown: replaces values that are not valid (incomplete windows, no bar so far, volume not reported): 0 or NaN.
      regimes: `[T, A, 4]` probabilities of `REGIMES` known at each close, for the group `regime`.

    Returns:
      `[T, A, F]` float32 within +-5, or `unknown`, with columns `feature_names(groups, columns, timeframes)`.

    Raises:
      ValueError: unknown, repeated or no group; a window below 2; the group `carry`, `regime` or one of own columns
        without what it needs.
    """
    features_of(groups, columns, timeframes)
    check_columns(market, columns)
    chosen = validated(groups)
    if "regime" in chosen and regimes is None:
        raise ValueError("the feature group 'regime' needs the probabilities of the regimes")
    if "carry" in chosen and isinstance(market.carry, tuple):
        raise ValueError("the feature group 'carry' needs prices with a column carry (per year), which these lack")
    regimes = regimes if "regime" in chosen else None
    asked = cast("Mapping[str, str]", normalise or {})
    how = tuple((group, asked.get(group, "zscore")) for group in chosen)
    own, window = tuple(columns), int(normalisation_window)
    table = _feature_table(
        market, regimes, groups=how, columns=own, normalisation_window=window, timeframes=tuple(timeframes)
    )
    return jnp.where(jnp.isnan(table), unknown, table)


@partial(compiled, inline=False, static_argnames=("groups", "columns", "normalisation_window", "timeframes"))
def _feature_table(
    market: MarketData,
    regimes: jax.Array | None,
    *,
    groups: tuple[tuple[str, str], ...],
    columns: tuple[OwnGroup, ...],
    normalisation_window: int,
    timeframes: tuple[str, ...],
) -> jax.Array:
    """Computes features of validated groups, each with its normalisation; NaN where unknown."""
    bars, normalise = own_bars(market.tradable), dict(groups)
    tables = _price_tables(market, bars, bars.bars_since, normalise, normalisation_window)
    if "carry" in normalise:
        tables["carry"] = carry(market, bars)
    if "calendar" in normalise:
        found = calendar(market, normalisation_window)
        tables["calendar"] = jnp.broadcast_to(found[:, None], (*market.tradable.shape, found.shape[-1]))
    if regimes is not None:
        tables["regime"] = regimes
    own = [own_group(market, bars, group, normalisation_window) for group in columns]
    table = jnp.concatenate([*(tables[group] for group in normalise), *own], axis=-1)
    parts = [jnp.where(bars.listed[..., None], table, jnp.nan)]
    for name in timeframes:
        coarse = coarse_bars(market, name)
        tables = _price_tables(coarse.market, coarse.bars, coarse.bars_since, normalise, normalisation_window)
        table = jnp.concatenate([tables[group] for group in normalise if group in COARSE], axis=-1)
        parts.append(jnp.where(coarse.bars.listed[..., None], table, jnp.nan))
    return jnp.concatenate(parts, axis=-1)


def _price_tables(
    market: MarketData, bars: OwnBars, bars_since: jax.Array, normalise: Mapping[str, str], window: int
) -> dict[str, jax.Array]:
    """Features `[T, A, n]` of the groups `COARSE` among those of `normalise`, where an asset has had a bar."""
    asset_groups = tuple(group for group in normalise if group in RAW)
    tables = {}
    if asset_groups:
        prices = {name: getattr(market, name) for name in COLUMNS}
        found = bars.computed(partial(_asset_table, market, asset_groups, normalise, window), prices)
        slices = group_slices(asset_groups)
        tables = {group: found[..., slices[group]] for group in asset_groups}
    if "price" in tables:
        stale = jnp.log1p(bars_since.astype(jnp.float32)) / STALENESS_SCALE
        column = feature_names(("price",)).index("staleness")
        tables["price"] = tables["price"].at[..., column].set(jnp.clip(stale, 0, CLIP))
    if "cross_section" in normalise:
        tables["cross_section"] = cross_section(market, bars, bars_since, TREND_LOOKBACK)
    return tables


def _asset_table(
    market: MarketData,
    groups: tuple[str, ...],
    normalise: Mapping[str, str],
    window: int,
    prices: Mapping[str, jax.Array],
) -> jax.Array:
    """Features `[T, A, F]` of each asset's own bars, from the `COLUMNS` of these bars."""
    own = market.replace(**prices)
    raw: dict[str, jax.Array] = {}
    for group in groups:
        raw |= RAW[group](own)
    features = [
        (feature, normalisation_of(feature, group, normalise)) for group in groups for feature in FEATURES[group]
    ]
    lookback = jnp.asarray([feature.lookback for feature, _ in features])
    values = jnp.stack([raw[feature.name] for feature, _ in features], axis=-1)
    valid = (row_number(values) >= lookback[None, None]) & jnp.isfinite(values)
    table = jnp.where(valid, jnp.clip(values, -CLIP, CLIP), jnp.nan)
    for name, function in (("zscore", zscore), ("scale", scaled)):
        chosen = jnp.asarray([i for i, (_, how) in enumerate(features) if how == name], int)
        table = table.at[..., chosen].set(function(values[..., chosen], valid[..., chosen], window))
    return table


@partial(compiled, inline=False)
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

    def forecast(high: jax.Array, low: jax.Array, close: jax.Array, number: jax.Array) -> jax.Array:
        n_elapsed = jnp.maximum(number - shift(number, 1), 1).astype(jnp.float32)
        first = jnp.square(jnp.log(high / low)) / (4 * math.log(2))
        observed = jnp.square(indicators.log_return(close, 1)) / n_elapsed
        observed = jnp.where(row_number(close) == 0, first, observed)
        variance = exponential_average(observed, jnp.ones(close.shape, bool), span)
        return jnp.where(variance > 0, jnp.maximum(jnp.sqrt(variance), MINIMUM_VOLATILITY), UNKNOWN_VOLATILITY)

    number = jnp.broadcast_to(row_number(market.close), market.close.shape)
    known = bars.computed(forecast, market.high, market.low, market.close, number)
    return jnp.where(bars.listed, known, UNKNOWN_VOLATILITY)


@partial(compiled, inline=False)
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
    average = bars.computed(lambda x: exponential_average(x, jnp.ones(x.shape, bool), span), market.volume)
    known = bars.listed & market.volume_known[None]
    return jnp.where(known, jnp.maximum(average, MINIMUM_VOLUME), MINIMUM_VOLUME)
