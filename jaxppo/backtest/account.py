"""One bar of a backtest: the bar of the environment with a policy, monitored limits, and an account that may end."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.envs.execution.costs import Costs
from jaxppo.envs.execution.portfolio import open_portfolio
from jaxppo.envs.trading.account import Account, BarRow, Placed, StepResult, View
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.types import EnvParams
from jaxppo.policy.protocol import Observed, Policy, Targets
from jaxppo.risk.monitor import NO_MONITOR, Monitor


class AccountRules(NamedTuple):
    """What an account trades under; static.

    Attributes:
      env: fill rule, action space, masks and sizing.
      periods: bars per year.
      monitor: limits that are checked after every bar. Once one that says `stop` is breached, what is left of orders is
        cancelled, all positions are closed from the next fill on, as fast as the market takes them, and the account
        stays out of the market.
      limited: False leaves out masks and sizing, and what the monitor stops goes on.
    """

    env: TradingEnv
    periods: float
    monitor: Monitor = NO_MONITOR
    limited: bool = True


class AccountState(struct.PyTreeNode):
    """What a backtest carries from one bar to the next.

    Attributes:
      account: at the close.
      monitor: state of the monitor.
      policy: state of the policy.
    """

    account: Account
    monitor: Any
    policy: Any


class AccountStep(NamedTuple):
    """What one bar did.

    Attributes:
      result: to the account.
      monitored: monitored limit -> `[]` level after the bar.
      liquidated: `[]` bool after it.
    """

    result: StepResult
    monitored: dict[str, jax.Array]
    liquidated: jax.Array


def open_account(policy: Policy, rules: AccountRules, params: EnvParams, first: jax.Array) -> AccountState:
    """Opens a flat account at the close of bar `first`.

    Args:
      policy: who will decide.
      rules: what the account trades under.
      params: the market.
      first: `[]` int32.
    """
    env, no = rules.env, jnp.zeros((), bool)
    portfolio = open_portfolio(params.market.mark(first), params.initial_cash, env.fill_rule)
    account = env.open_account(portfolio).replace(rewards=(), liquidated=no, stopped=no)
    return AccountState(account, rules.monitor.init(), policy.init(env.n_assets))


class Ordered(NamedTuple):
    """What an account decided and ordered at the close of a bar.

    Attributes:
      view: what it saw and was allowed to do.
      decided: `[A]` target weights and `[A]` bool, assets that the policy leaves alone.
      placed: what became of that: targets, hold flags and orders after sizing and limits.
    """

    view: View
    decided: Targets
    placed: Placed


def place_orders(
    policy: Policy, rules: AccountRules, costs: Costs, state: AccountState, row: BarRow
) -> tuple[AccountState, Ordered]:
    """Decides at the close of a bar, and orders.

    Args:
      policy: who decides.
      rules: what the account trades under.
      costs: cost parameters.
      state: at that close.
      row: what the bar reads of the market; `row.policy` is the policy's `(row of its table, encoding of the bar)`.

    Returns:
      The account with its orders placed, and what it ordered.
    """
    env, (table, encoded) = rules.env, row.policy
    view = env.view(state.account, row, limited=rules.limited)
    observed = Observed(state.account.portfolio, table, view.observation, view.constraint, encoded)
    decided, policy_state = policy.apply(policy.params, state.policy, observed)
    account, placed = env.place(
        state.account, view, row, decided, costs, limited=rules.limited, in_shares=policy.in_shares
    )
    return AccountState(account, state.monitor, policy_state), Ordered(view, decided, placed)


def close_bar(
    rules: AccountRules, costs: Costs, state: AccountState, placed: Placed, next_bar: jax.Array
) -> tuple[AccountState, AccountStep]:
    """Lives through the bar in which orders fill, up to its close, where limits are monitored.

    Args:
      rules: what the account trades under.
      costs: cost parameters.
      state: its orders placed.
      placed: these orders.
      next_bar: `[fields, A]` packed, the bar after the decision.
    """
    before = state.account.portfolio
    account, fills, outcome, reward = rules.env.settle(state.account, placed.ordered, next_bar, costs)
    result = StepResult(before, placed.targets, placed.ordered, account.portfolio, fills, outcome, reward)
    return monitored_account(rules, state.replace(account=account), result)


def monitored_account(rules: AccountRules, state: AccountState, result: StepResult) -> tuple[AccountState, AccountStep]:
    """Checks the monitored limits at the close of a bar, and stops an account that breaches one that says `stop`.

    Args:
      rules: with the monitor.
      state: after the bar.
      result: what the bar did.
    """
    account = state.account
    assert account.liquidated is not None
    assert account.stopped is not None
    monitored, monitor = rules.monitor.apply(state.monitor, result.outcome)
    step = AccountStep(result, monitored, account.liquidated)
    if rules.limited:
        fired = rules.monitor.stops(monitored) & ~account.stopped
        # What is on order would otherwise fill after the stop.
        unfilled = jnp.where(fired, 0.0, account.portfolio.unfilled)
        portfolio = account.portfolio.replace(unfilled=unfilled)
        account = account.replace(portfolio=portfolio, stopped=account.stopped | fired)
    return AccountState(account, monitor, state.policy), step


def step_account(
    policy: Policy, rules: AccountRules, costs: Costs, state: AccountState, row: BarRow
) -> tuple[AccountState, AccountStep]:
    """Steps an account through a decision at the close of a bar and the bar after it.

    Args:
      policy: who decides.
      rules: what the account trades under.
      costs: cost parameters.
      state: at the decision.
      row: see `place_orders`; with the bar after it.
    """
    state, ordered = place_orders(policy, rules, costs, state, row)
    return close_bar(rules, costs, state, ordered.placed, row.next_bar)
