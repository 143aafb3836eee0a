"""The perceptron policy of Stable-Baselines3 as pure functions of one observation; `vmap` over observations."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.envs.market.precision import matmul
from jaxppo.migration.spaces import Space

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "Tanh": jnp.tanh,
    "ReLU": jax.nn.relu,
    "LeakyReLU": lambda x: jax.nn.leaky_relu(x, 0.01),
    "ELU": jax.nn.elu,
    "SELU": jax.nn.selu,
    "CELU": jax.nn.celu,
    "GELU": lambda x: jax.nn.gelu(x, approximate=False),
    "SiLU": jax.nn.silu,
    "Mish": jax.nn.mish,
    "Sigmoid": jax.nn.sigmoid,
    "Softplus": jax.nn.softplus,
    "Softsign": jax.nn.soft_sign,
    "ReLU6": jax.nn.relu6,
    "Hardtanh": jax.nn.hard_tanh,
    "Hardswish": jax.nn.hard_swish,
}
"""Activations of torch with their default arguments, by the name of the class."""
MASKED = -1e8
"""Logit of a masked action, as in sb3-contrib: if all are masked, the first is taken."""


class Dense(NamedTuple):
    """A layer `x @ weight + bias`.

    Attributes:
      weight: `[inputs, outputs]`.
      bias: `[outputs]`.
    """

    weight: jax.Array
    bias: jax.Array


class Scale(NamedTuple):
    """Normalisation of an observation, `clip((x - mean) scale, -clip, clip)`.

    Attributes:
      mean: `[n_inputs]` float32.
      rest: `[n_inputs]` what rounding took off the mean: large means of small spreads keep their digits.
      scale: `[n_inputs]` one over the standard deviation.
      clip: `[]`.
    """

    mean: jax.Array
    rest: jax.Array
    scale: jax.Array
    clip: jax.Array

    def part(self, rows: slice) -> Scale:
        """That of some inputs."""
        return Scale(self.mean[rows], self.rest[rows], self.scale[rows], self.clip)


class Params(NamedTuple):
    """Numbers of a checkpoint.

    Attributes:
      actor: layers from the inputs to logits, or to the mean of a continuous action.
      critic: layers from the inputs to the value `[1]`.
      scale: normalisation of observations; `()` for none.
      low: smallest continuous action, in the action's shape; `[0]` for others.
      high: largest, likewise.
    """

    actor: tuple[Dense, ...]
    critic: tuple[Dense, ...]
    scale: Scale | tuple[()]
    low: jax.Array
    high: jax.Array


class Network(NamedTuple):
    """What is static about a checkpoint.

    Attributes:
      observation: space of observations.
      action: space of actions.
      activation: name, a key of `ACTIVATIONS`.
      maskable: whether it was trained with action masks.
      squashed: whether continuous actions are squashed into their bounds by tanh, instead of clipped to them.
    """

    observation: Space
    action: Space
    activation: str
    maskable: bool
    squashed: bool

    @property
    def n_inputs(self) -> int:
        """Numbers that the first layer reads: categories count one each."""
        return sum(self.observation.sizes) or self.observation.n_values

    @property
    def choices(self) -> tuple[int, ...]:
        """Categories of each part of an action; `()` where there are none."""
        binary = self.action.kind == "MultiBinary" and self.maskable
        return (2,) * self.action.n_values if binary else self.action.sizes

    @property
    def n_outputs(self) -> int:
        """Numbers that the last layer of the actor has."""
        return sum(self.choices) or self.action.n_values


def act(network: Network, params: Params, observation: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """The deterministic action for one observation.

    Args:
      network: static part.
      params: numbers.
      observation: in the shape of its space.
      mask: `[n_outputs]` bool, allowed actions; None for all.

    Returns:
      In the shape of the action space: int32, or float32 for Box.
    """
    first = matmul(inputs_of(network, params, observation), params.actor[0].weight)
    return decide(network, params, first, mask)


def value(network: Network, params: Params, observation: jax.Array) -> jax.Array:
    """The critic's value `[]` of one observation, discounted rewards as they were trained on.

    Args:
      network: static part.
      params: numbers.
      observation: in the shape of its space.
    """
    first = matmul(inputs_of(network, params, observation), params.critic[0].weight)
    return _forward(network, params.critic, first)[0]


def inputs_of(network: Network, params: Params, observation: jax.Array) -> jax.Array:
    """What the first layer reads of one observation, `[n_inputs]`: normalised, or one number per category."""
    space = network.observation
    if not space.sizes:
        return scaled(params.scale, jnp.ravel(observation).astype(jnp.float32))
    parts = jnp.reshape(observation, (len(space.sizes),)).astype(jnp.int32)
    return jnp.concatenate([jax.nn.one_hot(part, size) for part, size in zip(parts, space.sizes, strict=True)])


def scaled(scale: Scale | tuple[()], x: jax.Array) -> jax.Array:
    """Normalised numbers.

    Args:
      scale: that of them; `()` leaves them as they are.
      x: `[n]`.
    """
    if not isinstance(scale, Scale):
        return x
    return jnp.clip((x - scale.mean - scale.rest) * scale.scale, -scale.clip, scale.clip)


def decide(network: Network, params: Params, first: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The deterministic action, from what the actor's first layer makes of the inputs.

    Args:
      network: static part.
      params: numbers.
      first: `[outputs of the first layer]`, without the bias.
      mask: `[n_outputs]` bool, allowed actions; None for all.
    """
    found, action = _forward(network, params.actor, first), network.action
    if network.choices:
        if mask is not None:
            found = jnp.where(mask, found, MASKED)
        return jnp.reshape(_most_probable(found, network.choices), action.shape)
    if action.kind == "MultiBinary":
        return jnp.reshape(jnp.round(jax.nn.sigmoid(found)), action.shape).astype(jnp.int32)
    found = jnp.reshape(found, action.shape)
    if not network.squashed:
        return jnp.clip(found, params.low, params.high)
    return params.low + 0.5 * (jnp.tanh(found) + 1.0) * (params.high - params.low)


def _forward(network: Network, layers: tuple[Dense, ...], first: jax.Array) -> jax.Array:
    """What the layers make of `first`, which the first of them has begun."""
    activation = ACTIVATIONS[network.activation]
    x = first + layers[0].bias
    for layer in layers[1:]:
        x = matmul(activation(x), layer.weight) + layer.bias
    return x


def _most_probable(logits: jax.Array, choices: tuple[int, ...]) -> jax.Array:
    """The first largest of each group of logits, `[groups]` int32."""
    ends = np.cumsum(choices)
    index = np.arange(max(choices))[None] + (ends - choices)[:, None]
    inside = index < ends[:, None]
    groups = jnp.where(inside, logits[np.where(inside, index, 0)], -jnp.inf)
    return jnp.argmax(groups, axis=-1).astype(jnp.int32)
