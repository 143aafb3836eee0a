"""Covariance forecasts of a market's returns."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxppo.envs.market.features import ewma_volatility
from jaxppo.envs.market.index import own_returns
from jaxppo.envs.market.kernels import compiled
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.own_bars import own_bars
from jaxppo.envs.market.windows import exponential_average, shift

LARGEST_TABLE = 2**32
"""Largest table of covariances, bytes."""


@partial(compiled, inline=False)
def ewma_covariance(market: MarketData, span: float) -> jax.Array:
    """Forecasts the covariance of log returns of one bar at each close.

    Volatilities are those of `ewma_volatility`. Correlations come from the exponential average of products of returns,
    each divided by the square root of the bars it spans. Where one of two assets has no bar the product is 0, which
    understates the correlation of assets that seldom trade together.

    Args:
      market: `[T, A]` bars.
      span: bars, >= 1, as in pandas' `ewm`.

    Returns:
      `[T, A, A]` float32, positive semidefinite.

    Raises:
      ValueError: the table would take more than 4 GiB.
    """
    if 4 * market.n_bars * market.n_assets**2 > LARGEST_TABLE:
        raise ValueError(
            f"covariances of {market.n_assets} assets over {market.n_bars} bars take more than 4 GiB; use fewer"
        )
    change, _ = own_returns(market)
    n_elapsed = 1.0 + shift(own_bars(market.tradable).bars_since, 1).astype(jnp.float32)
    change = jnp.log1p(change) / jnp.sqrt(n_elapsed)
    products = change[:, :, None] * change[:, None, :]
    average = exponential_average(products, jnp.ones(products.shape, bool), span)
    deviation = jnp.sqrt(jnp.einsum("taa->ta", average))
    deviation = jnp.where(deviation > 0, deviation, 1.0)
    correlation = average / (deviation[:, :, None] * deviation[:, None, :])
    diagonal = jnp.eye(market.n_assets, dtype=bool)[None]
    volatility = ewma_volatility(market, span)
    return jnp.where(diagonal, 1.0, correlation) * (volatility[:, :, None] * volatility[:, None, :])
