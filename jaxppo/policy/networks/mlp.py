"""Actor-critic perceptron for environments whose observation is an array."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxppo.policy.distributions import ClippedGaussian, MaskedCategorical
from jaxppo.policy.networks.actor_critic import Params
from jaxppo.policy.networks.head import ActionConfig


@dataclasses.dataclass(frozen=True)
class MLPConfig:
    """Shape of the network (static).

    Attributes:
      n_inputs: length of the flattened observation.
      n_hindsight: length of what the critic reads of the future in training; 0 for none.
      width: hidden units per layer.
      layers: hidden layers, >= 1.
      quantiles: quantiles of the return that the critic gives; 1 for the mean.
    """

    n_inputs: int
    n_hindsight: int
    width: int
    layers: int
    quantiles: int = 1


class Perceptron(nnx.Module):
    """Tanh layers, then a linear map of the last layer and of the input: linear functions need no hidden layer."""

    def __init__(self, n_inputs: int, n_outputs: int, config: MLPConfig, scale: float, rngs: nnx.Rngs):
        sizes = [n_inputs] + [config.width] * config.layers
        wide, last = nnx.initializers.orthogonal(2.0**0.5), nnx.initializers.orthogonal(scale)
        self.hidden = nnx.List([nnx.Linear(a, b, kernel_init=wide, rngs=rngs) for a, b in itertools.pairwise(sizes)])
        self.out = nnx.Linear(config.width + n_inputs, n_outputs, kernel_init=last, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., n_inputs]` to `[..., n_outputs]`."""
        first, *others = self.hidden
        width = first.out_features
        through, past = jnp.split(self.out.kernel[...], [width])
        # One product reads the input for the first layer and for the output; its gradient too has two axes only.
        rows = x.reshape(-1, x.shape[-1]) @ jnp.concatenate([first.kernel[...], past], axis=1)
        hidden = jnp.tanh(rows[:, :width] + first.bias[...][None])
        for layer in others:
            hidden = jnp.tanh(layer(hidden))
        out = hidden @ through + rows[:, width:] + self.out.bias[...][None]
        return out.reshape(*x.shape[:-1], -1)


class MLPActorCriticModule(nnx.Module):
    """Actor and critic as two perceptrons that share nothing."""

    def __init__(self, config: MLPConfig, action: ActionConfig, rngs: nnx.Rngs):
        n_outputs = action.n_components * (action.n_actions if action.kind == "discrete" else 1)
        self.action = action
        self.n_hindsight, self.quantiles = config.n_hindsight, config.quantiles
        self.actor = Perceptron(config.n_inputs, n_outputs, config, 0.01, rngs)
        self.critic = Perceptron(config.n_inputs + config.n_hindsight, config.quantiles, config, 1.0, rngs)
        if action.kind == "continuous":
            self.log_std = nnx.Param(jnp.full((action.n_components,), math.log(action.std), jnp.float32))

    def distribution(self, x: jax.Array) -> Any:
        """Distribution over actions `[..., n_components]`, from observations `[..., n_inputs]`."""
        out = self.actor(x)
        if self.action.kind == "discrete":
            logits = out.reshape(*x.shape[:-1], self.action.n_components, self.action.n_actions)
            return MaskedCategorical(logits, jnp.ones(logits.shape, bool))
        log_std = jnp.broadcast_to(jnp.reshape(self.log_std[...], (1,) * (out.ndim - 1) + (-1,)), out.shape)
        return ClippedGaussian(out, log_std, jnp.full_like(out, self.action.low), jnp.full_like(out, self.action.high))

    def value(self, x: jax.Array, hindsight: jax.Array | None) -> jax.Array:
        """Value `[...]`, or `[..., N]` quantiles.

        Args:
          x: `[..., n_inputs]` observations.
          hindsight: `[..., n_hindsight]` what lies ahead; None for nothing.
        """
        if self.n_hindsight:
            ahead = jnp.zeros((*x.shape[:-1], self.n_hindsight)) if hindsight is None else hindsight
            x = jnp.concatenate([x, ahead], axis=-1)
        value = self.critic(x)
        return value[..., 0] if self.quantiles == 1 else value


@dataclasses.dataclass(frozen=True)
class MLPActorCritic:
    """Pure functions of the parameters of an actor-critic perceptron, built by `make_mlp_actor_critic`.

    Attributes:
      graph: static structure of the module.
      hindsight: whether the critic can read the future (in training).
      quantiles: N of the critic; 1 for a value that is one number.
      value_layer: path of the critic's last layer in the parameters.
      critic_layers: paths of the layers that only the critic reads.
    """

    graph: nnx.GraphDef
    hindsight: bool
    quantiles: int = 1
    value_layer: tuple[str, ...] = ("critic", "out")
    critic_layers: tuple[tuple[str, ...], ...] = (("critic",),)

    def distribution(self, params: Params, observation: jax.Array) -> Any:
        """Computes the distribution over actions.

        Args:
          params: of the network.
          observation: `[..., n_inputs]`.
        """
        return nnx.merge(self.graph, params).distribution(observation)

    def value(self, params: Params, observation: jax.Array, hindsight: jax.Array | None = None) -> jax.Array:
        """Computes the value `[...]`, or `[..., N]` quantiles in any order, network units.

        Args:
          params: of the network.
          observation: `[..., n_inputs]`.
          hindsight: `[..., n_hindsight]` what lies ahead, for a critic that reads it; None for nothing.
        """
        return nnx.merge(self.graph, params).value(observation, hindsight)


def make_mlp_actor_critic(config: MLPConfig, action: ActionConfig, key: jax.Array) -> tuple[MLPActorCritic, Params]:
    """Builds the network and draws its first parameters. Consumes `key`.

    Args:
      config: shape of the network.
      action: what the actor parameterises.
      key: randomness of the first parameters.

    Returns:
      The network's pure functions and its first parameters.
    """
    graph, state = nnx.split(MLPActorCriticModule(config, action, nnx.Rngs(key)), nnx.Param)
    return MLPActorCritic(graph, config.n_hindsight > 0, config.quantiles), nnx.to_pure_dict(state)
