"""Paper accounts: what each strategy of a book would have earned by itself, known causally and at the same costs.

Every strategy trades an account of its own by the bar of the environment, whether or not it has an allocation. An
account is liquidated as any other is, and then stays out of the market, as in `jaxppo.backtest.simulate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.envs.execution.costs import Costs
from jaxppo.envs.execution.margin import leverage_use_at
from jaxppo.envs.execution.portfolio import Portfolio, expected_weights, open_portfolio, target_scale
from jaxppo.envs.trading.account import Account, BarRow, Decision, View
from jaxppo.envs.trading.bar import OneBar
from jaxppo.policy.protocol import Observed, Policy

AGENT = "agent"
"""Stands for the policy that is being trained or run, in a list of strategies."""


class PaperAccounts(struct.PyTreeNode):
    """The accounts of M strategies at the close of a bar.

    Attributes:
      accounts: `[M]` of them; their limits are those of the whole account, so that they carry no states of masks.
      ordered: `[M, A]` shares ordered at that close.
      states: of the strategies, one each; `()` for the agent.
    """

    accounts: Account
    ordered: jax.Array
    states: tuple[Any, ...]

    @property
    def portfolio(self) -> Portfolio:
        """`[M]` portfolios."""
        return self.accounts.portfolio

    @property
    def liquidated(self) -> jax.Array:
        """`[M]` bool, at some bar."""
        assert self.accounts.liquidated is not None
        return self.accounts.liquidated


def open_paper_accounts(
    strategies: Sequence[Policy | str], env: OneBar, n_assets: int, cash: jax.Array | float
) -> PaperAccounts:
    """Opens flat accounts; their first bar gives them its prices.

    Args:
      strategies: M of them.
      env: how accounts trade.
      n_assets: A.
      cash: of each account, currency.
    """
    number = len(strategies)
    account = Account(open_portfolio(jnp.ones(n_assets), cash, env.fill_rule), liquidated=jnp.zeros((), bool))
    return PaperAccounts(
        accounts=jax.tree.map(lambda x: jnp.broadcast_to(x, (number, *x.shape)), account),
        ordered=jnp.zeros((number, n_assets)),
        states=tuple(() if isinstance(strategy, str) else strategy.init(n_assets) for strategy in strategies),
    )


def settle(paper_accounts: PaperAccounts, env: OneBar, bar: jax.Array, costs: Costs) -> PaperAccounts:
    """Steps the accounts through a bar, in which their orders fill.

    Args:
      paper_accounts: at the previous close, with the orders placed there.
      env: how accounts trade.
      bar: `[fields, A]` packed.
      costs: cost parameters.
    """
    accounts, *_ = jax.vmap(env.settle, in_axes=(0, 0, None, None))(
        paper_accounts.accounts, paper_accounts.ordered, bar, costs
    )
    return paper_accounts.replace(accounts=accounts)


def place(
    strategies: Sequence[Policy | str],
    paper_accounts: PaperAccounts,
    env: OneBar,
    row: BarRow,
    agent: Decision,
    costs: Costs,
) -> tuple[PaperAccounts, jax.Array]:
    """Every strategy decides for its account and places its orders.

    Args:
      strategies: M of them.
      paper_accounts: at the close of the bar.
      env: how accounts trade.
      row: of that bar; `row.policy` has the rows of the strategies' tables, one each.
      agent: target weights `[A]` and hold flags `[A]` of the agent's decision; it leaves its own account's position
        alone where it holds.
      costs: cost parameters.

    Returns:
      The accounts with their orders, and the weights `[M, A]` that they will have once these are filled.
    """
    views = jax.vmap(lambda account: env.view(account, row, limited=False))(paper_accounts.accounts)
    decisions, states = [], []
    for number, (strategy, state) in enumerate(zip(strategies, paper_accounts.states, strict=True)):
        if isinstance(strategy, str):
            targets = agent
        else:
            portfolio, observation = jax.tree.map(
                lambda x, i=number: x[i], (paper_accounts.portfolio, views.observation)
            )
            seen = Observed(portfolio, row.policy[number], observation)
            targets, state = strategy.apply(strategy.params, state, seen)
        decisions.append(targets)
        states.append(state)
    weights, hold = (jnp.stack(parts) for parts in zip(*decisions, strict=True))

    def order(account: Account, view: View, decided: Decision) -> tuple[Account, jax.Array, jax.Array]:
        account, (targets, hold, ordered) = env.place(account, view, row, decided, costs, limited=False)
        use = leverage_use_at(row.next_bar, costs)
        scaled = targets * target_scale(account.portfolio, targets, hold, costs, use)
        return account, ordered, jnp.where(hold, expected_weights(account.portfolio), scaled)

    accounts, ordered, expected = jax.vmap(order)(paper_accounts.accounts, views, (weights, hold))
    return PaperAccounts(accounts, ordered, tuple(states)), expected
