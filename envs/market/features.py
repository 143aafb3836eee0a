"""Causal features of a market in groups: `compute_features(market) -> [T, A, F]`, one compiled pass over the table.

Conventions:
  - Every value at row t uses rows <= t only.
  - Indicators run on an asset's *own* bars (`tradable` True), so a halt neither dilutes a window nor adds a zero
    return. Between own bars the last features are held and `staleness` counts the wait. The return over a halt belongs
    to the bar that ends it.
  - A value is valid after `lookback` own bars, then after a quarter of the normalisation window of valid raw values.
    Values that are not valid are 0, or NaN on request.
  - Before an asset's first bar none of its features is valid, and its placeholder price 1.0 is never read.
  - Unbounded features are normalised as their group says: exponential z-scores unless asked otherwise, clipped to +-5;
    bounded ones lie in [-1, 1] or a few units around it, and stay as they are. Trends are bounded: a z-score would
    subtract what they measure. All are dimensionless: multiplying an asset's prices or volumes by a constant changes
    none.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Literal, cast

import jax
import jax.numpy as jnp
from pydantic import Field

from jaxppo.arguments import AtLeastTwo, CodeOnly, checked
from jaxppo.envs.market import indicators
from jaxppo.envs.market.kernels import compiled
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.normalisation import CLIP, minimum_observations, scaled, zscore
from jaxppo.envs.market.own_bars import own_bars
from jaxppo.envs.market.own_columns import OwnGroup, check_columns, own_group
from jaxppo.envs.market.raw_features import (
    AVERAGE_WINDOWS,
    CARRY_LOOKBACK,
    CHANNEL_WINDOWS,
    COLUMNS,
    HIGH_WINDOWS,
    LIQUIDITY_WINDOW,
    OTHERS_HORIZONS,
    RANKED_HORIZONS,
    RAW,
    RETURN_HORIZONS,
    TREND_HORIZONS,
    TREND_SCALES,
    VOLATILITY_WINDOW,
    calendar,
    carry,
    cross_section,
)
from jaxppo.envs.market.rows import row_number
from jaxppo.envs.market.windows import exponential_average, shift

Group = Literal["price", "trend", "volume", "technical", "volatility", "cross_section", "carry", "calendar", "regime"]
Groups = Annotated[tuple[Group, ...], Field(min_length=1)]
GROUPS: tuple[Group, ...] = ("price", "trend", "volume", "technical", "volatility", "cross_section", "calendar")
"""Default feature groups, in order; `carry` needs a market with carry, `regime` probabilities of regimes beside it."""
Normalisation = Literal["zscore", "scale", "none"]
Unbounded = Literal["price", "volume", "technical", "volatility"]
Normalise = Mapping[Unbounded, Normalisation]
"""Group -> what is done to its unbounded features: an exponential z-score, the same without subtracting the mean, or
nothing but the clip."""
TREND_LOOKBACK = 63
"""Own bars before trends are valid: longer horizons take the bars there are."""

REGIMES = ("bull", "bear", "sideways", "crisis")
"""Market regimes, in the order of the last axis of every array of their probabilities."""

STALENESS_SCALE = math.log(1 + 63)
"""`log(1 + bars)` of a quarter of daily bars: without a bar for that long, staleness is 1."""

UNKNOWN_VOLATILITY = 0.01
"""`ewma_volatility`, per bar, of an asset without a bar so far or whose price has never moved."""

MINIMUM_VOLATILITY = 1e-6
MINIMUM_VOLUME = 1e-6


@dataclasses.dataclass(frozen=True)
class Feature:
    """One column of the feature table.

    Attributes:
      name: name of the column.
      lookback: own bars before the first valid raw value.
      normalised: whether the raw value is normalised; otherwise it is bounded by construction and only clipped.
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
    "trend": (
        *(Feature(f"trend_{h}", min(h, TREND_LOOKBACK), normalised=False) for h in TREND_HORIZONS),
        *(Feature(f"macd_{fast}_{slow}", TREND_LOOKBACK, normalised=False) for fast, slow in TREND_SCALES),
        *(Feature(f"from_high_{w}", TREND_LOOKBACK, normalised=False) for w in HIGH_WINDOWS),
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
    "cross_section": (
        *(Feature(f"rank_{h}", TREND_LOOKBACK, normalised=False) for h in RANKED_HORIZONS),
        Feature("rank_volatility", TREND_LOOKBACK, normalised=False),
        *(Feature(f"others_{h}", TREND_LOOKBACK, normalised=False) for h in OTHERS_HORIZONS),
    ),
    "carry": (
        Feature("carry", CARRY_LOOKBACK, normalised=False),
        Feature("rank_carry", CARRY_LOOKBACK, normalised=False),
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


def _features(groups: Sequence[str], columns: Sequence[OwnGroup] = ()) -> dict[str, tuple[Feature, ...]]:
    """The features of each group, in order, groups of a user's own last; ValueError as `_validated`."""
    found = {group: FEATURES[group] for group in _validated(groups)}
    for own in columns:
        if own.name in found:
            raise ValueError(f"the feature group {own.name!r} of your own has the name of another group")
        normalised = own.normalise in ("zscore", "scale")
        found[own.name] = tuple(Feature(name, own.lookback, normalised) for name in own.feature_names)
    return found


def _validated(groups: Sequence[str]) -> tuple[str, ...]:
    """Returns the groups as a tuple; raises ValueError for an unknown, repeated or missing group."""
    names = (groups,) if isinstance(groups, str) else tuple(groups)
    unknown = [name for name in names if name not in FEATURES]
    if unknown:
        raise ValueError(f"unknown feature group {unknown[0]!r}; the groups are {', '.join(FEATURES)}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"feature groups must be a non-empty list without repeats, got {list(names)}")
    return names


def feature_names(groups: Sequence[str] = GROUPS, columns: Sequence[OwnGroup] = ()) -> tuple[str, ...]:
    """Lists the names of the F columns of `compute_features(market, groups=groups, columns=columns)`, in order.

    Raises:
      ValueError: unknown, repeated or no group.
    """
    return tuple(feature.name for found in _features(groups, columns).values() for feature in found)


def group_slices(groups: Sequence[str] = GROUPS, columns: Sequence[OwnGroup] = ()) -> dict[str, slice]:
    """Maps each group to its columns in `compute_features(market, groups=groups, columns=columns)`.

    Raises:
      ValueError: unknown, repeated or no group.
    """
    slices, start = {}, 0
    for group, found in _features(groups, columns).items():
        slices[group] = slice(start, start + len(found))
        start += len(found)
    return slices


def _normalisation(feature: Feature, group: str, normalise: Mapping[str, str] | None) -> str:
    """What is done to a raw feature."""
    return (normalise or {}).get(group, "zscore") if feature.normalised else "none"


def warmup(
    groups: Sequence[str] = GROUPS,
    normalisation_window: int = 252,
    normalise: Mapping[str, str] | None = None,
    columns: Sequence[OwnGroup] = (),
) -> int:
    """Counts the bars before the first row at which all features are valid, of an asset without missing bars.

    Later rows still depend on the start of the table, with weight `exp(-2 n / normalisation_window)` after n bars.

    Args:
      groups: feature groups, out of `FEATURES`.
      normalisation_window: span in bars of the exponential z-scores and scales, >= 2.
      normalise: see `compute_features`.
      columns: groups of own columns and functions, of which every bar is taken to have a value.

    Raises:
      ValueError: unknown, repeated or no group.
    """
    wait = minimum_observations(normalisation_window) - 1
    return max(
        feature.lookback + (0 if _normalisation(feature, group, normalise) == "none" else wait)
        for group, found in _features(groups, columns).items()
        for feature in found
    )


@checked
def compute_features(
    market: MarketData,
    *,
    groups: Groups = GROUPS,
    normalisation_window: AtLeastTwo = 252,
    normalise: Normalise | None = None,
    columns: CodeOnly[tuple[OwnGroup, ...]] = (),
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
      unknown: replaces values that are not valid (incomplete windows, no bar so far, volume not reported): 0 or NaN.
      regimes: `[T, A, 4]` probabilities of `REGIMES` known at each close, for the group `regime`.

    Returns:
      `[T, A, F]` float32 within +-5, or `unknown`, with columns `feature_names(groups, columns)`.

    Raises:
      ValueError: unknown, repeated or no group; a window below 2; the group `carry`, `regime` or one of own columns
        without what it needs.
    """
    _features(groups, columns)
    check_columns(market, columns)
    chosen = _validated(groups)
    if "regime" in chosen and regimes is None:
        raise ValueError("the feature group 'regime' needs the probabilities of the regimes")
    if "carry" in chosen and isinstance(market.carry, tuple):
        raise ValueError("the feature group 'carry' needs prices with a column carry (per year), which these lack")
    regimes = regimes if "regime" in chosen else None
    asked = cast("Mapping[str, str]", normalise or {})
    how = tuple((group, asked.get(group, "zscore")) for group in chosen)
    own = tuple(columns)
    table = _feature_table(market, regimes, groups=how, columns=own, normalisation_window=int(normalisation_window))
    return jnp.where(jnp.isnan(table), unknown, table)


@partial(compiled, inline=False, static_argnames=("groups", "columns", "normalisation_window"))
def _feature_table(
    market: MarketData,
    regimes: jax.Array | None,
    *,
    groups: tuple[tuple[str, str], ...],
    columns: tuple[OwnGroup, ...],
    normalisation_window: int,
) -> jax.Array:
    """Computes features of validated groups, each with its normalisation; NaN where unknown."""
    bars, normalise = own_bars(market.tradable), dict(groups)
    asset_groups = tuple(group for group in normalise if group in RAW)
    tables = {}
    if asset_groups:
        prices = {name: getattr(market, name) for name in COLUMNS}
        of_assets = partial(_asset_table, market, asset_groups, normalise, normalisation_window)
        found, slices = bars.computed(of_assets, prices), group_slices(asset_groups)
        tables = {group: found[..., slices[group]] for group in asset_groups}
    if "price" in tables:
        stale = jnp.log1p(bars.bars_since.astype(jnp.float32)) / STALENESS_SCALE
        column = feature_names(("price",)).index("staleness")
        tables["price"] = tables["price"].at[..., column].set(jnp.clip(stale, 0, CLIP))
    if "cross_section" in normalise:
        tables["cross_section"] = cross_section(market, bars, TREND_LOOKBACK)
    if "carry" in normalise:
        tables["carry"] = carry(market, bars)
    if "calendar" in normalise:
        found = calendar(market, normalisation_window)
        tables["calendar"] = jnp.broadcast_to(found[:, None], (*market.tradable.shape, found.shape[-1]))
    if regimes is not None:
        tables["regime"] = regimes
    own = [own_group(market, bars, group, normalisation_window) for group in columns]
    table = jnp.concatenate([*(tables[group] for group in normalise), *own], axis=-1)
    return jnp.where(bars.listed[..., None], table, jnp.nan)


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
    features = [(feature, _normalisation(feature, group, normalise)) for group in groups for feature in FEATURES[group]]
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
