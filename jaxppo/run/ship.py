"""What the gate of a run has decided, and the policy that trades by it."""

from __future__ import annotations

import json
import pathlib
from typing import Any, NamedTuple

import jax

from jaxppo.config import Config
from jaxppo.errors import ConfigError
from jaxppo.policy.agent import agent
from jaxppo.policy.ensemble import ensemble
from jaxppo.policy.networks.actor_critic import ActorCritic, Params
from jaxppo.policy.protocol import Policy
from jaxppo.run.base import base_policy
from jaxppo.run.setup import Setup
from jaxppo.statistics.evidence import evidence_share


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


def is_gated(config: Config) -> bool:
    """Whether the base is traded unless the agent has shown more.

    Args:
      config: of a run.
    """
    return config.evaluation.ship == "base_unless"


def recorded_ship(folder: pathlib.Path, config: Config, fold: int | None = None) -> Ship:
    """What the evidence before the test of a run, as its summary has it, lets trade.

    Args:
      folder: of the run, or of a walk-forward.
      config: says how it is weighed.
      fold: of a walk-forward, whose evidence is that before its own test.

    Raises:
      ConfigError: it says nothing of it.
    """
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        found = summary["out_of_sample"] if fold is None else summary["walk_forward"]
        found = found["ship"] if fold is None else found["ship"]["folds"][fold]
        if not 0.0 <= float(found["share"]) <= 1.0:
            raise ValueError(f"share is {found['share']}")
        keys = config.evaluation
        return Ship(float(found["t"]), evidence_share(float(found["t"]), keys.ship_t, keys.shrink))
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        raise ConfigError(
            f"evaluation.ship is base_unless, but {folder / 'summary.json'} does not say what the evidence was; "
            "outside its own periods only a finished run that was trained with evaluation.ship base_unless can be gated"
        ) from None


def gate_of(folder: pathlib.Path, config: Config, fold: int | None = None) -> Ship | None:
    """What the gate of a run decided before its test, whatever it trades now; None for a run without a gate.

    Args:
      folder: of the run, or of a walk-forward.
      config: its configuration.
      fold: of a walk-forward.

    Raises:
      ConfigError: it has a gate, and its summary does not say what that decided.
    """
    return recorded_ship(folder, config, fold) if is_gated(config) else None


def shipped_policy(
    setup: Setup, network: ActorCritic, net: Params, ship: Ship | None, *, platform: str | None = None
) -> Policy:
    """The policy that trades as much of the agent as the evidence warrants, under the rules of its run.

    Args:
      setup: of the run.
      network: encoder and head.
      net: their parameters.
      ship: the evidence; None for a run without a gate, whose agent trades.
      platform: that it runs on, such as "cpu"; None for that of JAX's default device.
    """
    env, decision, share = setup.env, setup.config.evaluation.decision, 1.0 if ship is None else ship.share
    if share == 1.0:
        return agent(network, net, env, decision, platform=platform)
    if share == 0.0:
        return base_policy(setup)
    return ensemble(network, jax.tree.map(lambda x: x[None], net), env, decision, share=share, platform=platform)
