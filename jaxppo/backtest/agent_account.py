"""The agent of a run as a policy, and the rules under which its account trades."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.backtest.account import AccountRules
from jaxppo.backtest.ledger import Ledger
from jaxppo.backtest.mask_attribution import MaskEffect, mask_effects
from jaxppo.backtest.simulate import simulate_account
from jaxppo.policy.agent import agent
from jaxppo.policy.ensemble import ensemble
from jaxppo.policy.networks.actor_critic import ActorCritic, Params
from jaxppo.policy.protocol import Policy
from jaxppo.run.setup import Setup


def rules_of(setup: Setup) -> AccountRules:
    """What accounts of a run trade under."""
    return AccountRules(setup.env, setup.periods_per_year, setup.monitor)


def agent_of(setup: Setup, network: ActorCritic, net: Params) -> Policy:
    """The agent of a run as a policy, without its randomness.

    Args:
      setup: of the run.
      network: encoder and head.
      net: their parameters.
    """
    return agent(network, net, setup.env, setup.config.evaluation.decision, platform=setup.devices[0].platform)


def ensemble_of(setup: Setup, network: ActorCritic, nets: Params, share: float | jax.Array = 1.0) -> Policy:
    """The mean of several agents of a run as a policy, without their randomness.

    Args:
      setup: of the run.
      network: encoder and head of all of them.
      nets: `[n, ...]` their parameters.
      share: `[]` of their targets that is traded, in [0, 1].
    """
    return ensemble(
        network, nets, setup.env, setup.config.evaluation.decision, share=share, platform=setup.devices[0].platform
    )


def trade(setup: Setup, policy: Policy, period: str) -> Ledger:
    """Trades a period of a run by a policy, under the rules of the run.

    Args:
      setup: of the run.
      policy: who decides.
      period: of the setup.
    """
    where = setup.periods[period]
    return simulate_account(policy, rules_of(setup), setup.params, jnp.int32(where.first), where.n_bars)


def effects_of(setup: Setup, policy: Policy, period: str) -> dict[str, MaskEffect]:
    """What each mask does to a policy over a period.

    Args:
      setup: of the run.
      policy: who decides.
      period: of the setup.
    """
    where = setup.periods[period]
    regimes = None if setup.regimes is None else np.asarray(setup.regimes)
    return mask_effects(policy, rules_of(setup), setup.params, where.first, where.n_bars, regimes)


def limits_of(setup: Setup, network: ActorCritic, net: Params, period: str) -> dict[str, MaskEffect]:
    """What each mask does to the agent over a period.

    Args:
      setup: of the run.
      network: encoder and head.
      net: their parameters.
      period: of the setup.
    """
    return effects_of(setup, agent_of(setup, network, net), period)
