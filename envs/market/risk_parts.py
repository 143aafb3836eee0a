"""Parts of a budget of risk: what a position of equal volatility is worth in every asset."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxppo.envs.market.features import ewma_volatility
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.own_bars import own_bars

STALE = 21
"""Bars without one of its own after which an asset has no part of the budget."""


def risk_parts(market: MarketData, periods: float, target: float, span: int, largest: float) -> jax.Array:
    """Weights `[T, A]` of one part of a budget in each asset, `min(target / (sigma_a sqrt(periods)), largest) /
    sqrt(B)`; 0 for an asset without a part. B assets are listed and had a bar in the last 21.

    Args:
      market: unbatched.
      periods: bars per year.
      target: volatility per year of all parts together if returns are independent, fraction of equity.
      span: bars of the exponential forecast of the volatility sigma of an asset.
      largest: weight of an asset before it is divided by the root of B.
    """
    bars = own_bars(market.tradable)
    present = bars.listed & (bars.bars_since < STALE)
    volatility = ewma_volatility(market, span) * jnp.sqrt(periods)
    breadth = jnp.maximum(jnp.sum(present, axis=-1, keepdims=True), 1)
    return jnp.where(present, jnp.minimum(target / volatility, largest) / jnp.sqrt(breadth), 0.0)
