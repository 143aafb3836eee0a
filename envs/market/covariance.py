"""Covariances of a market's returns, known at each close."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxppo.envs.market.features import ewma_volatility
from jaxppo.envs.market.index import own_returns
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.own_bars import own_bars
from jaxppo.envs.market.windows import exponential_average, shift

LARGEST_TABLE = 2**32
"""Bytes of covariances that a table may take."""


def ewma_covariance(market: MarketData, span: int) -> jax.Array:
    """Covariance `[T, A, A]` of the log returns of one bar, forecast at each close; positive semidefinite.

    Volatilities are those of `ewma_volatility`, correlations those of the exponential average of products of returns
    per square root of the bars that they took. Where one of two assets has no bar the product is 0, so assets that
    seldom trade together count as less correlated than they are.

    Raises:
      ValueError: the table would take more than 4 GiB.
    """
    if 4 * market.n_bars * market.n_assets**2 > LARGEST_TABLE:
        raise ValueError(
            f"covariances of {market.n_assets} assets over {market.n_bars} bars take more than 4 GiB; use fewer"
        )
    change, _ = own_returns(market)
    waited = 1.0 + shift(own_bars(market.tradable).bars_since, 1).astype(jnp.float32)
    change = jnp.log1p(change) / jnp.sqrt(waited)
    products = change[:, :, None] * change[:, None, :]
    average = exponential_average(products, jnp.ones(products.shape, bool), span)
    spread = jnp.sqrt(jnp.einsum("taa->ta", average))
    spread = jnp.where(spread > 0, spread, 1.0)
    correlation = average / (spread[:, :, None] * spread[:, None, :])
    own = jnp.eye(market.n_assets, dtype=bool)[None]
    volatility = ewma_volatility(market, span)
    return jnp.where(own, 1.0, correlation) * (volatility[:, :, None] * volatility[:, None, :])
