"""Whether the agent or the base trades: the agent has to have earned more, before the test, than luck explains."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from jaxppo.backtest.agent_account import agent_of, trade
from jaxppo.policy.networks.actor_critic import ActorCritic, Params
from jaxppo.policy.protocol import Policy
from jaxppo.run.base import base_policy
from jaxppo.run.saved import SavedRun
from jaxppo.run.setup import Setup
from jaxppo.run.ship import Ship, is_gated, recorded_ship, shipped_policy
from jaxppo.statistics.evidence import base_risk_aversion, evidence_share, mean_t_statistic, utility_over_base


def gated(setup: Setup) -> bool:
    """Whether the base is traded unless the agent has shown more.

    Args:
      setup: of the run.
    """
    return is_gated(setup.config)


def weighed(setup: Setup, utility: np.ndarray) -> Ship:
    """Weighs the evidence by the keys of a run.

    Args:
      setup: of the run.
      utility: `[n]` of the agent over the base, per bar.
    """
    config, t = setup.config.evaluation, mean_t_statistic(utility)
    return Ship(t, evidence_share(t, config.ship_t, config.shrink))


def ship_of(setup: Setup, network: ActorCritic, net: Params) -> Ship:
    """Weighs what the agent of a run has earned over the base on its validation.

    Args:
      setup: of the run, with the periods train and validation.
      network: encoder and head.
      net: their parameters.
    """
    base = base_policy(setup)
    risk_aversion = base_risk_aversion(jax.device_get(trade(setup, base, "train")).returns)
    agent, other = (
        jax.device_get(trade(setup, policy, "validation")).returns for policy in (agent_of(setup, network, net), base)
    )
    return weighed(setup, utility_over_base(agent, other, risk_aversion))


def decided(run: SavedRun) -> SavedRun:
    """The run with what its gate decides: by its validation; on other prices, or of a fold, by what its summary says.

    A run without a gate, or whose gate has decided, stays as it is. Nothing of the test period is looked at.

    Args:
      run: from `jaxppo.backtest.load_run`.

    Raises:
      ConfigError: its summary has to say what the evidence was, and does not.
    """
    if run.ship is not None or not gated(run.setup):
        return run
    here = run.fold is None and "validation" in run.setup.periods
    with jax.default_device(run.setup.devices[0]):
        ship = (
            ship_of(run.setup, run.network, run.params)
            if here
            else recorded_ship(run.folder, run.setup.config, run.fold)
        )
    return dataclasses.replace(run, ship=ship)


def shipped(setup: Setup, network: ActorCritic, net: Params, ship: Ship | None) -> Policy:
    """The policy that trades as much of the agent as the evidence warrants, in accounts of its run.

    Args:
      setup: of the run.
      network: encoder and head.
      net: their parameters.
      ship: the evidence; None for a run without a gate, whose agent trades.
    """
    return shipped_policy(setup, network, net, ship, platform=setup.devices[0].platform)


def shipped_of(run: SavedRun) -> Policy:
    """What of a run trades, once its gate has decided.

    Args:
      run: from `decided`.
    """
    return shipped(run.setup, run.network, run.params, run.ship)


def ship_notes(run: SavedRun) -> list[str]:
    """What of a run trades and why, in a sentence; none for a run without a gate.

    Args:
      run: from `decided`.
    """
    return [] if run.ship is None else [run.ship.sentence(run.setup.config.evaluation.ship_t)]
