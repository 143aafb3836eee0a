"""Concatenated out-of-sample accounts of a walk-forward: one account through all tests of a path."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.backtest.account import AccountState, open_account
from jaxppo.backtest.agent_account import agent_of, rules_of
from jaxppo.backtest.ledger import Ledger, whole_ledger
from jaxppo.backtest.simulate import continue_account
from jaxppo.envs.trading.types import EnvParams
from jaxppo.policy.networks.actor_critic import ActorCritic, Params
from jaxppo.ppo.population import batched_options
from jaxppo.run.setup import Setup
from jaxppo.walk_forward.job import FoldParams
from jaxppo.walk_forward.plan import Plan


def concatenated_ledgers(
    setup: Setup,
    network: ActorCritic,
    params: FoldParams,
    nets: Params,
    plan: Plan,
    lineups: Sequence[Sequence[int]],
) -> list[list[Ledger]]:
    """Trades every path once with each line-up of agents.

    When a fold ends its agent hands the account over as it is, with positions, outstanding orders, peak equity, and
    the state of masks, sizing and monitor: the costs of turning one agent's positions into the next one's are paid.

    Args:
      setup: environment and rules of the evaluation.
      network: encoder and head of all agents.
      params: of the environments of the folds.
      nets: `[agents, ...]` parameters of the networks.
      plan: folds and paths.
      lineups: for each line-up, the number of the agent that trades each fold.

    Returns:
      For each line-up and each path, the ledger over `plan.test`; NumPy arrays.
    """
    accounts = [(lineup, path) for lineup in lineups for path in plan.paths]
    rules, axes = rules_of(setup), params.fill(None, 0)

    @partial(jax.jit, static_argnames="n_bars", compiler_options=batched_options(setup.devices[0]))
    def trade(
        net: Params, params: EnvParams, state: AccountState, first: jax.Array, n_bars: int
    ) -> tuple[AccountState, Ledger]:
        def one(net: Params, params: EnvParams, state: AccountState) -> tuple[AccountState, Ledger]:
            return continue_account(agent_of(setup, network, net), rules, params, state, first, n_bars)

        return jax.vmap(one, in_axes=(0, axes, 0))(net, params, state)

    opened = open_account(agent_of(setup, network, nets), rules, params.shared, jnp.int32(plan.test.first))
    state = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(accounts), *x.shape)), opened)
    lines = []
    for part, (fold, position) in enumerate(plan.paths[0]):
        test = plan.folds[fold].tests[position]
        folds = [path[part][0] for _, path in accounts]
        agents = jnp.asarray([lineup[fold] for (lineup, _), fold in zip(accounts, folds, strict=True)])
        net = jax.tree.map(lambda x, agents=agents: jnp.asarray(x)[agents], nets)
        state, traded = trade(net, params[folds], state, jnp.int32(test.first), test.n_bars)
        lines.append(jax.device_get(traded))
    whole = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *lines)
    capital, liquidated = opened.account.portfolio.equity, state.account.liquidated

    def ledger(number: int) -> Ledger:
        rows = jax.tree.map(lambda x: x[number], whole)
        return jax.device_get(whole_ledger(capital, rows, liquidated[number]))

    n_paths = len(plan.paths)
    return [[ledger(number * n_paths + path) for path in range(n_paths)] for number in range(len(lineups))]
