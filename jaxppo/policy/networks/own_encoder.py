"""The encoder around a network of a user's own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx, struct

from jaxppo.policy.networks.config import EncoderConfig
from jaxppo.policy.networks.dropout import drop
from jaxppo.policy.networks.embedding import GroupEmbedding
from jaxppo.policy.networks.encoder import Bars


class OwnCache(struct.PyTreeNode):
    """What is remembered from bar to bar.

    Attributes:
      tokens: `[P, context - 1, A, D]` of the latest bars.
      listed: `[P, context - 1, A]` bool.
    """

    tokens: jax.Array
    listed: jax.Array


class OwnEncoder(nnx.Module):
    """The embedding of the feature groups, a network of a user's own, and a last normalisation."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        assert config.own is not None, "there is a network to stand around"
        self.config = config
        self.embedding = GroupEmbedding(config.groups, config.width, config.dtype, rngs)
        self.body = config.own.make(rngs=rngs)
        self.norm = nnx.LayerNorm(config.width, dtype=config.dtype, rngs=rngs)

    def __call__(self, bars: Bars, masks: jax.Array | None = None) -> jax.Array:
        """Memory `[P, S, A, D]` of the last S bars.

        Args:
          bars: `context - 1 + S` bars of P paths.
          masks: `[P, 1, D]` of dropout; None drops nothing.
        """
        return self._remembered(drop(self.embedding(bars.features), masks, 0), bars.listed)

    def start(self, n_paths: int, n_assets: int) -> OwnCache:
        """Creates the cache before the first bar.

        Args:
          n_paths: P.
          n_assets: A.
        """
        shape = (n_paths, self.config.context - 1, n_assets)
        return OwnCache(jnp.zeros((*shape, self.config.width), self.config.dtype), jnp.zeros(shape, bool))

    def step(self, cache: OwnCache, bars: Bars) -> tuple[OwnCache, jax.Array]:
        """Encodes one bar.

        Args:
          cache: from `start` or the bar before.
          bars: the next bar of each path, `T = 1`.

        Returns:
          The next cache, and the memory `[P, A, D]`, from bar number `context` on that of the chunk pass.
        """
        tokens = jnp.concatenate([cache.tokens, self.embedding(bars.features)], axis=1)
        listed = jnp.concatenate([cache.listed, bars.listed], axis=1)
        return OwnCache(tokens[:, 1:], listed[:, 1:]), self._remembered(tokens, listed)[:, 0]

    def _remembered(self, tokens: jax.Array, listed: jax.Array) -> jax.Array:
        return self.norm(self.body(tokens, listed).astype(self.config.dtype))
