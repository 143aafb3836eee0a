"""Functions of a user's own as feature groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxppo.arguments import NonNegativeInt
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.own_columns import Columns, OwnNormalisation


class FunctionGroup(NamedTuple):
    """A feature group that a function computes.

    Attributes:
      name: of the group.
      function: `market -> [T, A]`, or `[T, A, n]` for n names; NaN where a value is not known. It is traced by JAX, and
        row t may use bars <= t alone. Two groups of the same function compile once.
      names: of its features; absent: one, which has the name of the group.
      lag: own bars after which a value may be read; 0 reads it at the close of its own bar.
      warmup: bars before the first value is known, which moves the first decision.
      normalise: exponential z-score, the same without subtracting a mean, rank among the assets at that close, or
        nothing but the clip to +-5.
    """

    name: str
    function: Callable[[MarketData], jax.Array]
    names: Columns | None = None
    lag: NonNegativeInt = 0
    warmup: NonNegativeInt = 0
    normalise: OwnNormalisation = "zscore"

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of its features."""
        return (self.name,) if self.names is None else tuple(f"{self.name}.{one}" for one in self.names)

    @property
    def lookback(self) -> int:
        """Own bars before its first value."""
        return self.lag + self.warmup

    @property
    def columns(self) -> tuple[str, ...]:
        """Own columns that must be there: the function says for itself."""
        return ()

    def values(self, market: MarketData) -> tuple[jax.Array, ...]:
        """Raw values, `[T, A]` float32 for each feature.

        Args:
          market: `[T, A]` bars.

        Raises:
          ValueError: the function returns another shape, or no numbers.
        """
        found = jnp.asarray(self.function(market))
        shape = market.close.shape if self.names is None else (*market.close.shape, len(self.names))
        if found.shape != shape or not (jnp.issubdtype(found.dtype, jnp.floating) or found.dtype.kind in "biu"):
            axes = "[T, A]" if self.names is None else f"[T, A, {len(self.names)}], a value for each of its names"
            raise ValueError(
                f"returns {found.dtype}{list(found.shape)}; real numbers of shape {axes} = {list(shape)} are expected"
            )
        found = found.astype(jnp.float32)
        return (found,) if self.names is None else tuple(found[..., i] for i in range(len(self.names)))
