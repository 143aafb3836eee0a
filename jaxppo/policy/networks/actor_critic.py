"""Actor-critic network: an encoder that reads the market once, and a small head that adds the portfolio."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from flax import nnx

from jaxppo.envs.trading.types import Observation
from jaxppo.policy.networks.config import EncoderConfig
from jaxppo.policy.networks.dropout import draw_masks
from jaxppo.policy.networks.encoder import Bars, Cache, Encoder
from jaxppo.policy.networks.head import ActionConfig, Head
from jaxppo.policy.networks.linear import FeaturesAsTheyAre, LinearHead
from jaxppo.policy.networks.own_encoder import OwnEncoder

Params = Any
"""Parameters of a network: a nested dict of float32 arrays."""


OF_CRITIC = ("inputs", "critic", "value", "hindsight")
"""Layers of heads that only the critic reads; not every head has all of them."""


class ActorCriticModule(nnx.Module):
    """Encoder and head."""

    def __init__(self, config: EncoderConfig, action: ActionConfig, hindsight: bool, quantiles: int, rngs: nnx.Rngs):
        linear = config.own is None and config.kind == "linear"
        encoder = Encoder if config.own is None else OwnEncoder
        self.encoder = (FeaturesAsTheyAre if linear else encoder)(config, rngs)
        self.head = (LinearHead if linear else Head)(config, action, hindsight, rngs, quantiles)


@dataclasses.dataclass(frozen=True)
class ActorCritic:
    """Pure functions of the parameters of an actor-critic network, built by `make_actor_critic`.

    Attributes:
      graph: static structure of the module.
      context: bars of features that one memory depends on.
      dropout_shape: places where units can be dropped, and units at each.
      hindsight: whether the critic can read the market's future (in training).
      quantiles: N of the critic; 1 for a value that is one number.
      value_layer: path of the critic's last layer in the parameters.
      critic_layers: paths of the layers that only the critic reads, those that there are.
    """

    graph: nnx.GraphDef
    context: int
    dropout_shape: tuple[int, int]
    hindsight: bool = False
    quantiles: int = 1
    value_layer: tuple[str, ...] = ("head", "value")
    critic_layers: tuple[tuple[str, ...], ...] = tuple(("head", name) for name in OF_CRITIC)

    def encode(self, params: Params, bars: Bars, masks: jax.Array | None = None) -> jax.Array:
        """Encodes the last S of `context - 1 + S` bars for the head.

        Args:
          params: of the network.
          bars: of P paths.
          masks: `[P, ...]` from `draw_masks`, in training; None drops nothing.

        Returns:
          `[P, S, A, ...]` in the compute dtype.
        """
        model = nnx.merge(self.graph, params)
        memory = model.encoder(bars, masks)
        return model.head.prepare(memory, bars.listed[:, -memory.shape[1] :])

    def draw_masks(self, key: jax.Array, rate: jax.Array) -> jax.Array:
        """Draws the dropout masks of one path for one iteration. Consumes `key`.

        Args:
          key: randomness of the path.
          rate: `[]` in [0, 1), share of the units that is dropped.
        """
        return draw_masks(key, rate, *self.dropout_shape)

    def start(self, params: Params, n_paths: int, n_assets: int) -> Cache:
        """Creates an empty cache for `step`.

        Args:
          params: of the network.
          n_paths: P.
          n_assets: A.
        """
        return nnx.merge(self.graph, params).encoder.start(n_paths, n_assets)

    def step(self, params: Params, cache: Cache, bars: Bars) -> tuple[Cache, jax.Array]:
        """Computes `encode` bar by bar, at a cost that does not depend on the history.

        Args:
          params: of the network.
          cache: from `start` or the bar before.
          bars: the next bar of each path, `T = 1`.

        Returns:
          The next cache, and `[P, A, ...]` in the compute dtype, from bar number `context` on equal to `encode`.
        """
        model = nnx.merge(self.graph, params)
        cache, memory = model.encoder.step(cache, bars)
        return cache, model.head.prepare(memory, bars.listed[:, 0])

    def act(
        self, params: Params, prepared: jax.Array, observation: Observation, hindsight: jax.Array | None = None
    ) -> tuple[Any, jax.Array]:
        """Computes the distribution over actions and the value.

        Args:
          params: of the network.
          prepared: from `encode` or `step`; broadcasts against the batch shape `[...]` of the observations.
          observation: of the portfolios.
          hindsight: `[..., A, 2]` future of the market, for the critic alone; None for nothing ahead.

        Returns:
          Distribution `[...]`, and values `[...]` or, of a quantile critic, `[..., N]` in any order.
        """
        return nnx.merge(self.graph, params).head(prepared, observation, hindsight)

    def distribution(self, params: Params, prepared: jax.Array, observation: Observation) -> Any:
        """Computes the distribution over actions alone.

        Args:
          params: of the network.
          prepared: from `encode` or `step`.
          observation: of the portfolios.
        """
        return self.act(params, prepared, observation)[0]


def make_actor_critic(
    config: EncoderConfig, action: ActionConfig, key: jax.Array, *, hindsight: bool = False, quantiles: int = 1
) -> tuple[ActorCritic, Params]:
    """Builds the network and draws its first parameters. Consumes `key`.

    Example, of 3 memories for each of 4 assets:
      >>> import jax, jax.numpy as jnp
      >>> from jaxppo.policy.networks import ActionConfig, Bars, EncoderConfig, make_actor_critic
      >>> shape = {"width": 16, "layers": 1, "heads": 2, "window": 8, "expansion": 2, "asset_attention": True}
      >>> encoder = EncoderConfig("transformer", groups=(2, 3), dtype=jnp.float32, **shape)
      >>> network, params = make_actor_critic(encoder, ActionConfig("discrete", 5, -1.0, 1.0), jax.random.key(0))
      >>> n_bars = network.context - 1 + 3
      >>> listed = jnp.ones((1, n_bars, 4), bool)
      >>> bars = Bars(jnp.zeros((1, n_bars, 4, 5)), listed, jnp.full((1, n_bars), 86_400.0))
      >>> network.encode(params, bars).shape
      (1, 3, 4, 32)

    Args:
      config: shape of the encoder.
      action: what the head parameterises.
      key: randomness of the first parameters.
      hindsight: whether the critic can read the market's future.
      quantiles: quantiles of the return that the critic gives; 1 for the mean.

    Returns:
      The network's pure functions and its first parameters.
    """
    graph, state = nnx.split(ActorCriticModule(config, action, hindsight, quantiles, nnx.Rngs(key)), nnx.Param)
    shape = (config.dropout_places, config.width)
    return ActorCritic(graph, config.context, shape, hindsight, quantiles), nnx.to_pure_dict(state)
