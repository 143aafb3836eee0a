"""Encoders: feature table in, memory of every bar out. They read the market and never the position."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from jaxppo.networks.attention import attention_over_assets, rotate, sliding_window_attention


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Shape of the encoder (static).

    Attributes:
      kind: "transformer", or "mlp" which reads the current bar only.
      groups: width of each feature group, in column order; each has its own embedding.
      width: D, model width.
      layers: number of blocks, >= 1.
      heads: attention heads; must divide `width`.
      window: bars that one layer of attention sees; ignored by "mlp".
      expansion: hidden width of the feed-forward part, in multiples of `width`.
      asset_attention: attend across assets at each bar.
      dtype: compute dtype; parameters are float32.
    """

    kind: str
    groups: tuple[int, ...]
    width: int
    layers: int
    heads: int
    window: int
    expansion: int
    asset_attention: bool
    dtype: jnp.dtype

    def __post_init__(self):
        if self.kind not in ("transformer", "mlp"):
            raise ValueError(f"policy kind is {self.kind!r}; it must be 'transformer' or 'mlp'")
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} must be a multiple of twice the number of heads ({self.heads})")

    @property
    def context(self) -> int:
        """Bars that one memory depends on: the receptive field `layers * (window - 1) + 1`."""
        return self.layers * (self.window - 1) + 1 if self.kind == "transformer" else 1


class GroupEmbedding(nnx.Module):
    """One projection per feature group, summed, then normalised.

    Biases start at random: an asset that is not listed yet has all-zero features, and normalising an all-zero embedding
    would multiply its gradient by `epsilon ** -0.5` in every layer.
    """

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        self.groups = config.groups
        bias = nnx.initializers.normal(len(config.groups) ** -0.5)
        self.projections = nnx.List(
            [nnx.Linear(size, config.width, dtype=config.dtype, bias_init=bias, rngs=rngs) for size in config.groups]
        )
        self.norm = nnx.LayerNorm(config.width, dtype=config.dtype, rngs=rngs)

    def __call__(self, features: jax.Array) -> jax.Array:
        """`[..., F]` features to `[..., D]`."""
        out, start = 0.0, 0
        for size, project in zip(self.groups, self.projections, strict=True):
            out = out + project(features[..., start : start + size])
            start += size
        return self.norm(out)


class FeedForward(nnx.Module):
    """Pre-norm two-layer perceptron with a residual."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        hidden = config.expansion * config.width
        self.norm = nnx.LayerNorm(config.width, dtype=config.dtype, rngs=rngs)
        self.up = nnx.Linear(config.width, hidden, dtype=config.dtype, rngs=rngs)
        self.down = nnx.Linear(hidden, config.width, dtype=config.dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., D]` to `[..., D]`."""
        return x + self.down(jax.nn.gelu(self.up(self.norm(x))))


class TimeAttention(nnx.Module):
    """Pre-norm causal sliding-window attention over bars; drops the `window - 1` bars that only serve as past."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        self.window, self.heads = config.window, config.heads
        self.norm = nnx.LayerNorm(config.width, dtype=config.dtype, rngs=rngs)
        self.query = nnx.Linear(config.width, config.width, use_bias=False, dtype=config.dtype, rngs=rngs)
        self.key_value = nnx.Linear(config.width, 2 * config.width, use_bias=False, dtype=config.dtype, rngs=rngs)
        self.out = nnx.Linear(config.width, config.width, dtype=config.dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, S + window - 1, D]` to `[B, S, D]`."""
        past = self.window - 1
        normed = self.norm(x)
        position = jnp.arange(x.shape[1], dtype=jnp.float32)
        query = _to_heads(self.query(normed[:, past:]), self.heads)
        key, value = jnp.split(self.key_value(normed), 2, axis=-1)
        mixed = sliding_window_attention(
            rotate(query, position[past:]),
            rotate(_to_heads(key, self.heads), position),
            _to_heads(value, self.heads),
            self.window,
        )
        return x[:, past:] + self.out(_from_heads(mixed))


