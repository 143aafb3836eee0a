"""Volatility target."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxppo.envs.execution.portfolio import Portfolio
from jaxppo.envs.market.covariance import ewma_covariance
from jaxppo.envs.trading.view import MarketView
from jaxppo.risk.sizing.transform import SizingTransform, scaling


def volatility_target(
    target: float, *, span: int = 63, max_leverage: float = 1.0, tolerance: float = 0.1
) -> SizingTransform:
    """Scales all targets alike, so that their forecast volatility is `target` a year.

    `sizes = k targets`, `k = min(target / sqrt(targets' C targets), max_leverage / sum |targets|)`.

    Args:
      target: volatility per year, fraction of equity, > 0.
      span: bars of the exponential covariance C, see `jaxppo.envs.market.covariance.ewma_covariance`.
      max_leverage: largest gross exposure that targets are scaled up or down to, > 0.
      tolerance: relative change of k up to which the last one is kept, >= 0.

    Raises:
      ValueError: an argument outside its range.
    """
    if not target > 0 or not max_leverage > 0:
        raise ValueError(f"target ({target}) and max_leverage ({max_leverage}) must be > 0")
    if span < 1:
        raise ValueError(f"span is {span}; it must be at least 1 bar")

    def table(view: MarketView) -> jax.Array:
        return ewma_covariance(view.market, span) * view.periods

    def factor(own: Any, covariance: jax.Array, portfolio: Portfolio, targets: jax.Array) -> tuple[jax.Array, Any]:
        gross = jnp.sum(jnp.abs(targets))
        shape = targets / jnp.where(gross > 0, gross, 1.0)
        forecast = jnp.sqrt(jnp.maximum(shape @ (covariance @ shape), jnp.finfo(shape.dtype).tiny))
        scale = jnp.minimum(target / forecast, max_leverage) / jnp.where(gross > 0, gross, 1.0)
        return jnp.broadcast_to(jnp.where(gross > 0, scale, 1.0), targets.shape), own

    return scaling("volatility_target", table, lambda n_assets: (), factor, tolerance=tolerance, cap=max_leverage)
