"""Columns of a user's own as feature groups: news scores, funding rates, fundamentals, anything known at a close."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from pydantic import Field

from jaxppo.arguments import NonNegativeInt, Text
from jaxppo.envs.market import trend
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.normalisation import CLIP, scaled, zscore
from jaxppo.envs.market.own_bars import OwnBars
from jaxppo.envs.market.rows import row_number
from jaxppo.envs.market.windows import shift

Columns = Annotated[tuple[Text, ...], Field(min_length=1)]
OwnNormalisation = Literal["zscore", "scale", "rank", "none"]


class ColumnGroup(NamedTuple):
    """A feature group that is made of columns of the prices.

    Attributes:
      name: of the group.
      columns: of `MarketData.columns`, a feature each.
      lag: own bars after which a value may be read; 0 reads it at the close of its own bar.
      normalise: exponential z-score, the same without subtracting a mean, rank among the assets at that close, or
        nothing but the clip to +-5.
    """

    name: str
    columns: Columns
    lag: NonNegativeInt = 0
    normalise: OwnNormalisation = "zscore"

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of its features."""
        return tuple(f"{self.name}.{column}" for column in self.columns)

    @property
    def lookback(self) -> int:
        """Own bars before its first value."""
        return self.lag

    def values(self, market: MarketData) -> tuple[jax.Array, ...]:
        """Raw values, `[T, A]` for each feature."""
        return tuple(market.columns[name] for name in self.columns)


class OwnGroup(Protocol):
    """A feature group of a user's own, of columns or of a function: see `ColumnGroup`."""

    @property
    def name(self) -> str: ...
    @property
    def columns(self) -> tuple[str, ...]: ...
    @property
    def lag(self) -> int: ...
    @property
    def lookback(self) -> int: ...
    @property
    def normalise(self) -> OwnNormalisation: ...
    @property
    def feature_names(self) -> tuple[str, ...]: ...

    def values(self, market: MarketData) -> tuple[jax.Array, ...]: ...


def check_columns(market: MarketData, groups: Sequence[OwnGroup]) -> None:
    """Refuses groups of columns that a market does not have.

    Args:
      market: with its own columns.
      groups: that read them.

    Raises:
      ValueError: the first column that is not there.
    """
    there = () if isinstance(market.columns, tuple) else tuple(market.columns)
    for group in groups:
        for column in group.columns:
            if column not in there:
                has = f"it has {', '.join(there)}" if there else "it has no columns of its own"
                raise ValueError(f"the feature group {group.name!r} reads the column {column!r}; {has}")


def own_group(market: MarketData, bars: OwnBars, group: OwnGroup, window: int) -> jax.Array:
    """Features of a group on the market's time axis, `[T, A, n]` within +-5; NaN where unknown.

    Between own bars of an asset its last features are held.

    Args:
      market: `[T, A]` bars, with the columns; NaN where a value is not known.
      bars: own bars of its assets.
      group: what is read or computed, and what is done to it.
      window: span in own bars of z-scores and scales, >= 2.
    """

    def of_asset(*columns: jax.Array) -> jax.Array:
        values = jnp.stack([shift(x, group.lag) for x in columns], axis=-1)
        valid = jnp.isfinite(values) & (row_number(values) >= group.lookback)
        if group.normalise == "zscore":
            return zscore(values, valid, window)
        if group.normalise == "scale":
            return scaled(values, valid, window)
        return jnp.where(valid, values if group.normalise == "rank" else jnp.clip(values, -CLIP, CLIP), jnp.nan)

    found = bars.computed(of_asset, *group.values(market))
    if group.normalise == "rank":
        known = jnp.isfinite(found) & bars.listed[..., None]
        ranks = [trend.rank_among(found[..., i], known[..., i]) for i in range(found.shape[-1])]
        found = jnp.where(known, jnp.stack(ranks, axis=-1), jnp.nan)
    return found
