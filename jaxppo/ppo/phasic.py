"""Epochs that train the head alone, on an encoding of the market that is computed once.

In the spirit of phasic training: the encoder, nearly all of an update's cost, is trained in the first epochs only.

Reference: Cobbe et al. (2020), Phasic policy gradient. https://arxiv.org/abs/2009.04416
"""

from __future__ import annotations

from typing import Any

import jax
import optax

from jaxppo.config import PPOConfig
from jaxppo.policy.networks.actor_critic import Params
from jaxppo.policy.rollout import Rollout
from jaxppo.ppo.task import Task

HEAD = "head"
"""Part of the parameters that `Task.act` reads."""


def is_phasic(config: PPOConfig) -> bool:
    """Whether some epochs train the head alone."""
    return config.encoder_epochs is not None and config.encoder_epochs < config.epochs


def check_phasic(task: Task, config: PPOConfig) -> None:
    """Refuses epochs of the head alone where they do not fit.

    Args:
      task: what is learned.
      config: hyper-parameters.

    Raises:
      ValueError: more epochs of the encoder than there are, or a network without one.
    """
    if config.encoder_epochs is not None and config.encoder_epochs > config.epochs:
        raise ValueError(f"ppo.encoder_epochs is {config.encoder_epochs}; ppo.epochs allows {config.epochs} at most")
    if config.encoder_epochs is not None and task.encode is None:
        raise ValueError(f"ppo.encoder_epochs is {config.encoder_epochs}, but the network has no encoder; leave it out")


def first_moments(optimiser: optax.GradientTransformation, net: Params, config: PPOConfig) -> Any:
    """State of PPO's optimiser before the first iteration; with epochs of the head alone, one of each kind of epoch.

    Steps that leave the encoder alone would else wear off its moments.

    Args:
      optimiser: gradient to direction.
      net: parameters.
      config: hyper-parameters.
    """
    whole = optimiser.init(net)
    return {"whole": whole, HEAD: optimiser.init(net[HEAD])} if is_phasic(config) else whole


def head_alone(net: Params, task: Task, params: Any, rollout: Rollout, micro_batch: int | None) -> tuple[Task, Rollout]:
    """Task whose parameters are those of the head, and its rollout; the encoder is that of `net`.

    Args:
      net: parameters.
      task: what is learned, with an encoder.
      params: of the environment.
      rollout: of P paths.
      micro_batch: paths that the encoder takes at a time.
    """
    encode, act = task.encode, task.act
    assert encode is not None, "`check_phasic` asks for it"
    assert act is not None, "it comes with `encode`"
    encoded = jax.lax.stop_gradient(encode(net, params, rollout, micro_batch))

    def predict(head: Params, params: Any, rollout: Rollout) -> tuple[Any, jax.Array]:
        inputs, encoded = rollout.inputs
        return act({**net, HEAD: head}, encoded, rollout.replace(inputs=inputs))

    return task._replace(predict=predict), rollout.replace(inputs=(rollout.inputs, encoded))
