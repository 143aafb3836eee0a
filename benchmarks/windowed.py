"""The usual design, as the baseline: a window of bars is encoded anew for every environment step."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxppo.policy.networks.actor_critic import ActorCritic, Params
from jaxppo.policy.networks.blocks import FeedForward
from jaxppo.policy.networks.config import EncoderConfig
from jaxppo.policy.networks.embedding import GroupEmbedding
from jaxppo.policy.networks.encoder import Bars
from jaxppo.policy.networks.head import ActionConfig, Head
from jaxppo.policy.networks.positions import rotate, rotations


class CausalAttention(nnx.Module):
    """Pre-norm causal attention over a whole window, with the parameters of the sliding-window layer.

    `last_only` computes the query of the last bar alone.
    """

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        self.heads = config.heads
        self.norm = nnx.LayerNorm(config.width, dtype=config.dtype, rngs=rngs)
        self.query = nnx.Linear(config.width, config.width, use_bias=False, dtype=config.dtype, rngs=rngs)
        self.key_value = nnx.Linear(config.width, 2 * config.width, use_bias=False, dtype=config.dtype, rngs=rngs)
        self.out = nnx.Linear(config.width, config.width, dtype=config.dtype, rngs=rngs)

    def __call__(self, x: jax.Array, last_only: bool) -> jax.Array:
        """`[B, W, D]` to `[B, W, D]`, or `[B, 1, D]` with `last_only`."""
        window = x.shape[1]
        start = window - 1 if last_only else 0
        normed = self.norm(x)
        turn = rotations(jnp.ones(window), x.shape[-1] // self.heads // 2)
        key, value = jnp.split(self.key_value(normed), 2, axis=-1)
        query = rotate(self._heads(self.query(normed[:, start:])), turn.rows(start))
        key, value = rotate(self._heads(key), turn), self._heads(value)
        logits = jnp.einsum("bhqd,bhkd->bhqk", query * query.shape[-1] ** -0.5, key)
        mask = np.tril(np.ones((window, window), bool))[None, None, start:]
        weights = jax.nn.softmax(jnp.where(mask, logits, jnp.finfo(logits.dtype).min), axis=-1)
        mixed = jnp.einsum("bhqk,bhkd->bhqd", weights, value).swapaxes(1, 2)
        return x[:, start:] + self.out(mixed.reshape(*mixed.shape[:2], -1))

    def _heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:2], self.heads, -1).swapaxes(1, 2)


class WindowEncoder(nnx.Module):
    """Encodes one window into the memory of its last bar, for single-asset markets."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        self.embedding = GroupEmbedding(config.groups, config.width, config.dtype, rngs)
        self.attention = nnx.List([CausalAttention(config, rngs) for _ in range(config.layers)])
        self.feed_forward = nnx.List([FeedForward(config, rngs) for _ in range(config.layers)])
        self.norm = nnx.LayerNorm(config.width, dtype=config.dtype, rngs=rngs)

    def __call__(self, windows: jax.Array, last_query: bool) -> jax.Array:
        """`[B, W, F]` to `[B, D]`."""
        x = self.embedding(windows)
        for i, (attention, feed_forward) in enumerate(zip(self.attention, self.feed_forward, strict=True)):
            x = feed_forward(attention(x, last_query and i == len(self.attention) - 1))
        return self.norm(x[:, -1])


class WindowActorCritic(nnx.Module):
    """Window encoder and the library's head."""

    def __init__(self, config: EncoderConfig, action: ActionConfig, rngs: nnx.Rngs):
        self.encoder = WindowEncoder(config, rngs)
        self.head = Head(config, action, False, rngs)


@dataclasses.dataclass(frozen=True)
class WindowPolicy:
    """Drop-in for `jaxppo.policy.networks.ActorCritic`: same learner, same update, one window per decision.

    Attributes:
      graph: static structure.
      context: window length W.
      last_query: the best form: the last layer computes one query.
    """

    graph: nnx.GraphDef
    context: int
    last_query: bool
    hindsight: bool = False
    value_layer: tuple[str, ...] = ActorCritic.value_layer
    critic_layers: tuple[tuple[str, ...], ...] = ActorCritic.critic_layers

    def encode(self, params: Params, bars: Bars, masks: jax.Array | None = None) -> jax.Array:
        """Bars `[P, W - 1 + S]` of one asset to `[P, S, 1, 2 D]`, every window on its own, without dropout."""
        del masks
        features = bars.features
        model = nnx.merge(self.graph, params)
        n_paths, length = features.shape[:2]
        n_steps = length - self.context + 1
        index = np.arange(n_steps)[:, None] + np.arange(self.context)[None, :]
        windows = features[:, index, 0].reshape(n_paths * n_steps, self.context, -1)
        memory = model.encoder(windows, self.last_query).reshape(n_paths, n_steps, 1, -1)
        return model.head.prepare(memory, bars.listed[:, -n_steps:])

    def draw_masks(self, key: jax.Array, rate: jax.Array) -> jax.Array:
        """Nothing, since there is no dropout."""
        del key, rate
        return jnp.zeros(0)

    def act(self, params: Params, prepared: jax.Array, seen, hindsight: jax.Array | None = None):
        """See `jaxppo.policy.networks.ActorCritic.act`."""
        return nnx.merge(self.graph, params).head(prepared, seen, hindsight)

    def distribution(self, params: Params, prepared: jax.Array, seen):
        """See `jaxppo.policy.networks.ActorCritic.distribution`."""
        return self.act(params, prepared, seen)[0]


def make_window_policy(
    config: EncoderConfig, action: ActionConfig, key: jax.Array, *, last_query: bool
) -> tuple[WindowPolicy, Params]:
    """Builds the baseline with as many parameters as `make_actor_critic`. Consumes `key`."""
    graph, state = nnx.split(WindowActorCritic(config, action, nnx.Rngs(key)), nnx.Param)
    return WindowPolicy(graph, config.window, last_query), nnx.to_pure_dict(state)
