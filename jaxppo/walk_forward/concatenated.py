"""Concatenated out-of-sample accounts of a walk-forward: one account through all tests of a path."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.backtest.account import AccountState, open_account
from jaxppo.backtest.agent_account import agent_of, ensemble_of, rules_of
from jaxppo.backtest.ledger import Ledger, whole_ledger
from jaxppo.backtest.simulate import continue_account
from jaxppo.envs.trading.types import EnvParams
from jaxppo.policy.networks.actor_critic import ActorCritic, Params
from jaxppo.policy.protocol import Policy
from jaxppo.ppo.population import batched_options
from jaxppo.run.setup import Setup
from jaxppo.walk_forward.job import FoldParams
from jaxppo.walk_forward.plan import Plan


class Lineup(NamedTuple):
    """Who trades each fold.

    Attributes:
      members: for each fold, the numbers of the agents whose mean target is traded; as many in every fold.
      shares: for each fold, the share of that target in [0, 1]; None for all of it, by a single agent as it is.
    """

    members: Sequence[Sequence[int]]
    shares: Sequence[float] | None = None

    def share(self, fold: int) -> float:
        """Share of the target that is traded in a fold.

        Args:
          fold: its number.
        """
        return 1.0 if self.shares is None else float(self.shares[fold])


def concatenated_ledgers(
    setup: Setup, network: ActorCritic, params: FoldParams, nets: Params, plan: Plan, lineups: Sequence[Lineup]
) -> list[list[Ledger]]:
    """Trades every path once with each line-up of agents.

    When a fold ends its agents hand the account over as it is, with positions, outstanding orders, peak equity, and
    the state of masks, sizing and monitor: the costs of turning one agent's positions into the next one's are paid.

    Args:
      setup: environment and rules of the evaluation.
      network: encoder and head of all agents.
      params: of the environments of the folds.
      nets: `[agents, ...]` parameters of the networks.
      plan: folds and paths.
      lineups: who trades.

    Returns:
      For each line-up and each path, the ledger over `plan.test`; NumPy arrays.
    """
    alike: dict[tuple[int, bool], list[int]] = {}
    for place, lineup in enumerate(lineups):
        alike.setdefault((len(lineup.members[0]), lineup.shares is None), []).append(place)
    found: dict[int, list[Ledger]] = {}
    for places in alike.values():  # those that one program trades
        ledgers = _traded(setup, network, params, nets, plan, [lineups[place] for place in places])
        found |= dict(zip(places, ledgers, strict=True))
    return [found[place] for place in range(len(lineups))]


def _traded(
    setup: Setup, network: ActorCritic, params: FoldParams, nets: Params, plan: Plan, lineups: Sequence[Lineup]
) -> list[list[Ledger]]:
    """`concatenated_ledgers` of line-ups with as many members each, all of them with shares or none."""
    accounts = [(lineup, path) for lineup in lineups for path in plan.paths]
    rules, axes = rules_of(setup), params.fill(None, 0)
    alone = len(lineups[0].members[0]) == 1 and lineups[0].shares is None

    def policy_of(nets: Params, share: jax.Array) -> Policy:
        if alone:
            return agent_of(setup, network, jax.tree.map(lambda x: x[0], nets))
        return ensemble_of(setup, network, nets, share)

    @partial(jax.jit, static_argnames="n_bars", compiler_options=batched_options(setup.devices[0]))
    def trade(
        nets: Params, share: jax.Array, params: EnvParams, state: AccountState, first: jax.Array, n_bars: int
    ) -> tuple[AccountState, Ledger]:
        def one(nets: Params, share: jax.Array, params: EnvParams, state: AccountState) -> tuple[AccountState, Ledger]:
            return continue_account(policy_of(nets, share), rules, params, state, first, n_bars)

        return jax.vmap(one, in_axes=(0, 0, axes, 0))(nets, share, params, state)

    opened = open_account(policy_of(nets, jnp.ones(())), rules, params.shared, jnp.int32(plan.test.first))
    state = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(accounts), *x.shape)), opened)
    lines = []
    for part, (fold, position) in enumerate(plan.paths[0]):
        test = plan.folds[fold].tests[position]
        folds = [path[part][0] for _, path in accounts]
        who = jnp.asarray([lineup.members[fold] for (lineup, _), fold in zip(accounts, folds, strict=True)])
        shares = [lineup.share(fold) for (lineup, _), fold in zip(accounts, folds, strict=True)]
        members = jax.tree.map(lambda x, who=who: jnp.asarray(x)[who], nets)
        share = jnp.asarray(shares, jnp.float32)
        state, traded = trade(members, share, params[folds], state, jnp.int32(test.first), test.n_bars)
        lines.append(jax.device_get(traded))
    whole = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *lines)
    capital, liquidated = opened.account.portfolio.equity, state.account.liquidated

    def ledger(number: int) -> Ledger:
        rows = jax.tree.map(lambda x: x[number], whole)
        return jax.device_get(whole_ledger(capital, rows, liquidated[number]))

    n_paths = len(plan.paths)
    return [[ledger(number * n_paths + path) for path in range(n_paths)] for number in range(len(lineups))]
