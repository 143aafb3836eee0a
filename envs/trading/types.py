"""What `TradingEnv` shows, carries and is parametrised by."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment

from jaxppo.envs.execution.costs import Costs
from jaxppo.envs.execution.portfolio import Portfolio
from jaxppo.envs.market.market_data import MarketData

N_ASSET_FEATURES = 3
N_ACCOUNT_FEATURES = 3


class Observation(struct.PyTreeNode):
    """What the agent sees at the close of bar t.

    Attributes:
      bar: `[]` int32, t: an index into the feature table, for policies that read the market once per chunk.
      asset: `[A, 3]` position and outstanding order in units of the position limit, tradable (0 or 1).
      account: `[3]` gross exposure and net exposure as fractions of the largest possible one (`A` times the position
        limit), drawdown.
      mask: allowed actions: `[A, n_actions]` bool, of which action 0 (hold) always is; `[A, n_buckets, n_actions]` bool
        for hierarchical ones, those of each asset in each bucket; for others `[A, 2]` float32, smallest and largest.
    """

    bar: jax.Array
    asset: jax.Array
    account: jax.Array
    mask: jax.Array


class Outcome(struct.PyTreeNode):
    """What one bar did to an account; what reward transforms and monitors read.

    Attributes:
      log_growth: `[]` log return of the equity.
      drawdown_before: `[]` fraction of the peak equity that was lost at the decision, >= 0.
      drawdown: `[]` at the close of the bar, >= 0.
      leverage: `[]` gross exposure at the close, fraction of equity.
      net: `[]` net exposure at the close, fraction of equity, signed.
      concentration: `[]` largest absolute weight at the close, fraction of equity.
      turnover: `[]` traded notional, liquidations included, fraction of the equity before the bar.
      costs: `[]` costs of trading and financing, fraction of the equity before the bar.
      base_log_growth: `[]` log return of what the policy tilts around, in an account of its own; `()` without a base.
    """

    log_growth: jax.Array
    drawdown_before: jax.Array
    drawdown: jax.Array
    leverage: jax.Array
    net: jax.Array
    concentration: jax.Array
    turnover: jax.Array
    costs: jax.Array
    base_log_growth: Any = ()


@struct.dataclass
class EnvState(environment.EnvState):
    """State of one portfolio on one path.

    Attributes:
      time: `[]` int32 steps since reset.
      bar: `[]` int32, last bar seen.
      portfolio: the account at the close of that bar.
      masks: state of the environment's mask transform.
      sizing: state of its sizing transform.
      rewards: state of its reward transform.
    """

    bar: jax.Array
    portfolio: Portfolio
    masks: Any = ()
    sizing: Any = ()
    rewards: Any = ()


@struct.dataclass(kw_only=True)
class EnvParams(environment.EnvParams):
    """Everything that may change without recompiling; build with `TradingEnv.make_params`.

    Attributes:
      max_steps_in_episode: `[]` int32 bars per episode, then truncated.
      market: the bars.
      table: `[T, fields, A]` packed bars, see `jaxppo.envs.execution.bars.pack_bars`.
      features: `[T, A, F]` causal features; what is unknown is NaN for indexed observations, 0 for windows.
      listed: `[T, A]` bool, the asset has had a bar by then.
      costs: trading and holding costs.
      initial_cash: `[]` currency.
      risk_aversion: `[]` relative risk aversion of the reward, >= 0.
      drawdown_limit: `[]` an episode terminates at the close where the drawdown exceeds it; infinity for never.
      first_bar: `[]` int32, earliest decision bar; or `[G]`, of each of several periods, increasing.
      last_bar: `[]` int32, last bar of the period: the episode is truncated when it is reached; or `[G]`, where one
        whose last bar is its first is no period.
      masks: table `[T, ...]` of the environment's mask transform.
      sizing: table `[T, ...]` of its sizing transform.
    """

    max_steps_in_episode: jax.Array
    market: MarketData
    table: jax.Array
    features: jax.Array
    listed: jax.Array
    costs: Costs
    initial_cash: jax.Array
    risk_aversion: jax.Array
    drawdown_limit: jax.Array
    first_bar: jax.Array
    last_bar: jax.Array
    masks: Any = ()
    sizing: Any = ()

    def period_end(self, bar: jax.Array) -> jax.Array:
        """Last bar `[]` of the period that `bar` `[]` is in."""
        if self.last_bar.ndim == 0:
            return self.last_bar
        return self.last_bar[jnp.searchsorted(self.last_bar, bar)]
