"""One bar of one account: limit, observe, decide, size, order, fill, reward. Written once, here.

Whatever trades steps an account by `OneBar.step_bar`: `view`, a decision, `place`, `settle`. The paper accounts of a
book decide when the book does, so that `settle` of one bar comes before `view` and `place` of the next.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxppo.envs.execution.bars import unpack_bar
from jaxppo.envs.execution.costs import Costs
from jaxppo.envs.execution.exits import orderable
from jaxppo.envs.execution.fill_rule import FillRule
from jaxppo.envs.execution.limits import Constraint, Limits, constrain, no_limits, project
from jaxppo.envs.execution.lots import whole_orders
from jaxppo.envs.execution.margin import leverage_use_at
from jaxppo.envs.execution.portfolio import (
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
from jaxppo.envs.market.safe import with_derivative
from jaxppo.envs.trading.account import Account, BarRow, Decide, Decision, Placed, StepResult, View
from jaxppo.envs.trading.actions import TargetActions
from jaxppo.envs.trading.outcome import outcome_of
from jaxppo.envs.trading.types import EnvParams, Observation, Outcome
from jaxppo.envs.trading.urgent import with_urgent_orders

LARGEST_LOSS = 0.999


class OneBar(TargetActions):
    """The bar of an account; static choices, pure methods, `vmap` over accounts.

    Attributes:
      fill_rule: latency, partial fills and fill price.
      start: "flat", or "random" positions at the start of an episode.
      masks: mask transform, or None; see `TradingEnv`.
      sizing: sizing transform, or None; see `TradingEnv`.
      rewards: reward transform, or None; see `TradingEnv`.
    """

    fill_rule: FillRule
    start: str
    masks: Any
    sizing: Any
    rewards: Any

    def step_bar(
        self,
        decide: Decide,
        account: Account,
        row: BarRow,
        costs: Costs,
        risk_aversion: jax.Array | None = None,
        *,
        limited: bool = True,
        in_shares: bool = False,
        batched: bool = False,
    ) -> tuple[Account, StepResult, Any]:
        """Steps an account from the close of one bar to the close of the next.

        Args:
          decide: the policy.
          account: at the decision.
          row: what the bar reads of the market.
          costs: cost parameters.
          risk_aversion: `[]` of the reward; None computes no reward transform.
          limited: whether masks and sizing apply.
          in_shares: whether `decide` returns orders in shares instead of target weights; only if not `limited`.
          batched: whether there are accounts `[K]` instead of one; `decide` then gets and returns all of them.

        Returns:
          The account at the next close, what the bar did, and the third value of `decide`.
        """

        def view(account: Account) -> View:
            return self.view(account, row, limited=limited)

        def execute(account: Account, view: View, decided: Decision) -> tuple[Account, StepResult]:
            before = account.portfolio
            account, placed = self.place(account, view, row, decided, costs, limited=limited, in_shares=in_shares)
            account, fills, outcome, reward = self.settle(account, placed.ordered, row.next_bar, costs, risk_aversion)
            after = account.portfolio
            return account, StepResult(before, placed.targets, placed.ordered, after, fills, outcome, reward)

        seen = jax.vmap(view)(account) if batched else view(account)
        weights, hold, extra = decide(account, seen, row)
        account, result = (jax.vmap(execute) if batched else execute)(account, seen, (weights, hold))
        return account, result, extra

    def view(self, account: Account, row: BarRow, *, limited: bool = True) -> View:
        """What an account sees and may do at the close of a bar.

        Args:
          account: at that close.
          row: what the bar reads of the market.
          limited: whether masks and sizing apply.
        """
        constraint, masks, portfolio = None, account.masks, account.portfolio
        if limited:
            constraint, masks = self.limit(masks, row.masks, row.bar, portfolio, row.tradable, account.sizing)
        if not limited or self.base is None:
            return View(self.observe_portfolio(row.bar, portfolio, row.tradable, constraint), constraint, masks)
        # Limits are those of positions: what a tilt comes to is projected onto them when it is placed.
        free = self.constraint(no_limits(self.n_assets), row.bar, portfolio, row.tradable, account.sizing)
        origin = self.base.weights(account.sizing, portfolio)
        return View(self.observe_portfolio(row.bar, portfolio, row.tradable, free, origin), free, masks, constraint)

    def place(
        self,
        account: Account,
        view: View,
        row: BarRow,
        decided: Decision,
        costs: Costs,
        *,
        limited: bool = True,
        in_shares: bool = False,
    ) -> tuple[Account, Placed]:
        """Sizes a decision, projects it onto the limits, and orders.

        Args:
          account: at the decision.
          view: of that account.
          row: what the bar reads of the market.
          decided: target weights and hold flags; shares to order if `in_shares`.
          costs: cost parameters.
          limited: whether masks and sizing apply.
          in_shares: whether orders in shares were decided; only if not `limited`.

        Returns:
          The account with the next states of masks and sizing, and its orders.
        """
        portfolio, sizing, (weights, hold) = account.portfolio, account.sizing, decided
        chosen, tradable = hold, orderable(row.tradable, portfolio.guard)
        allowed = view.constraint if view.executed is None else view.executed
        if limited:
            weights, hold, sizing = self.size(sizing, row.sizing, portfolio, weights, hold)
        if account.stopped is not None:
            weights, hold = jnp.where(account.stopped, 0.0, weights), hold & ~account.stopped
        if account.liquidated is not None:
            hold, chosen = hold | account.liquidated, chosen | account.liquidated
        if in_shares:
            hold = hold | ~tradable
            ordered = jnp.where(hold, 0.0, weights)
            ordered = whole_orders(ordered, portfolio.shares + outstanding(portfolio), portfolio.price, costs)
            targets = weights
        else:
            targets, hold = self.feasible(portfolio, weights, hold, allowed)
            hold = hold | ~tradable
            ordered = orders_to_target(portfolio, targets, hold, costs, leverage_use_at(row.next_bar, costs))
            # A target that is the position orders nothing, but its derivative is that of an order.
            at_target = hold & ~chosen & tradable & (weights == targets)
            wanted = weights * portfolio.equity / portfolio.price - portfolio.shares - outstanding(portfolio)
            ordered = with_derivative(ordered, jnp.where(at_target, wanted, ordered))
        portfolio = with_urgent_orders(portfolio, allowed, account.stopped)
        return account.replace(portfolio=portfolio, masks=view.masks, sizing=sizing), Placed(targets, hold, ordered)

    def settle(
        self,
        account: Account,
        ordered: jax.Array,
        next_bar: jax.Array,
        costs: Costs,
        risk_aversion: jax.Array | None = None,
    ) -> tuple[Account, Fills, Outcome, jax.Array]:
        """Lives through the bar in which orders fill, and rewards it.

        Args:
          account: at the decision, its order placed.
          ordered: `[A]` shares, signed.
          next_bar: `[fields, A]` packed.
          costs: cost parameters.
          risk_aversion: `[]` of the reward; None computes no reward transform.

        Returns:
          The account at the close of that bar, its fills, their outcome, and the reward `[]`: the log return where no
          risk aversion is given.
        """
        portfolio, rewards = account.portfolio, account.rewards
        after, fills, log_growth = self.fill(portfolio, ordered, next_bar, costs)
        outcome, reward = outcome_of(portfolio, after, fills, log_growth), log_growth
        if self.base is not None and not isinstance(account.sizing, tuple):
            sizing, base_log_growth = self.base.settle(account.sizing, next_bar, costs)
            account, outcome = account.replace(sizing=sizing), outcome.replace(base_log_growth=base_log_growth)
        if risk_aversion is not None:
            reward, rewards = self.reward(rewards, outcome, risk_aversion)
        account = account.replace(portfolio=after, rewards=rewards)
        if account.liquidated is not None:
            account = account.replace(liquidated=account.liquidated | fills.liquidated)
        return account, fills, outcome, reward

    @property
    def base(self) -> Any:
        """What decisions are tilts around, see `jaxppo.risk.sizing.transform.Base`; None where they are targets."""
        return None if self.sizing is None else self.sizing.base

    def open_account(self, portfolio: Portfolio) -> Account:
        """An account with the first states of all transforms; `portfolio` is its start."""
        return Account(portfolio, self.mask_start(), self.sizing_start(), self.rewards_start())

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
        """What limits allow one account, and what holding stands for.

        Args:
          limits: of the masks.
          bar: `[]` int32.
          portfolio: at its close.
          tradable: `[A]` bool of the bar.
          sizing: state of the sizing transform.
        """
        allowed = constrain(limits, portfolio, orderable(tradable, portfolio.guard), bar)
        if self.sizing is None:
            return allowed
        return allowed.replace(held=self.sizing.pre_sizing_targets(sizing, portfolio))

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
        return sized, (hold | (self.base is not None)) & (sized == present), state

    def sizing_start(self) -> Any:
        """State of the sizing transform at the start of an episode."""
        return () if self.sizing is None else self.sizing.init(self.n_assets)

    def rewards_start(self) -> Any:
        """State of the reward transform at the start of an episode."""
        return () if self.rewards is None else self.rewards.init(self.n_assets)

    def feasible(
        self, portfolio: Portfolio, weights: jax.Array, hold: jax.Array, constraint: Constraint | None
    ) -> tuple[jax.Array, jax.Array]:
        """Target weights `[A]` and hold flags `[A]` projected onto what an account may do.

        Args:
          portfolio: at the close of the decision bar.
          weights: `[A]` target weights.
          hold: `[A]` bool, assets to leave alone.
          constraint: what the masks allow; None for everything.
        """
        if constraint is None:
            return weights, hold
        weights = project(constraint, weights, hold)
        return weights, weights == expected_weights(portfolio)

    def fill(
        self, portfolio: Portfolio, order: jax.Array, row: jax.Array, costs: Costs
    ) -> tuple[Portfolio, Fills, jax.Array]:
        """Fills orders in the next bar and marks the account at its close.

        Args:
          portfolio: at the close of the decision bar.
          order: `[A]` shares, signed.
          row: `[fields, A]` the packed next bar.
          costs: cost parameters.

        Returns:
          The next portfolio, its fills, and the log return `[]` of the equity.
        """
        after, fills = step(portfolio, order, unpack_bar(row), costs, self.fill_rule)
        change = (after.equity - portfolio.equity) / jnp.where(portfolio.equity > 0, portfolio.equity, 1.0)
        return after, fills, jnp.log1p(jnp.maximum(change, -LARGEST_LOSS))

    def reward(self, state: Any, outcome: Outcome, risk_aversion: jax.Array) -> tuple[jax.Array, Any]:
        """Reward `[]` of one account for a bar, and the next state of the reward transform.

        Args:
          state: of the reward transform.
          outcome: of the bar.
          risk_aversion: `[]` relative, >= 0.
        """
        reward = self.utility(outcome.log_growth, risk_aversion)
        return (reward, state) if self.rewards is None else self.rewards.apply(state, reward, outcome)

    def utility(self, log_growth: jax.Array, risk_aversion: jax.Array) -> jax.Array:
        """Utility of the growth of the equity over one bar, before any reward transform.

        Args:
          log_growth: log return of the equity, any shape.
          risk_aversion: `[]` relative, >= 0; 1 gives the log return itself.
        """
        power = 1.0 - risk_aversion
        safe = jnp.where(power == 0.0, 1.0, power)
        return jnp.where(power == 0.0, log_growth, jnp.expm1(safe * log_growth) / safe)

    def ruined(self, portfolio: Portfolio, fills: Fills, params: EnvParams) -> jax.Array:
        """Whether the episode of an account ends with a bar `[]`: liquidated, or beyond the drawdown limit.

        Args:
          portfolio, fills: of the bar, at its close.
          params: with the drawdown limit.
        """
        return fills.liquidated | (drawdown(portfolio) > params.drawdown_limit)

    def observe_portfolio(
        self,
        bar: jax.Array,
        portfolio: Portfolio,
        tradable: jax.Array,
        constraint: Constraint | None = None,
        origin: jax.Array | float = 0.0,
    ) -> Observation:
        """What a policy sees of a portfolio at the close of a bar.

        Args:
          bar, portfolio, tradable: of that close.
          constraint: what masks and sizing allow; None for everything.
          origin: `[A]` weights that positions are seen from: those of a base.
        """
        tradable = orderable(tradable, portfolio.guard)
        weights = (weights_of(portfolio) - origin) / self.position_limit
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
        self,
        key: jax.Array | None,
        price: jax.Array,
        tradable: jax.Array,
        params: EnvParams,
        next_bar: Any = (),
    ) -> Portfolio:
        """The portfolio at the start of an episode.

        Args:
          key: consumed; may be None for `start="flat"`.
          price, tradable: `[A]` marks, and which assets may be held.
          params: with the cash and the leverage limit.
          next_bar: `[fields, A]` packed bar after it, whose forecast margins by volatility need; `()` for none.
        """
        portfolio = open_portfolio(price, params.initial_cash, self.fill_rule)
        if self.start == "flat":
            return portfolio
        if key is None:
            raise ValueError("random positions need a key")
        low, high = self.levels[0], self.levels[-1]
        weights = jax.random.uniform(key, price.shape, minval=low, maxval=high) * self.position_limit
        weights = jnp.where(tradable, weights, 0.0)
        gross = jnp.sum(jnp.abs(weights) * leverage_use_at(next_bar, params.costs))
        scale = jnp.minimum(1.0, params.costs.max_leverage / jnp.maximum(gross, 1e-6))
        return portfolio.replace(shares=weights * scale * params.initial_cash / price)
