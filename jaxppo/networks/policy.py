"""Actor-critic: an encoder that reads the market once, and a small head that adds the portfolio."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from envs.types import N_ACCOUNT_FEATURES, N_ASSET_FEATURES, Observation
from jaxppo.distributions import MaskedCategorical, SquashedGaussian
from jaxppo.networks.encoder import Encoder, EncoderConfig

N_HINDSIGHT = 2

Params = Any


@dataclasses.dataclass(frozen=True)
class ActionConfig:
    """What the head must parameterise (static).

    Attributes:
      kind: "discrete" (masked categoricals) or "continuous" (Gaussians).
      n_actions: choices of each component; ignored by "continuous".
      low: smallest continuous action.
      high: largest continuous action.
      std: standard deviation of a continuous action before squashing, at the start.
      n_components: components of an action, for each asset where there are assets.
    """

    kind: str
    n_actions: int
    low: float
    high: float
    std: float = 0.6
    n_components: int = 1


class Head(nnx.Module):
    """Per-asset action parameters and one value, from (memory, portfolio); permutation-equivariant over assets.

    The first layer is split: its memory half is computed once per path and bar and shared by the K portfolios.
    """

    def __init__(self, config: EncoderConfig, action: ActionConfig, hindsight: bool, rngs: nnx.Rngs):
        width = config.width
        n_out = action.n_actions if action.kind == "discrete" else action.n_components
        n_portfolio = N_ASSET_FEATURES + N_ACCOUNT_FEATURES
        small = nnx.initializers.orthogonal(0.01)
        self.action = action
        self.memory = nnx.Linear(width, 2 * width, dtype=config.dtype, rngs=rngs)
        self.portfolio = nnx.Linear(n_portfolio, 2 * width, use_bias=False, rngs=rngs)
        self.actor = nnx.Linear(width, n_out, kernel_init=small, rngs=rngs)
        self.critic = nnx.Linear(width, width, rngs=rngs)
        self.value = nnx.Linear(width, 1, kernel_init=nnx.initializers.orthogonal(1.0), rngs=rngs)
        self.hindsight = nnx.Linear(N_HINDSIGHT, width, use_bias=False, rngs=rngs) if hindsight else None
        if action.kind == "continuous":
            self.log_std = nnx.Param(jnp.full((action.n_components,), math.log(action.std), jnp.float32))

    def prepare(self, memory: jax.Array) -> jax.Array:
        """Memory `[..., A, D]` to the half of the first layer that all portfolios share, `[..., A, 2 D]` float32."""
        return self.memory(memory).astype(jnp.float32)

    def __call__(
        self, prepared: jax.Array, seen: Observation, hindsight: jax.Array | None = None
    ) -> tuple[Any, jax.Array]:
        """Action distribution (batch `[..., A]`) and value `[...]`; `prepared` broadcasts against `seen`.

        Several components of an asset lie side by side: batch `[..., A n_components]`.

        `hindsight` `[..., A, 2]` reaches the value alone; a critic that was built for it takes None as nothing ahead.
        """
        account = jnp.broadcast_to(seen.account[..., None, :], (*seen.asset.shape[:-1], seen.account.shape[-1]))
        portfolio = self.portfolio(jnp.concatenate([seen.asset, account], axis=-1))
        hidden = jnp.broadcast_to(prepared, portfolio.shape) + portfolio
        for_actor, for_critic = jnp.split(hidden, 2, axis=-1)
        if hindsight is not None:
            for_critic = for_critic + jnp.broadcast_to(self.hindsight(hindsight), for_critic.shape)
        pooled = jax.nn.gelu(self.critic(jax.nn.gelu(for_critic).mean(axis=-2)))
        value = self.value(pooled)[..., 0]
        out = self.actor(jax.nn.gelu(for_actor))
        if self.action.kind == "discrete":
            return MaskedCategorical(out, seen.mask), value
        log_std = jnp.broadcast_to(jnp.reshape(self.log_std[...], (1,) * (out.ndim - 1) + (-1,)), out.shape)
        mean, log_std = (x.reshape(*x.shape[:-2], -1) for x in (out, log_std))
        return SquashedGaussian(mean, log_std, self.action.low, self.action.high), value


class ActorCritic(nnx.Module):
    """Encoder and head."""

    def __init__(self, config: EncoderConfig, action: ActionConfig, hindsight: bool, rngs: nnx.Rngs):
        self.encoder = Encoder(config, rngs)
        self.head = Head(config, action, hindsight, rngs)


@dataclasses.dataclass(frozen=True)
class Policy:
    """Pure functions of the network's parameters; build with `make_policy`.

    Attributes:
      graph: static structure of the module.
      context: bars of features that one memory depends on.
      hindsight: whether the critic can read the market's future (in training).
      value_layer: path of the critic's last layer in the parameters.
    """

    graph: nnx.GraphDef
    context: int
    hindsight: bool = False
    value_layer: tuple[str, ...] = ("head", "value")

    def encode(self, params: Params, features: jax.Array, listed: jax.Array) -> jax.Array:
        """Features `[P, context - 1 + S, A, F]` and listing `[P, context - 1 + S, A]` to what the head needs.

        Returns:
          `[P, S, A, 2 D]` float32.
        """
        model = nnx.merge(self.graph, params)
        return model.head.prepare(model.encoder(features, listed))

    def act(
        self, params: Params, prepared: jax.Array, seen: Observation, hindsight: jax.Array | None = None
    ) -> tuple[Any, jax.Array]:
        """Distribution over actions and value `[...]`, from `encode`'s result and observations of any batch shape."""
        return nnx.merge(self.graph, params).head(prepared, seen, hindsight)

    def distribution(self, params: Params, prepared: jax.Array, seen: Observation) -> Any:
        """Distribution over actions alone."""
        return self.act(params, prepared, seen)[0]


def make_policy(
    config: EncoderConfig, action: ActionConfig, key: jax.Array, *, hindsight: bool = False
) -> tuple[Policy, Params]:
    """Builds the network. Consumes `key`.

    Args:
      config: shape of the encoder.
      action: what the head parameterises.
      key: randomness of the first parameters.
      hindsight: whether the critic can read the market's future.

    Returns:
      The policy and its initial parameters, a nested dict of float32 arrays.
    """
    graph, state = nnx.split(ActorCritic(config, action, hindsight, nnx.Rngs(key)), nnx.Param)
    return Policy(graph, config.context, hindsight), nnx.to_pure_dict(state)
