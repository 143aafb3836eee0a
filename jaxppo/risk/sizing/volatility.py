"""Scaling to a volatility target."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxppo.arguments import PositiveInt, PositiveRatio, ProperFraction, checked
from jaxppo.envs.execution.portfolio import Portfolio
from jaxppo.envs.market.covariance import ewma_covariance
from jaxppo.envs.market.precision import matmul
from jaxppo.envs.market.safe import ratio, root
from jaxppo.envs.trading.transform import SizingTransform
from jaxppo.envs.trading.view import MarketView
from jaxppo.risk.sizing.transform import scaling


@checked
def volatility_target(
    target: PositiveRatio,
    *,
    span: PositiveInt = 63,
    max_leverage: PositiveRatio = 1.0,
    tolerance: ProperFraction = 0.1,
) -> SizingTransform:
    """Scales all targets alike, to a forecast volatility of the account.

    `sizes = k targets`, `k = min(target / sqrt(targets' C targets), max_leverage / sum |targets|)`.

    Args:
      target: volatility per year, fraction of equity.
      span: bars of the exponential covariance C.
      max_leverage: largest gross exposure that targets are scaled up or down to, multiple of equity.
      tolerance: relative change of the factor k that is not traded.
    """

    def table(view: MarketView) -> jax.Array:
        return ewma_covariance(view.market, span) * view.periods

    def factor(state: Any, covariance: jax.Array, portfolio: Portfolio, targets: jax.Array) -> tuple[jax.Array, Any]:
        gross = jnp.sum(jnp.abs(targets))
        shape = targets / jnp.where(gross > 0, gross, 1.0)
        forecast = root(matmul(shape, matmul(covariance, shape)))
        scale = jnp.minimum(ratio(jnp.asarray(target), forecast, jnp.inf), max_leverage)
        scale = scale / jnp.where(gross > 0, gross, 1.0)
        return jnp.broadcast_to(jnp.where(gross > 0, scale, 1.0), targets.shape), state

    return scaling("volatility_target", table, factor, warmup=span, tolerance=tolerance, cap=max_leverage)
