"""Whether the agent or the base trades: the agent has to have earned more, before the test, than luck explains."""

from __future__ import annotations

import json
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxppo.backtest.agent_account import agent_of, ensemble_of, trade
from jaxppo.errors import ConfigError
from jaxppo.policy.networks.actor_critic import ActorCritic, Params
from jaxppo.policy.protocol import Policy
from jaxppo.run.base import base_policy
from jaxppo.run.setup import Setup
from jaxppo.statistics.evidence import base_risk_aversion, evidence_share, mean_t_statistic, utility_over_base


class Ship(NamedTuple):
    """What the evidence before a test says.

    Attributes:
      t: t-statistic of the agent's utility over the base.
      share: of the agent's difference from the base that is traded, in [0, 1].
    """

    t: float
    share: float

    @property
    def figures(self) -> dict[str, Any]:
        """The entry of summary.json: `t`, `share` and `traded`, by whom."""
        return {"t": self.t, "share": self.share, "traded": "agent" if self.share > 0.0 else "base"}

    def sentence(self, threshold: float) -> str:
        """What was traded and why.

        Args:
          threshold: `evaluation.ship_t`.
        """
        found = f"the t-statistic of its utility over the base before the test is {self.t:.2f}"
        if self.share > 0.0:
            part = "" if self.share == 1.0 else f" with {self.share:.0%} of its difference from the base"
            return f"The agent trades{part}: {found}, above {threshold:g}."
        return f"The base is traded in place of the agent: {found}, not above {threshold:g}."


def gated(setup: Setup) -> bool:
    """Whether the base is traded unless the agent has shown more.

    Args:
      setup: of the run.
    """
    return setup.config.evaluation.ship == "base_unless"


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


def recorded_ship(folder: pathlib.Path) -> Ship:
    """What the summary of a run says of the evidence before its test.

    Args:
      folder: of the run.

    Raises:
      ConfigError: it says nothing of it.
    """
    try:
        found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["out_of_sample"]["ship"]
        return Ship(float(found["t"]), float(found["share"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"evaluation.ship is base_unless, but {folder / 'summary.json'} does not say what the evidence was; on "
            "other prices only a run that was trained with evaluation.ship base_unless can be gated"
        ) from None


def shipped(setup: Setup, network: ActorCritic, net: Params, ship: Ship) -> Policy:
    """The policy that trades as much of the agent as the evidence warrants.

    Args:
      setup: of the run.
      network: encoder and head.
      net: their parameters.
      ship: the evidence.
    """
    if ship.share == 1.0:
        return agent_of(setup, network, net)
    return ensemble_of(setup, network, jax.tree.map(lambda x: x[None], net), ship.share)
