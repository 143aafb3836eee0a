"""Own code of a user, one of each kind: what configurations of tests name `own_parts:function`."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxppo import Policy, masks, rules
from jaxppo.arguments import PositiveInt, PositiveRatio
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.windows import rolling_mean, shift
from jaxppo.envs.trading.view import MarketView
from jaxppo.masks import MaskTransform
from jaxppo.risk.rewards import RewardTransform
from jaxppo.risk.sizing import SizingTransform


def slope(market: MarketData, *, span: PositiveInt = 10) -> jax.Array:
    """Log return of so many bars."""
    return jnp.log(market.close) - jnp.log(shift(market.close, span))


def pair(market: MarketData) -> jax.Array:
    """Two features."""
    return jnp.stack([market.close / market.open - 1.0, market.high / market.low - 1.0], axis=-1)


def leak(market: MarketData) -> jax.Array:
    """Looks at the mean of all prices."""
    return market.close / market.close.mean(axis=0, keepdims=True) - 1.0


def total(market: MarketData) -> jax.Array:
    """A running total that a stream does not know of."""
    return jnp.cumsum(jnp.log(market.close / market.open), axis=0)


def calm_only(*, level: PositiveRatio = 0.02, span: PositiveInt = 5) -> MaskTransform:
    """No new positions where the average range of the last bars is wide."""

    def table(view: MarketView) -> jax.Array:
        wide = rolling_mean(jnp.log(view.market.high / view.market.low), span) > level
        return jnp.where(wide, 0.0, jnp.inf)

    return masks.market_only("calm_only", table, lambda most: masks.box_limits(-most, most), warmup=span)


def cost_aversion(*, weight: PositiveRatio = 1.0) -> RewardTransform:
    """Costs count once more."""
    return RewardTransform("cost_aversion", lambda state, reward, outcome: (reward - weight * outcome.costs, state))


def shrunk(*, factor: PositiveRatio = 0.5) -> SizingTransform:
    """A share of every target."""
    return SizingTransform("shrunk", lambda state, row, portfolio, targets: (factor * targets, state))


def half_equal(*, gross: PositiveRatio = 0.5) -> Policy:
    """Equal weights of half of the equity."""
    return rules.equal_weight(gross=gross)
