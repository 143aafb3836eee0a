"""Returns from bar to bar, and the equal-weight index of a market."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxppo.envs.market.features import ewma_volatility
from jaxppo.envs.market.kernels import compiled
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.own_bars import own_bars
from jaxppo.envs.market.windows import linear_recurrence, shift


@compiled
def own_returns(market: MarketData) -> tuple[jax.Array, jax.Array]:
    """Simple returns from one own bar of an asset to the next.

    The return over a halt belongs to the bar that ends it.

    Returns:
      `[T, A]` returns, fraction, 0 where there is none, and `[T, A]` bool, where there is one.
    """
    bars = own_bars(market.tradable)
    known = market.tradable & (bars.latest > 0)
    change = bars.computed(lambda close: close / shift(close, 1) - 1.0, market.close)
    return jnp.where(known, change, 0.0), known


def market_index(market: MarketData) -> MarketData:
    """Builds the equal-weight index of a market, rebalanced at every bar, as a market of one asset.

    Its return is the mean over the assets that have one at that bar; a bar without any asset's bar is not tradable. It
    starts at 1 and has no volume; open, high and low equal its close.
    """
    change, known = own_returns(market)
    mean = change.sum(axis=-1) / jnp.maximum(known.sum(axis=-1), 1)
    level = jnp.exp(linear_recurrence(1.0, jnp.log1p(mean)))[:, None]
    return market.replace(
        open=level,
        high=level,
        low=level,
        close=level,
        volume=jnp.zeros_like(level),
        half_spread=jnp.zeros_like(level),
        tradable=market.tradable.any(axis=-1, keepdims=True),
        volume_known=jnp.zeros(1, bool),
        ended=(),
        carry=(),
        columns=(),
        funding=(),
        dividends=(),
    )


def equal_weight_volatility(market: MarketData, span: int = 63) -> jax.Array:
    """Per-bar EWMA volatility `[T]` of the equal-weight portfolio of the tradable assets, known at each close.

    Args:
      market: `[T, A]` bars.
      span: bars of the exponential average, >= 1.
    """
    index = market_index(market)
    index = index.replace(tradable=jnp.ones_like(index.tradable))
    return ewma_volatility(index, span)[:, 0]
