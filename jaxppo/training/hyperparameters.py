"""Hyper-parameters as arguments of the training iteration, so that agents which differ in them share one program."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import jax

from jaxppo.config import Config
from jaxppo.policy.networks.actor_critic import ActorCritic
from jaxppo.ppo.learner import Learner, data_mesh, make_learner
from jaxppo.ppo.trading_task import trading_task
from jaxppo.run.objectives import make_reward_shaping
from jaxppo.run.setup import Setup, dropout_rate, pathwise_of
from jaxppo.run.transforms import make_rewards


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with other values of some keys; they may be traced arrays, and are not checked.

    Args:
      config: of a run.
      values: by dotted key, those of `jaxppo.config.sweep.TRACED`: `ppo.gamma`, or `rewards.KIND.weight` for the weight
        of the penalty of that kind.
    """
    for key, value in values.items():
        section, *path = key.split(".")
        if section == "rewards":
            kind, name = path
            found: Any = tuple(_with_key(item, kind, name, value) for item in config.rewards)
        else:
            found = getattr(config, section).model_copy(update={path[0]: value})
        config = config.model_copy(update={section: found})
    return config


def _with_key(item: Any, kind: str, name: str, value: Any) -> Any:
    """An item of `rewards` with another value of a key, if it is of the kind."""
    return item.model_copy(update={kind: item.values.model_copy(update={name: value})}) if item.kind == kind else item


def learner_with(setup: Setup, network: ActorCritic, values: Mapping[str, Any], device: jax.Device) -> Learner:
    """The learner of a trading run on one device, with other values of some hyper-parameters.

    Within a program the values may be its arguments: `Learner.step` is then a function of them.

    Args:
      setup: of the run.
      network: encoder and head.
      values: by dotted key, see `with_values`.
      device: that it is compiled for.
    """
    config, env = with_values(setup.config, values), setup.env
    own = {key.removeprefix("ppo."): value for key, value in values.items() if key.startswith("ppo.")}
    if any(key.startswith("rewards.") for key in values):
        env = copy.copy(env)
        env.rewards = make_rewards(config.rewards, setup.periods_per_year, setup.moments)
    ppo = setup.ppo.model_copy(update=own)
    task = trading_task(network, env, ppo, dropout_rate(config), setup.monitor)
    shaping = make_reward_shaping(config, setup.periods_per_year)
    return make_learner(task, ppo, data_mesh([device]), shaping, pathwise_of(config))
