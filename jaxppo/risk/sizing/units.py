"""Positions in units of risk."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxppo.arguments import PositiveInt, PositiveRatio, ProperFraction, checked
from jaxppo.envs.execution.portfolio import Portfolio
from jaxppo.envs.market.features import ewma_volatility
from jaxppo.envs.market.own_bars import own_bars
from jaxppo.envs.trading.transform import SizingTransform
from jaxppo.envs.trading.view import MarketView
from jaxppo.risk.sizing.transform import scaling

STALE = 21
"""Bars without one of its own after which an asset has no part of the budget."""


@checked
def risk_units(
    target: PositiveRatio = 0.1,
    *,
    span: PositiveInt = 63,
    largest: PositiveRatio = 10.0,
    tolerance: ProperFraction = 0.1,
) -> SizingTransform:
    """Reads targets as shares of a budget of volatility, in equal parts for all assets: the position limit is a part.

    `sizes_a = targets_a / position_limit * min(target / (sigma_a sqrt(periods)), largest) / sqrt(B)`, with B assets
    that are listed and had a bar in the last 21: positions of one part each have the volatility `target` if returns are
    independent.

    Args:
      target: volatility per year of all parts together, fraction of equity.
      span: bars of the exponential forecast of the volatility sigma of an asset.
      largest: position in an asset, multiple of equity, before it is divided by the root of B.
      tolerance: relative change of a factor that is not traded.

    Reference: Moskowitz, Ooi, Pedersen (2012), Time series momentum, section 3, for positions of equal volatility.
    """

    def table(view: MarketView) -> jax.Array:
        """`[T, A]` factors."""
        bars = own_bars(view.market.tradable)
        present = bars.listed & (bars.bars_since < STALE)
        volatility = ewma_volatility(view.market, span) * jnp.sqrt(view.periods)
        breadth = jnp.maximum(jnp.sum(present, axis=-1, keepdims=True), 1)
        unit = jnp.minimum(target / volatility, largest) / jnp.sqrt(breadth)
        return jnp.where(present, unit, 0.0) / view.position_limit

    def factor(state: Any, row: jax.Array, portfolio: Portfolio, targets: jax.Array) -> tuple[jax.Array, Any]:
        return row, state

    return scaling("risk_units", table, factor, warmup=span, tolerance=tolerance)
