"""A policy over consecutive bars of one market, through the one accounting function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxppo.backtest.account import AccountRules, AccountState, open_account, step_account
from jaxppo.backtest.ledger import Ledger, ledger_line, whole_ledger
from jaxppo.envs.market.rows import rows_from
from jaxppo.envs.trading.account import BarRow
from jaxppo.envs.trading.types import EnvParams
from jaxppo.envs.trading.view import MarketView
from jaxppo.policy.encoding import encode_bars
from jaxppo.policy.protocol import Policy

Record = Callable[[AccountState], Any]


def nothing(state: AccountState) -> tuple[()]:
    """Keeps nothing of a bar."""
    del state
    return ()


def simulate_account(
    policy: Policy, rules: AccountRules, params: EnvParams, first: jax.Array, n_bars: int, record: Record = nothing
) -> Ledger:
    """Runs a policy from a flat start: decisions at the closes of bars `first .. first + n_bars - 1`.

    Compiled once per policy, rules and `n_bars`.

    Args:
      policy: who decides.
      rules: what the account trades under.
      params: the market and its costs.
      first: `[]` int32, first decision bar.
      n_bars: static number of bars; `first + n_bars` must be a bar of the market.
      record: what to keep of the state after each bar.
    """
    return _simulate(policy.without_params(), policy.params, rules, params, first, n_bars, record)


def continue_account(
    policy: Policy,
    rules: AccountRules,
    params: EnvParams,
    state: AccountState,
    first: jax.Array,
    n_bars: int,
    record: Record = nothing,
) -> tuple[AccountState, Ledger]:
    """`simulate_account` of an account at the close of bar `first` that has a past.

    Args:
      policy: who decides from here on.
      rules: what the account trades under.
      params: the market and its costs.
      state: of the account.
      first: `[]` int32, first decision bar.
      n_bars: static number of bars.
      record: what to keep of the state after each bar.

    Returns:
      The state after the last bar, and the lines of the bars.
    """
    rows = market_rows(params, first, n_bars, policy_rows(policy, rules, params, first, n_bars))

    def one_bar(state: AccountState, row: BarRow) -> tuple[AccountState, Ledger]:
        state, step = step_account(policy, rules, params.costs, state, row)
        return state, ledger_line(step, record(state))

    return jax.lax.scan(one_bar, state, rows)


@partial(jax.jit, static_argnames=("static", "rules", "n_bars", "record"))
def _simulate(
    static: Policy,
    policy_params: Any,
    rules: AccountRules,
    params: EnvParams,
    first: jax.Array,
    n_bars: int,
    record: Record,
) -> Ledger:
    policy = static._replace(params=policy_params)
    start = open_account(policy, rules, params, first)
    state, lines = continue_account(policy, rules, params, start, first, n_bars, record)
    assert state.account.liquidated is not None
    return whole_ledger(start.account.portfolio.equity, lines, state.account.liquidated)


def policy_rows(
    policy: Policy, rules: AccountRules, params: EnvParams, first: jax.Array, n_bars: int
) -> tuple[Any, Any]:
    """What a policy reads of `n_bars` bars from `first` on: rows of its table, and its encoding of them.

    Args:
      policy: who decides.
      rules: what its account trades under.
      params: the market.
      first: `[]` int32.
      n_bars: static.
    """
    table = rows_from(policy.table(policy.params, view_of(rules, params)), first, n_bars)
    if policy.encoding is None:
        return table, ()
    inputs = policy.encoding.inputs(params)
    return table, encode_bars(policy.encoding, policy.params, inputs, first, n_bars)


def view_of(rules: AccountRules, params: EnvParams) -> MarketView:
    """What a policy may precompute from.

    Args:
      rules: what its account trades under.
      params: the market.
    """
    return MarketView(params.market, rules.periods, rules.env.position_limit)


def market_rows(params: EnvParams, first: jax.Array, n_bars: int, policy: Any) -> BarRow:
    """What `n_bars` decisions from bar `first` on read of a market, leading axis `n_bars`.

    Args:
      params: the market.
      first: `[]` int32.
      n_bars: static.
      policy: what the policy reads, leading axis `n_bars` already.
    """
    tradable, masks, sizing = rows_from((params.market.tradable, params.masks, params.sizing), first, n_bars)
    return BarRow(
        first + jnp.arange(n_bars), rows_from(params.table, first + 1, n_bars), tradable, masks, sizing, policy
    )