class AssetAttention(nnx.Module):
    """Pre-norm attention across assets at each bar; permutation-equivariant."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        self.heads = config.heads
        self.norm = nnx.LayerNorm(config.width, dtype=config.dtype, rngs=rngs)
        self.query_key_value = nnx.Linear(config.width, 3 * config.width, use_bias=False, dtype=config.dtype, rngs=rngs)
        self.out = nnx.Linear(config.width, config.width, dtype=config.dtype, rngs=rngs)

    def __call__(self, x: jax.Array, present: jax.Array) -> jax.Array:
        """`[P, A, S, D]` with `present` `[P, S, A]` to `[P, A, S, D]`."""
        n_paths, n_assets, length, width = x.shape
        by_bar = self.query_key_value(self.norm(x)).swapaxes(1, 2).reshape(n_paths * length, n_assets, 3 * width)
        query, key, value = (
            _to_heads(part, self.heads).reshape(n_paths, length, self.heads, n_assets, -1)
            for part in jnp.split(by_bar, 3, axis=-1)
        )
        mixed = attention_over_assets(query, key, value, present)
        merged = _from_heads(mixed.reshape(n_paths * length, self.heads, n_assets, -1))
        return x + self.out(merged.reshape(n_paths, length, n_assets, width).swapaxes(1, 2))


class Block(nnx.Module):
    """Attention over bars, over assets, feed-forward."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        self.time = TimeAttention(config, rngs)
        self.assets = AssetAttention(config, rngs) if config.asset_attention else None
        self.feed_forward = FeedForward(config, rngs)

    def __call__(self, x: jax.Array, present: jax.Array) -> jax.Array:
        """`[P, A, S + window - 1, D]` with `present` `[P, S + window - 1, A]` to `[P, A, S, D]`."""
        n_paths, n_assets, length, width = x.shape
        x = self.time(x.reshape(n_paths * n_assets, length, width))
        x = x.reshape(n_paths, n_assets, -1, width)
        if self.assets is not None and n_assets > 1:
            x = self.assets(x, present[:, -x.shape[2] :])
        return self.feed_forward(x)


class Encoder(nnx.Module):
    """Reads a chunk of the feature table once.

    `[P, context - 1 + S, A, F]` becomes `[P, S, A, D]`: the memory of bar t depends on exactly the bars
    `t - context + 1 .. t`, wherever in a chunk t falls, so training, backtest and live trading see the same memory.
    """

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        self.embedding = GroupEmbedding(config, rngs)
        block = Block if config.kind == "transformer" else _BarBlock
        self.blocks = nnx.List([block(config, rngs) for _ in range(config.layers)])
        self.norm = nnx.LayerNorm(config.width, dtype=config.dtype, rngs=rngs)

    def __call__(self, features: jax.Array, present: jax.Array) -> jax.Array:
        """See the class; `present` is `[P, context - 1 + S, A]` bool, assets that are listed."""
        x = self.embedding(features).swapaxes(1, 2)
        for block in self.blocks:
            x = block(x, present)
            present = present[:, -x.shape[2] :]
        return self.norm(x).swapaxes(1, 2)


class _BarBlock(nnx.Module):
    """Block of the "mlp" encoder: no attention at all."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        self.feed_forward = FeedForward(config, rngs)

    def __call__(self, x: jax.Array, present: jax.Array) -> jax.Array:
        del present
        return self.feed_forward(x)


def _to_heads(x: jax.Array, heads: int) -> jax.Array:
    """`[B, S, heads * D]` to `[B, heads, S, D]`."""
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def _from_heads(x: jax.Array) -> jax.Array:
    """`[B, heads, S, D]` to `[B, S, heads * D]`."""
    x = x.swapaxes(1, 2)
    return x.reshape(*x.shape[:2], -1)
