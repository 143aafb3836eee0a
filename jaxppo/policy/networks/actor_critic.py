"""Actor-critic: an encoder that reads the market once, and a small head that adds the portfolio."""

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

Params = Any


class ActorCritic(nnx.Module):
    """Encoder and head."""

    def __init__(self, config: EncoderConfig, action: ActionConfig, hindsight: bool, quantiles: int, rngs: nnx.Rngs):
        self.encoder = Encoder(config, rngs)
        self.head = Head(config, action, hindsight, rngs, quantiles)


@dataclasses.dataclass(frozen=True)
class Policy:
    """Pure functions of the network's parameters; build with `make_policy`.

    Attributes:
      graph: static structure of the module.
      context: bars of features that one memory depends on.
      dropout_shape: places where units can be dropped, and units at each.
      hindsight: whether the critic can read the market's future (in training).
      quantiles: N of the critic; 1 for a value that is one number.
      value_layer: path of the critic's last layer in the parameters.
    """

    graph: nnx.GraphDef
    context: int
    dropout_shape: tuple[int, int]
    hindsight: bool = False
    quantiles: int = 1
    value_layer: tuple[str, ...] = ("head", "value")

    def encode(self, params: Params, bars: Bars, masks: jax.Array | None = None) -> jax.Array:
        """What the head needs of the last S of `context - 1 + S` bars.

        Args:
          params: the network.
          bars: of P paths.
          masks: `[P, ...]` from `draw_masks`, in training; None drops nothing.

        Returns:
          `[P, S, A, ...]` float32.
        """
        model = nnx.merge(self.graph, params)
        memory = model.encoder(bars, masks)
        return model.head.prepare(memory, bars.listed[:, -memory.shape[1] :])

    def draw_masks(self, key: jax.Array, rate: jax.Array) -> jax.Array:
        """Dropout masks of one path for one iteration, from a rate `[]` in [0, 1). Consumes `key`."""
        return draw_masks(key, rate, *self.dropout_shape)

    def start(self, params: Params, n_paths: int, n_assets: int) -> Cache:
        """An empty cache for `step`."""
        return nnx.merge(self.graph, params).encoder.start(n_paths, n_assets)

    def step(self, params: Params, cache: Cache, bars: Bars) -> tuple[Cache, jax.Array]:
        """`encode` bar by bar, at a cost that does not depend on the history.

        Args:
          params: the network.
          cache: from `start` or the bar before.
          bars: the next bar of each path, `T = 1`.

        Returns:
          The next cache, and `[P, A, ...]` float32, from bar number `context` on that of the chunk pass.
        """
        model = nnx.merge(self.graph, params)
        cache, memory = model.encoder.step(cache, bars)
        return cache, model.head.prepare(memory, bars.listed[:, 0])

    def act(
        self, params: Params, prepared: jax.Array, seen: Observation, hindsight: jax.Array | None = None
    ) -> tuple[Any, jax.Array]:
        """Distribution over actions and value, from `encode`'s result and observations of any batch shape `[...]`.

        The value is `[...]`, or `[..., N]` quantiles in any order.
        """
        return nnx.merge(self.graph, params).head(prepared, seen, hindsight)

    def distribution(self, params: Params, prepared: jax.Array, seen: Observation) -> Any:
        """Distribution over actions alone."""
        return self.act(params, prepared, seen)[0]


def make_policy(
    config: EncoderConfig, action: ActionConfig, key: jax.Array, *, hindsight: bool = False, quantiles: int = 1
) -> tuple[Policy, Params]:
    """Builds the network. Consumes `key`.

    Args:
      config: shape of the encoder.
      action: what the head parameterises.
      key: randomness of the first parameters.
      hindsight: whether the critic can read the market's future.
      quantiles: of the return, that the critic gives; 1 for its mean.

    Returns:
      The policy and its initial parameters, a nested dict of float32 arrays.
    """
    graph, state = nnx.split(ActorCritic(config, action, hindsight, quantiles, nnx.Rngs(key)), nnx.Param)
    shape = (config.dropout_places, config.width)
    return Policy(graph, config.context, shape, hindsight, quantiles), nnx.to_pure_dict(state)
