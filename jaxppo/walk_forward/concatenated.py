"""One account through all tests of a path, whoever decides: the out-of-sample record of a walk-forward."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.backtest.account import Account, open_account
from jaxppo.backtest.simulate import Ledger, carry_policy_on, whole_ledger
from jaxppo.envs.trading.types import EnvParams
from jaxppo.policy.networks.actor_critic import Params, Policy
from jaxppo.ppo.population import batched_options
from jaxppo.run.setup import Setup
from jaxppo.walk_forward.plan import Plan
from jaxppo.walk_forward.population import FoldParams


def concatenated_ledgers(
    setup: Setup, policy: Policy, params: FoldParams, nets: Params, plan: Plan, deciding: Sequence[Sequence[int]]
) -> list[list[Ledger]]:
    """Trades every path once for each way to choose the agents of the folds.

    When a fold ends its agent hands the account over as it is, with positions, outstanding orders, peak equity, and
    what masks, sizing and monitor remember: the costs of turning one agent's positions into the next one's are paid.

    Args:
      setup: environment and rules of the evaluation.
      policy: of all agents.
      params: of the environments of the folds.
      nets: `[agents, ...]` parameters of the networks.
      plan: folds and paths.
      deciding: for each way to choose, the agent of each fold.

    Returns:
      For each way and each path, the ledger over `plan.test`; NumPy arrays.
    """
    lanes = [(chosen, path) for chosen in deciding for path in plan.paths]
    account, lines = None, []
    decision, axes = setup.config.evaluation.decision, params.fill(None, 0)

    @partial(jax.jit, static_argnames="n_bars", compiler_options=batched_options(setup.devices[0]))
    def trade(net: Params, own: EnvParams, account: Account, first: jax.Array, n_bars: int) -> tuple[Account, Ledger]:
        def one(net: Params, own: EnvParams, account: Account) -> tuple[Account, Ledger]:
            return carry_policy_on(policy, setup.env, net, own, account, first, n_bars, decision, setup.monitor)

        return jax.vmap(one, in_axes=(0, axes, 0))(net, own, account)

    for part in range(len(plan.paths[0])):
        folds = [path[part][0] for _, path in lanes]
        agents = jnp.asarray([chosen[fold] for (chosen, _), fold in zip(lanes, folds, strict=True)])
        test = plan.folds[folds[0]].tests[lanes[0][1][part][1]]
        first = jnp.int32(test.first)
        if account is None:
            one = open_account(setup.env, params.shared, first, setup.monitor)
            account = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(lanes), *x.shape)), one)
            capital = one.portfolio.equity
        net = jax.tree.map(lambda x, agents=agents: jnp.asarray(x)[agents], nets)
        account, found = trade(net, params[folds], account, first, test.n_bars)
        lines.append(jax.device_get(found))
    whole = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *lines)

    def ledger(lane: int) -> Ledger:
        own = jax.tree.map(lambda x: x[lane], whole)
        return jax.device_get(whole_ledger(capital, own, account.dead[lane]))

    n_paths = len(plan.paths)
    return [[ledger(way * n_paths + path) for path in range(n_paths)] for way in range(len(deciding))]
