"""Which features an environment shows, and how they are normalised."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from jaxppo.envs.market import features
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.own_columns import OwnGroup
from jaxppo.envs.market.timeframes import BarsOfTimeframes


@dataclasses.dataclass(frozen=True)
class FeatureSet:
    """Arguments of `compute_features`; two of the same arguments are equal.

    Attributes:
      groups: feature groups, in order.
      normalisation_window: span in bars of the causal normalisation.
      normalise: how each group is normalised.
      columns: groups of own columns and functions, behind the others.
      timeframes: coarser bars, of which groups are computed too -> most bars of the market in one of them.
    """

    groups: features.Groups
    normalisation_window: int
    normalise: features.Normalise | None
    columns: tuple[OwnGroup, ...]
    timeframes: BarsOfTimeframes

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the F features, in order."""
        return features.feature_names(self.groups, self.columns, tuple(self.timeframes))

    @property
    def slices(self) -> dict[str, slice]:
        """Feature group -> its columns among the F features."""
        return features.group_slices(self.groups, self.columns, tuple(self.timeframes))

    @property
    def warmup(self) -> int:
        """Bars before the first row at which all features are valid."""
        return features.warmup(**self._arguments())

    def table(self, market: MarketData, unknown: float, regimes: jax.Array | None = None) -> jax.Array:
        """The features of a market, `[T, A, F]` float32.

        Args:
          market: `[T, A]` bars.
          unknown: replaces values that are not valid.
          regimes: `[T, A, 4]` probabilities, for the group `regime`.
        """
        given = self._arguments() | {"timeframes": tuple(self.timeframes)}
        return features.compute_features(market, **given, unknown=unknown, regimes=regimes)

    def _arguments(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
