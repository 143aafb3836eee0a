"""Own code of a user, one of each kind: what configurations of tests name `own_parts:function`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pandas as pd
from tiny_run import prices

from jaxppo import Policy, masks, rules
from jaxppo.arguments import PositiveInt, PositiveRatio
from jaxppo.envs import simulators
from jaxppo.envs.execution.costs import Bar
from jaxppo.envs.market.market_data import MarketData, MarketInfo
from jaxppo.envs.market.windows import rolling_mean, shift
from jaxppo.envs.simulators.generators import Generator
from jaxppo.envs.trading.view import MarketView
from jaxppo.masks import MaskTransform
from jaxppo.risk.objectives import EpisodeUtility
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


def by_range(market: MarketData, *, level: PositiveRatio = 0.02) -> jax.Array:
    """Crisis where the range of the last bars is wide on average, else bull."""
    wide = rolling_mean(jnp.log(market.high / market.low).mean(axis=1), 5) > level
    return jnp.stack([~wide, 0 * wide, 0 * wide, wide], axis=-1).astype(jnp.float32)


def cubed(*, loss: PositiveRatio = 2.0) -> EpisodeUtility:
    """Losses weigh more."""
    return EpisodeUtility("cubed", None, lambda returns, _: jnp.where(returns < 0, loss * returns, returns))


def of_range(quantity: jax.Array, price: jax.Array, bar: Bar, *, share: PositiveRatio = 0.5) -> jax.Array:
    """A share of the forecast volatility of the notional."""
    return share * jnp.abs(quantity) * price * bar.volatility


def random_walks() -> pd.DataFrame:
    """Prices in a data frame."""
    return prices(n_bars=420, seed=3)


def drawn_walks() -> MarketData:
    """Prices as a market."""
    return simulators.gbm(jax.random.key(5), 420, 2)


def drawn_bars(market: MarketData, n_bars: int) -> Generator:
    """Bars of the source, one drawn at a time."""

    def draw(market: MarketData, key: jax.Array) -> MarketData:
        row = jax.random.randint(key, (n_bars,), 0, market.n_bars)
        return market.replace(
            **{
                name: jax.tree.map(lambda x: x[row], getattr(market, name))
                for name in ("open", "high", "low", "close", "volume", "half_spread", "tradable")
            },
            **{name: getattr(market, name)[:n_bars] for name in ("minute_of_day", "session", "day_of_week")},
            seconds_since_previous=market.seconds_since_previous[:n_bars],
        )

    return Generator("drawn", market.replace(info=MarketInfo()), draw)


def named_rule(*, name: str = "news rule") -> Policy:
    """Equal weights under a name of their own."""
    return rules.equal_weight()._replace(name=name)


def half_equal(*, gross: PositiveRatio = 0.5) -> Policy:
    """Equal weights of half of the equity."""
    return rules.equal_weight(gross=gross)
