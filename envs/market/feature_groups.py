"""The feature groups: names, columns, and how long each needs; how they are computed stands in `features`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from jaxppo.envs.market.own_columns import OwnGroup
from jaxppo.envs.market.raw_features import (
    AVERAGE_WINDOWS,
    CARRY_LOOKBACK,
    CHANNEL_WINDOWS,
    HIGH_WINDOWS,
    LIQUIDITY_WINDOW,
    OTHERS_HORIZONS,
    RANKED_HORIZONS,
    RAW,
    RETURN_HORIZONS,
    TREND_HORIZONS,
    TREND_SCALES,
    VOLATILITY_WINDOW,
)

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

COARSE = (*RAW, "cross_section")
"""Groups that are computed of coarser bars too: those that are made of prices and volume alone."""


def features_of(
    groups: Sequence[str], columns: Sequence[OwnGroup] = (), timeframes: Sequence[str] = ()
) -> dict[str, tuple[Feature, ...]]:
    """The features of each group, in order: the groups, those of a user's own, then those of coarser bars.

    Args:
      groups: names of groups.
      columns: groups of own columns and functions.
      timeframes: coarser bars, of which the groups `COARSE` among the groups are computed too.

    Raises:
      ValueError: unknown, repeated or no group; coarser bars of which none of the groups is computed.
    """
    found = {group: FEATURES[group] for group in validated(groups)}
    coarse = [group for group in found if group in COARSE]
    if timeframes and not coarse:
        raise ValueError(f"coarser bars have the feature groups {', '.join(COARSE)}, and none of them is named")
    for own in columns:
        if own.name in found:
            raise ValueError(f"the feature group {own.name!r} of your own has the name of another group")
        normalised = own.normalise in ("zscore", "scale")
        found[own.name] = tuple(Feature(name, own.lookback, normalised) for name in own.feature_names)
    for name in timeframes:
        for group in coarse:
            found[f"{group}@{name}"] = tuple(dataclasses.replace(f, name=f"{f.name}@{name}") for f in FEATURES[group])
    return found


def validated(groups: Sequence[str]) -> tuple[str, ...]:
    """Returns the groups as a tuple.

    Args:
      groups: names of groups.

    Raises:
      ValueError: an unknown, repeated or missing group.
    """
    names = (groups,) if isinstance(groups, str) else tuple(groups)
    unknown = [name for name in names if name not in FEATURES]
    if unknown:
        raise ValueError(f"unknown feature group {unknown[0]!r}; the groups are {', '.join(FEATURES)}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"feature groups must be a non-empty list without repeats, got {list(names)}")
    return names


def feature_names(
    groups: Sequence[str] = GROUPS, columns: Sequence[OwnGroup] = (), timeframes: Sequence[str] = ()
) -> tuple[str, ...]:
    """Lists the names of the F columns of `compute_features` with the same arguments, in order.

    Raises:
      ValueError: unknown, repeated or no group.
    """
    return tuple(feature.name for found in features_of(groups, columns, timeframes).values() for feature in found)


def group_slices(
    groups: Sequence[str] = GROUPS, columns: Sequence[OwnGroup] = (), timeframes: Sequence[str] = ()
) -> dict[str, slice]:
    """Maps each group to its columns in `compute_features` with the same arguments; of coarser bars `price@1h`.

    Raises:
      ValueError: unknown, repeated or no group.
    """
    slices, start = {}, 0
    for group, found in features_of(groups, columns, timeframes).items():
        slices[group] = slice(start, start + len(found))
        start += len(found)
    return slices


def normalisation_of(feature: Feature, group: str, normalise: Mapping[str, str] | None) -> str:
    """What is done to a raw feature: `zscore`, `scale` or `none`.

    Args:
      feature: the feature.
      group: its group.
      normalise: see `compute_features`.
    """
    return (normalise or {}).get(group, "zscore") if feature.normalised else "none"
