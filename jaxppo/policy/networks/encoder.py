"""Encoder: from bars of the market to a memory of every bar; it never reads the portfolio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct

from jaxppo.policy.networks.blocks import Block, FeedForward, Ring
from jaxppo.policy.networks.config import DROPOUT_PLACES_OF_A_BLOCK, EncoderConfig
from jaxppo.policy.networks.dropout import drop
from jaxppo.policy.networks.embedding import CoarseToken, GroupEmbedding, pooled
from jaxppo.policy.networks.positions import Rotation, phase_steps, rotation, rotations


class Bars(struct.PyTreeNode):
    """Consecutive bars as the encoder reads them.

    Attributes:
      features: `[P, T, A, F]`, NaN where unknown.
      listed: `[P, T, A]` bool, the asset has had a bar by then.
      seconds: `[P, T]` float32, time since the bar before; that of the first bar does not matter.
    """

    features: jax.Array
    listed: jax.Array
    seconds: jax.Array


class Cache(struct.PyTreeNode):
    """State of the encoder from bar to bar; its size does not depend on how many bars there have been.

    Attributes:
      count: `[]` int32, bars so far.
      phase: `[P, D / 2]` uint32, rotary phases of the last bar.
      tokens: `[P, A, R, D]` fine tokens of the latest bars, as many as the coarsest level pools; bar n is in slot
        `n % R`.
      rings: keys and values of each block.
    """

    count: jax.Array
    phase: jax.Array
    tokens: jax.Array
    rings: tuple[tuple[Ring, ...], ...]


class Encoder(nnx.Module):
    """Encoder of a chunk of bars in one pass, `[P, context - 1 + S, A, F]` to `[P, S, A, D]`.

    The memory of bar t depends on exactly the bars `t - context + 1 .. t`, wherever in a chunk t falls, so training,
    backtest and live trading have the same memory.
    """

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        self.config = config
        self.embedding = GroupEmbedding(config.groups, config.width, config.dtype, rngs)
        pools = config.coarse_pools if config.kind == "transformer" else ()
        self.coarse = nnx.List([CoarseToken(pool, config.width, config.dtype, rngs) for pool in pools])
        block = Block if config.kind == "transformer" else FeedForward
        self.blocks = nnx.List([block(config, rngs) for _ in range(config.layers)])
        self.norm = nnx.LayerNorm(config.width, dtype=config.dtype, rngs=rngs)

    def __call__(self, bars: Bars, masks: jax.Array | None = None) -> jax.Array:
        """Memory `[P, S, A, D]` of the last S bars.

        Args:
          bars: `context - 1 + S` bars of P paths.
          masks: `[P, config.dropout_places, D]` of dropout; None drops nothing.
        """
        config = self.config
        x = drop(self.embedding(bars.features).swapaxes(1, 2), masks, 0)
        if config.kind == "mlp":
            for i, block in enumerate(self.blocks):
                x = block(x, masks, 1 + i * DROPOUT_PLACES_OF_A_BLOCK)
            return self.norm(x).swapaxes(1, 2)
        x, rotary, tokens = self._before_blocks(x, bars)
        for i, block in enumerate(self.blocks):

            def run(x: jax.Array, block: Block = block, place: int = 1 + i * DROPOUT_PLACES_OF_A_BLOCK) -> jax.Array:
                return block(x, bars.listed, rotary, tokens, masks, place)

            x = _rematerialised(run, config.rematerialise)(x)
        return self.norm(x).swapaxes(1, 2)

    def weights(self, bars: Bars) -> list[tuple[jax.Array, tuple[jax.Array, ...], jax.Array | None]]:
        """`Block.weights` of every block; each block has `window - 1` bars less than the one before.

        Raises:
          ValueError: the encoder is a perceptron, which does not attend.
        """
        if self.config.kind != "transformer":
            raise ValueError(f"policy kind is {self.config.kind!r}; only 'transformer' attends to something")
        x, rotary, tokens = self._before_blocks(self.embedding(bars.features).swapaxes(1, 2), bars)
        weights = []
        for block in self.blocks:
            weights.append(block.weights(x, bars.listed, rotary, tokens))
            x = block(x, bars.listed, rotary, tokens, None, 0)
        return weights

    def start(self, n_paths: int, n_assets: int) -> Cache:
        """Creates the cache before the first bar.

        Args:
          n_paths: P.
          n_assets: A.
        """
        config = self.config
        largest = max([1, *(level.pool for level in self.coarse)])
        rings: tuple[tuple[Ring, ...], ...] = ()
        if config.kind == "transformer":
            rings = tuple(block.time.start(n_paths, n_assets, config.dtype) for block in self.blocks)
        return Cache(
            count=jnp.zeros((), jnp.int32),
            phase=jnp.zeros((n_paths, self._n_pairs), jnp.uint32),
            tokens=jnp.zeros((n_paths, n_assets, largest, config.width), config.dtype),
            rings=rings,
        )

    def step(self, cache: Cache, bars: Bars) -> tuple[Cache, jax.Array]:
        """Encodes one bar.

        Args:
          cache: from `start` or the bar before.
          bars: the next bar of each path, `T = 1`.

        Returns:
          The next cache, and the memory `[P, A, D]`, from bar number `context` on equal to that of the chunk pass.
        """
        config = self.config
        x = self.embedding(bars.features).swapaxes(1, 2)
        if config.kind == "mlp":
            for block in self.blocks:
                x = block(x)
            return cache.replace(count=cache.count + 1), self.norm(x)[:, :, 0]
        slots = cache.tokens.shape[2]
        latest = jax.lax.dynamic_update_slice_in_dim(cache.tokens, x, cache.count % slots, axis=2)
        tokens = tuple(level(self._mean(latest, cache.count, level.pool)) for level in self.coarse)
        phase = cache.phase + phase_steps(self._elapsed(bars.seconds[:, 0]), self._n_pairs)
        rotary = _for_assets(rotation(phase[:, None]), x.shape[1]) if self._rotary else None
        rings = []
        for block, ring in zip(self.blocks, cache.rings, strict=True):
            ring, x = block.step(ring, cache.count, x, bars.listed, rotary, tokens)
            rings.append(ring)
        return Cache(cache.count + 1, phase, latest, tuple(rings)), self.norm(x)[:, :, 0]

    def _before_blocks(self, x: jax.Array, bars: Bars) -> tuple[jax.Array, Rotation | None, tuple[jax.Array, ...]]:
        """Fine tokens that the first block reads, rotations and tokens of the coarser levels, from all fine tokens."""
        config = self.config
        tokens = tuple(level(pooled(x, level.pool)) for level in self.coarse)
        rotary = None
        if self._rotary:
            rotary = _for_assets(rotations(self._elapsed(bars.seconds), self._n_pairs), x.shape[1])
        length = x.shape[2] - config.context + 1
        return x[:, :, -(length + config.layers * (config.window - 1)) :], rotary, tokens

    @property
    def _rotary(self) -> bool:
        return self.config.positions in ("rotary", "rotary_rows")

    @property
    def _n_pairs(self) -> int:
        return self.config.width // self.config.heads // 2

    def _elapsed(self, seconds: jax.Array) -> jax.Array:
        """Bars since the bar before."""
        return seconds / self.config.bar_seconds if self.config.positions == "rotary" else jnp.ones_like(seconds)

    def _mean(self, latest: jax.Array, count: jax.Array, pool: int) -> jax.Array:
        """Mean `[P, A, 1, D]` of the last `pool` tokens."""
        slot = (count - jnp.arange(pool - 1, -1, -1)) % latest.shape[2]
        return pooled(jnp.take(latest, slot, axis=2), pool)


def _for_assets(by: Rotation, n_assets: int) -> Rotation:
    """`[P, T, D]` to `[P * A, 1, T, D]`: one rotation for all heads, and for all assets of a path."""
    return Rotation(*(jnp.repeat(x, n_assets, axis=0)[:, None] for x in by))


def _rematerialised(run: Callable[[jax.Array], jax.Array], setting: str) -> Callable[[Any], Any]:
    """`run`, computed again in the backward pass as far as `EncoderConfig.rematerialise` says."""
    if setting == "none":
        return run
    saved = ("time_attention", "asset_attention") if setting == "minimal" else ()
    return jax.checkpoint(run, policy=jax.checkpoint_policies.save_only_these_names(*saved))
