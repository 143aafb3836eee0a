"""What transforms and policies may precompute from: a market and what is known of it at every close."""

from __future__ import annotations

import dataclasses

import jax

from jaxppo.envs.market.market_data import MarketData


@dataclasses.dataclass(frozen=True, eq=False)
class MarketView:
    """What the market-only part of a mask reads.

    Attributes:
      market: `[T, A]` bars.
      periods: bars per year.
      position_limit: largest absolute weight of one asset that the action space has, fraction of equity.
      regimes: `[T, A, 4]` probabilities of `jaxppo.envs.market.regimes.NAMES`, known at each close; None without any.
    """

    market: MarketData
    periods: float
    position_limit: float
    regimes: jax.Array | None = None
