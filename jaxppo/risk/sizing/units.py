"""Positions in units of risk."""

from __future__ import annotations

from typing import Any

import jax

from jaxppo.arguments import PositiveInt, PositiveRatio, ProperFraction, checked
from jaxppo.envs.execution.portfolio import Portfolio
from jaxppo.envs.market.risk_parts import risk_parts
from jaxppo.envs.trading.transform import SizingTransform
from jaxppo.envs.trading.view import MarketView
from jaxppo.risk.sizing.transform import scaling


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
        return risk_parts(view.market, view.periods, target, span, largest) / view.position_limit

    def factor(state: Any, row: jax.Array, portfolio: Portfolio, targets: jax.Array) -> tuple[jax.Array, Any]:
        return row, state

    return scaling("risk_units", table, factor, warmup=span, tolerance=tolerance)
