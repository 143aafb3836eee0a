"""The gate of a walk-forward: in each fold the base is traded unless the agents had shown more before its test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.backtest.agent_account import ensemble_of, rules_of
from jaxppo.backtest.ledger import returns_of
from jaxppo.backtest.shipping import Ship, weighed
from jaxppo.backtest.simulate import simulate_account
from jaxppo.envs.trading.types import EnvParams
from jaxppo.policy.networks.actor_critic import ActorCritic, Params
from jaxppo.ppo.population import batched_options
from jaxppo.run.base import base_policy
from jaxppo.run.setup import Setup
from jaxppo.statistics.evidence import base_risk_aversion, utility_over_base
from jaxppo.walk_forward.concatenated import Lineup
from jaxppo.walk_forward.job import FoldParams
from jaxppo.walk_forward.plan import Plan


def fold_ships(
    setup: Setup,
    network: ActorCritic,
    params: FoldParams,
    nets: Params,
    plan: Plan,
    lineup: Lineup,
    tested: np.ndarray,
) -> list[Ship]:
    """Weighs, for each fold, what the agents had earned over the base before its test.

    The evidence of a fold is what its agents do on its validation, and what the agents of all earlier folds did in
    their tests. A bar that is in both counts once, by the mean of its utilities. Nothing after the first bar of the
    test is looked at.

    Args:
      setup: environment and rules of the evaluation.
      network: encoder and head of all agents.
      params: of the environments of the folds.
      nets: `[agents, ...]` parameters of the networks.
      plan: folds, each with one test, in the order of time.
      lineup: who would trade each fold.
      tested: `[n]` returns over `plan.test` of the account that they trade without a gate.
    """
    validated = _validated(setup, network, params, nets, plan, lineup)
    start = min(fold.train[0].first for fold in plan.folds)
    base = _base_returns(setup, params.shared, start, plan.test.last)
    found = []
    for fold, returns in zip(plan.folds, validated, strict=True):
        trained = np.concatenate([base[part.first - start : part.last - start] for part in fold.train])
        before = np.arange(plan.test.first, fold.tests[0].first)
        bars = np.concatenate([np.arange(fold.validation.first, fold.validation.last), before])
        earned = np.concatenate([returns, tested[: len(before)]])
        utility = utility_over_base(earned, base[bars - start], base_risk_aversion(trained))
        found.append(weighed(setup, mean_by_bar(bars, utility)))
    return found


def mean_by_bar(bars: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Means of the values of each bar, in the order of time.

    Args:
      bars: `[n]` int, each bar any number of times.
      values: `[n]`.

    Returns:
      One value for each bar that occurs.
    """
    _, place, count = np.unique(bars, return_inverse=True, return_counts=True)
    return np.bincount(place, weights=values) / count


def gate_figures(ships: Sequence[Ship]) -> dict[str, Any]:
    """The entry of summary.json: `t`, `share` and who traded each fold, and how many the agents did.

    Args:
      ships: of the folds.
    """
    folds = [{"fold": fold, **ship.figures} for fold, ship in enumerate(ships)]
    return {"folds": folds, "traded": sum(ship.share > 0.0 for ship in ships)}


def _validated(
    setup: Setup, network: ActorCritic, params: FoldParams, nets: Params, plan: Plan, lineup: Lineup
) -> np.ndarray:
    """Returns `[folds, n]` of the agents of each fold on its validation."""
    n_bars, axes, rules = plan.folds[0].validation.n_bars, params.fill(None, 0), rules_of(setup)

    def equity(nets: Params, params: EnvParams, first: jax.Array) -> jax.Array:
        return simulate_account(ensemble_of(setup, network, nets), rules, params, first, n_bars).equity

    who = jnp.asarray(lineup.members)
    first = jnp.asarray([fold.validation.first for fold in plan.folds], jnp.int32)
    every = jax.jit(jax.vmap(equity, in_axes=(0, axes, 0)), compiler_options=batched_options(setup.devices[0]))
    members = jax.tree.map(lambda x: jnp.asarray(x)[who], nets)
    return returns_of(jax.device_get(every(members, params[range(len(plan.folds))], first)))


def _base_returns(setup: Setup, params: EnvParams, first: int, last: int) -> np.ndarray:
    """Returns `[last - first]` of the base in one account through all bars."""
    ledger = simulate_account(base_policy(setup), rules_of(setup), params, jnp.int32(first), last - first)
    return jax.device_get(ledger).returns
