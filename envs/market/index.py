"""The market factor: the equal-weight index of the tradable assets, as a market of one asset."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.own_bars import own_bars
from jaxppo.envs.market.windows import shift


def own_returns(market: MarketData) -> tuple[jax.Array, jax.Array]:
    """Simple returns `[T, A]` from one own bar to the next, and where there are any `[T, A]`.

    The return over a halt belongs to the bar that ends it; elsewhere, and at the first own bar, it is 0.
    """
    bars = own_bars(market.tradable)
    close = bars.pack(market.close)
    known = market.tradable & (jnp.cumsum(market.tradable, axis=0) > 1)
    return jnp.where(known, bars.spread(close / shift(close, 1) - 1.0), 0.0), known


def market_index(market: MarketData) -> MarketData:
    """A market of one asset whose close at t is the index of equal weights, rebalanced at every bar, known at t.

    It starts at 1, has no volume, and open, high and low are its close. Its returns are the means over the assets that
    have one; a bar on which none has is not tradable.
    """
    change, known = own_returns(market)
    mean = change.sum(axis=-1) / jnp.maximum(known.sum(axis=-1), 1)
    level = jnp.exp(jnp.cumsum(jnp.log1p(mean)))[:, None]
    return market.replace(
        open=level,
        high=level,
        low=level,
        close=level,
        volume=jnp.zeros_like(level),
        half_spread=jnp.zeros_like(level),
        tradable=market.tradable.any(axis=-1, keepdims=True),
        volume_known=jnp.zeros(1, bool),
    )
