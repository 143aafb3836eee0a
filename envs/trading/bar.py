"""One decision and one bar of one account: the pieces that environment, rollout and backtests share."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxppo.envs.execution.costs import Costs, unpack_bar
from jaxppo.envs.execution.limits import Constraint, Limits, constrain, no_limits, project
from jaxppo.envs.execution.portfolio import (
    FillRule,
    Fills,
    Portfolio,
    drawdown,
    expected_weights,
    open_portfolio,
    orders_to_target,
    outstanding,
    step,
    weights_of,
)
from jaxppo.envs.trading.actions import TargetActions
from jaxppo.envs.trading.types import EnvParams, Observation, Outcome

LARGEST_LOSS = 0.999


class OneBar(TargetActions):
    """The steps between an action and the next close; static choices, pure methods, `vmap` over accounts.

    Attributes:
      fill_rule: latency, partial fills and fill price.
      start: "flat", or "random" positions at the start of an episode.
      masks: mask transform, or None; see `envs.TradingEnv`.
      sizing: sizing transform, or None; see there.
      rewards: reward transform, or None; see there.
    """

    fill_rule: FillRule
    start: str
    masks: Any
    sizing: Any
    rewards: Any

    def limit(
        self, state: Any, row: Any, bar: jax.Array, portfolio: Portfolio, tradable: jax.Array, sizing: Any = ()
    ) -> tuple[Constraint | None, Any]:
        """What one account may do at the close of `bar`, and the next state of the masks.

        None for everything, without masks and sizing.

        Args:
          state: of the mask transform.
          row: of its table, that of the bar.
          bar: `[]` int32.
          portfolio: at its close.
          tradable: `[A]` bool of the bar.
          sizing: state of the sizing transform.
        """
        if self.masks is None and self.sizing is None:
            return None, state
        limits = no_limits(self.n_assets)
        if self.masks is not None:
            limits, state = self.masks.apply(state, row, portfolio)
        return self.constraint(limits, bar, portfolio, tradable, sizing), state

    def constraint(
        self, limits: Limits, bar: jax.Array, portfolio: Portfolio, tradable: jax.Array, sizing: Any
    ) -> Constraint:
        """What `limits` allow one account, and what holding stands for; arguments as in `limit`."""
        allowed = constrain(limits, portfolio, tradable, bar)
        return (
            allowed if self.sizing is None else allowed.replace(held=self.sizing.pre_sizing_targets(sizing, portfolio))
        )

    def mask_start(self) -> Any:
        """State of the mask transform at the start of an episode."""
        return () if self.masks is None else self.masks.init(self.n_assets)

    def size(
        self, state: Any, row: Any, portfolio: Portfolio, weights: jax.Array, hold: jax.Array
    ) -> tuple[jax.Array, jax.Array, Any]:
        """Targets `[A]` and hold flags `[A]` after the sizing transform, and its next state.

        Args:
          state: of the sizing transform.
          row: of its table, that of the decision bar.
          portfolio: at its close.
          weights: `[A]` decided target weights.
          hold: `[A]` bool, assets that the decision leaves alone.
        """
        if self.sizing is None:
            return weights, hold, state
        present = expected_weights(portfolio)
        sized, state = self.sizing.apply(state, row, portfolio, jnp.where(hold, present, weights), hold)
        return sized, hold & (sized == present), state

    def sizing_start(self) -> Any:
        """State of the sizing transform at the start of an episode."""
        return () if self.sizing is None else self.sizing.init(self.n_assets)

    def rewards_start(self) -> Any:
        """State of the reward transform at the start of an episode."""
        return () if self.rewards is None else self.rewards.init()

    def settle(
        self,
        portfolio: Portfolio,
        weights: jax.Array,
        hold: jax.Array,
        tradable: jax.Array,
        row: jax.Array,
        costs: Costs,
        constraint: Constraint | None = None,
    ) -> tuple[Portfolio, Fills, jax.Array]:
        """Turns targets into orders and lives through the next bar: `orders`, then `fill`.

        Takes their arguments; `row` is the packed next bar.

        Returns:
          The next portfolio, its fills, and the log return `[]` of the equity.
        """
        return self.fill(portfolio, self.orders(portfolio, weights, hold, tradable, costs, constraint), row, costs)

    def orders(
        self,
        portfolio: Portfolio,
        weights: jax.Array,
        hold: jax.Array,
        tradable: jax.Array,
        costs: Costs,
        constraint: Constraint | None = None,
    ) -> jax.Array:
        """Shares `[A]` to order, signed.

        An asset without a bar at the decision has no price to size an order at: whatever the action, it is held.

        Args:
          portfolio: at the close of the decision bar.
          weights: `[A]` target weights.
          hold: `[A]` bool, assets to leave alone.
          tradable: `[A]` bool, assets with a bar at the decision.
          costs: cost parameters.
          constraint: what the masks allow; the nearest allowed targets are executed.
        """
        if constraint is not None:
            weights = project(constraint, weights, hold)
            hold = weights == expected_weights(portfolio)
        return orders_to_target(portfolio, weights, hold | ~tradable, costs)

    def fill(
        self, portfolio: Portfolio, order: jax.Array, row: jax.Array, costs: Costs
    ) -> tuple[Portfolio, Fills, jax.Array]:
        """Lives through the next bar, `row` `[fields, A]` packed, with orders `[A]`; returns as `settle` does."""
        after, fills = step(portfolio, order, unpack_bar(row), costs, self.fill_rule)
        change = (after.equity - portfolio.equity) / jnp.where(portfolio.equity > 0, portfolio.equity, 1.0)
        return after, fills, jnp.log1p(jnp.maximum(change, -LARGEST_LOSS))

    def outcome(self, portfolio: Portfolio, after: Portfolio, fills: Fills, log_growth: jax.Array) -> Outcome:
        """What a bar did to one account, from `settle`'s arguments and results."""
        equity = jnp.where(portfolio.equity > 0, portfolio.equity, 1.0)
        traded = jnp.abs(fills.quantity) * fills.price + jnp.abs(fills.liquidation) * after.price
        weights = weights_of(after)
        return Outcome(
            log_growth=log_growth,
            drawdown_before=drawdown(portfolio),
            drawdown=drawdown(after),
            leverage=jnp.sum(jnp.abs(weights)),
            net=jnp.sum(weights),
            concentration=jnp.max(jnp.abs(weights)),
            turnover=jnp.sum(traded) / equity,
            costs=(jnp.sum(fills.costs.total()) + fills.financing) / equity,
        )

    def reward(self, state: Any, outcome: Outcome, params: EnvParams) -> tuple[jax.Array, Any]:
        """Reward `[]` of one account for a bar, and the next state of the reward transform."""
        reward = self.utility(outcome.log_growth, params)
        return (reward, state) if self.rewards is None else self.rewards.apply(state, reward, outcome)

    def utility(self, log_growth: jax.Array, params: EnvParams) -> jax.Array:
        """Utility of the log growth of the equity over one bar, any shape: the reward before `rewards`."""
        power = 1.0 - params.risk_aversion
        safe = jnp.where(power == 0.0, 1.0, power)
        return jnp.where(power == 0.0, log_growth, jnp.expm1(safe * log_growth) / safe)

    def ruined(self, portfolio: Portfolio, fills: Fills, params: EnvParams) -> jax.Array:
        """Whether the episode of a portfolio `[]` ends with these fills: liquidated, or beyond the drawdown limit."""
        return fills.liquidated | (drawdown(portfolio) > params.drawdown_limit)

    def observe_portfolio(
        self, bar: jax.Array, portfolio: Portfolio, tradable: jax.Array, constraint: Constraint | None = None
    ) -> Observation:
        """`Observation` of a portfolio at the close of `bar`; `tradable` is `[A]` of that bar."""
        weights = weights_of(portfolio) / self.position_limit
        equity = jnp.where(portfolio.equity > 0, portfolio.equity, 1.0)
        orders = outstanding(portfolio) * portfolio.price / (equity * self.position_limit)
        account = jnp.stack([jnp.mean(jnp.abs(weights)), jnp.mean(weights), drawdown(portfolio)])
        return Observation(
            bar=bar,
            asset=jnp.stack([weights, orders, tradable.astype(jnp.float32)], axis=-1),
            account=account,
            mask=self.action_mask(tradable, None if self.masks is None else constraint),
        )

    def start_portfolio(
        self, key: jax.Array | None, price: jax.Array, tradable: jax.Array, params: EnvParams
    ) -> Portfolio:
        """The account at the start of an episode; positions only in assets `[A]` that are tradable.

        Consumes `key`, which may be None for `start="flat"`.
        """
        portfolio = open_portfolio(price, params.initial_cash, self.fill_rule)
        if self.start == "flat":
            return portfolio
        low, high = self.levels[0], self.levels[-1]
        weights = jax.random.uniform(key, price.shape, minval=low, maxval=high) * self.position_limit
        weights = jnp.where(tradable, weights, 0.0)
        scale = jnp.minimum(1.0, params.costs.max_leverage / jnp.maximum(jnp.sum(jnp.abs(weights)), 1e-6))
        return portfolio.replace(shares=weights * scale * params.initial_cash / price)
