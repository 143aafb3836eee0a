"""Paper accounts: what each strategy of a book would have earned by itself, known causally and at the same costs.

Every strategy trades an account of its own through the accounting function of the environment, whether or not it has
an allocation. An account is liquidated as any other is, and then stays out of the market, as in
`jaxppo.backtest.simulate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.envs.execution.costs import Costs, unpack_bar
from jaxppo.envs.execution.portfolio import (
    FillRule,
    Portfolio,
    expected_weights,
    open_portfolio,
    orders_to_target,
    step,
    target_scale,
)
from jaxppo.policy.protocol import Observed, Policy

AGENT = "agent"
"""Stands for the policy that is being trained or run, in a list of strategies."""


class PaperAccounts(struct.PyTreeNode):
    """The accounts of M strategies at the close of a bar.

    Attributes:
      portfolio: `[M]` accounts.
      order: `[M, A]` shares ordered at that close.
      dead: `[M]` bool: liquidated at some bar.
      states: of the strategies, one each; `()` for the agent.
    """

    portfolio: Portfolio
    order: jax.Array
    dead: jax.Array
    states: tuple[Any, ...]


def open_paper_accounts(
    strategies: Sequence[Policy | str], n_assets: int, cash: jax.Array | float, fill_rule: FillRule
) -> PaperAccounts:
    """Opens flat accounts; their first bar gives them its prices.

    Args:
      strategies: M of them.
      n_assets: A.
      cash: of each account, currency.
      fill_rule: how orders reach the market (static).
    """
    one = open_portfolio(jnp.ones(n_assets), cash, fill_rule)
    number = len(strategies)
    return PaperAccounts(
        portfolio=jax.tree.map(lambda x: jnp.broadcast_to(x, (number, *x.shape)), one),
        order=jnp.zeros((number, n_assets)),
        dead=jnp.zeros(number, bool),
        states=tuple(() if isinstance(strategy, str) else strategy.init(n_assets) for strategy in strategies),
    )


def settle_bar(paper_accounts: PaperAccounts, bar: jax.Array, costs: Costs, fill_rule: FillRule) -> PaperAccounts:
    """Steps the accounts through a bar, in which their orders fill.

    Args:
      paper_accounts: at the previous close, with the orders placed there.
      bar: `[fields, A]` packed.
      costs: cost parameters.
      fill_rule: how orders reach the market (static).
    """
    after, fills = jax.vmap(step, in_axes=(0, 0, None, None, None))(
        paper_accounts.portfolio, paper_accounts.order, unpack_bar(bar), costs, fill_rule
    )
    return paper_accounts.replace(portfolio=after, dead=paper_accounts.dead | fills.liquidated)


def decide(
    strategies: Sequence[Policy | str],
    paper_accounts: PaperAccounts,
    rows: tuple[Any, ...],
    agent: tuple[jax.Array, jax.Array],
    tradable: jax.Array,
    costs: Costs,
) -> tuple[PaperAccounts, jax.Array]:
    """Every strategy decides for its account and places its orders.

    Args:
      strategies: M of them.
      paper_accounts: at the close of the bar.
      rows: of the strategies' tables, one each.
      agent: target weights `[A]` and hold flags `[A]` of the agent's decision; it leaves its own account's position
        alone where it holds.
      tradable: `[A]` bool of the bar.
      costs: cost parameters.

    Returns:
      The accounts with their orders, and the weights `[M, A]` that they will have once these are filled.
    """
    decisions, states = [], []
    for number, (strategy, state, row) in enumerate(zip(strategies, paper_accounts.states, rows, strict=True)):
        account = jax.tree.map(lambda x, i=number: x[i], paper_accounts.portfolio)
        if isinstance(strategy, str):
            weights, hold = agent
        else:
            (weights, hold), state = strategy.apply(strategy.params, state, Observed(account, row))
        decisions.append((weights, hold | ~tradable | paper_accounts.dead[number]))
        states.append(state)
    weights, hold = (jnp.stack(parts) for parts in zip(*decisions, strict=True))

    def place(account: Portfolio, weights: jax.Array, hold: jax.Array) -> tuple[jax.Array, jax.Array]:
        order = orders_to_target(account, weights, hold, costs)
        target = weights * target_scale(account, weights, hold, costs)
        return order, jnp.where(hold, expected_weights(account), target)

    order, targets = jax.vmap(place)(paper_accounts.portfolio, weights, hold)
    return paper_accounts.replace(order=order, states=tuple(states)), targets
