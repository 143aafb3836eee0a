"""Residual blocks of the encoder: attention over bars, over assets, feed-forward; on a chunk, or bar by bar."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct
from jax.ad_checkpoint import checkpoint_name

from jaxppo.policy.networks.attention import (
    Attended,
    attention_over_assets,
    dilated_attention,
    fused_window_attention,
    logits_by_lag,
    masked_attention,
    merge,
    present_or_itself,
    sliding_window_attention,
)
from jaxppo.policy.networks.config import EncoderConfig
from jaxppo.policy.networks.dropout import drop
from jaxppo.policy.networks.positions import LagBias, Rotation, make_lag_bias, rotate


class Ring(struct.PyTreeNode):
    """Keys and values of the latest R bars of B assets (of all paths); bar number n is in slot `n % R`.

    Attributes:
      key: `[B, H, R, D]`, rotated.
      value: `[B, H, R, D]`.
    """

    key: jax.Array
    value: jax.Array

    def with_bar(self, key: jax.Array, value: jax.Array, count: jax.Array) -> Ring:
        """Overwrites the oldest bar.

        Args:
          key: `[B, H, 1, D]` of the new bar, rotated.
          value: `[B, H, 1, D]`.
          count: `[]` int32, number of the new bar.
        """
        slot = count % self.key.shape[-2]
        put = jax.lax.dynamic_update_slice_in_dim
        return Ring(put(self.key, key, slot, axis=2), put(self.value, value, slot, axis=2))

    def attend(
        self, query: jax.Array, count: jax.Array, dilation: int, window: int, first: int, lag_bias: jax.Array | None
    ) -> Attended:
        """Attention of one bar to itself and to `window - 1` bars at multiples of `dilation` before it.

        Args:
          query: `[B, H, 1, D]` of the bar.
          count: `[]` int32, number of the bar.
          dilation: bars between two keys, >= 1.
          window: keys that the bar sees, >= 1.
          first: number of the first bar that has a key.
          lag_bias: `[H, window]` added to the logits; None for no bias.
        """
        bar = count - dilation * jnp.arange(window)
        slot = bar % self.key.shape[-2]
        key, value = (jnp.take(x, slot, axis=-2) for x in (self.key, self.value))
        return masked_attention(query, key, value, bar >= first, None if lag_bias is None else lag_bias[:, None])


class FeedForward(nnx.Module):
    """Pre-norm two-layer perceptron with a residual."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        hidden = config.expansion * config.width
        self.norm = nnx.LayerNorm(config.width, dtype=config.dtype, rngs=rngs)
        self.up = nnx.Linear(config.width, hidden, dtype=config.dtype, rngs=rngs)
        self.down = nnx.Linear(hidden, config.width, dtype=config.dtype, rngs=rngs)

    def __call__(self, x: jax.Array, masks: jax.Array | None = None, place: int = 0) -> jax.Array:
        """`[P, ..., D]` to `[P, ..., D]`; `masks` and `place` as in `drop`."""
        return x + drop(self.down(jax.nn.gelu(self.up(self.norm(x)))), masks, place)


class TimeAttention(nnx.Module):
    """Pre-norm causal attention over bars with a residual; one softmax over a window of bars and over coarser levels.

    A chunk loses its first `window - 1` bars, which are past alone.
    """

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        self.window, self.heads, self.fused = config.window, config.heads, config.attention == "cudnn"
        self.pools, self.coarse_window = config.coarse_pools, config.coarse_window
        linear = {"use_bias": False, "dtype": config.dtype, "rngs": rngs}
        self.norm = nnx.LayerNorm(config.width, dtype=config.dtype, rngs=rngs)
        self.query = nnx.Linear(config.width, config.width, **linear)
        self.key_value = nnx.Linear(config.width, 2 * config.width, **linear)
        self.out = nnx.Linear(config.width, config.width, dtype=config.dtype, rngs=rngs)
        self.bias = make_lag_bias(config.positions, config.heads, config.window)
        self.coarse_key_values = nnx.List([nnx.Linear(config.width, 2 * config.width, **linear) for _ in self.pools])
        self.coarse_biases = nnx.List(
            [make_lag_bias(config.positions, config.heads, config.coarse_window) for _ in self.pools]
        )

    def __call__(
        self, x: jax.Array, rotary: Rotation | None, tokens: tuple[jax.Array, ...], masks: jax.Array | None, place: int
    ) -> jax.Array:
        """Attention of a chunk.

        Args:
          x: `[P, A, S + window - 1, D]`.
          rotary: rotations of as many bars or more, up to the last bar; None for no rotary positions.
          tokens: of each coarser level, `[P, A, T, D]` up to the last bar.
          masks: `[P, n_places, D]` of dropout; None drops nothing.
          place: number of this place of dropout.

        Returns:
          `[P, A, S, D]`.
        """
        query, (key, value), coarse = self._project(x, rotary, tokens)
        if self.fused:
            mixed = fused_window_attention(query, key, value, self.window)
        else:
            parts = [sliding_window_attention(query, key, value, self.window, lag_bias=_values(self.bias))]
            for pool, pair, bias in zip(self.pools, coarse, self.coarse_biases, strict=True):
                parts.append(dilated_attention(query, *pair, self.coarse_window, pool, lag_bias=_values(bias)))
            mixed = merge(parts)
        return x[:, :, self.window - 1 :] + drop(self.out(_merged_heads(mixed, x.shape)), masks, place)

    def weights(
        self, x: jax.Array, rotary: Rotation | None, tokens: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Attention weights of a chunk.

        Args:
          x: `[P, A, S + window - 1, D]`.
          rotary: rotations up to the last bar, or None.
          tokens: of each coarser level, `[P, A, T, D]`.

        Returns:
          `[P, A, H, S, W]` by lag, and the same of each coarser level; all together sum to 1.
        """
        query, (key, _), coarse = self._project(x, rotary, tokens)
        logits = [logits_by_lag(query, key, self.window, lag_bias=_values(self.bias))]
        for pool, (key, _), bias in zip(self.pools, coarse, self.coarse_biases, strict=True):
            logits.append(logits_by_lag(query, key, self.coarse_window, pool, lag_bias=_values(bias)))
        weights = jax.nn.softmax(jnp.concatenate(logits, axis=-1), axis=-1)
        weights = weights.reshape(*x.shape[:2], *weights.shape[1:])
        ends = self.window + self.coarse_window * np.arange(len(self.pools))
        window, *levels = jnp.split(weights, ends, axis=-1)
        return window, tuple(levels)

    def start(self, n_paths: int, n_assets: int, dtype: jnp.dtype) -> tuple[Ring, ...]:
        """Creates empty rings: of the bars, and of each coarser level.

        Args:
          n_paths: P.
          n_assets: A.
          dtype: compute dtype.
        """
        sizes = (self.window, *(pool * (self.coarse_window - 1) + 1 for pool in self.pools))
        width = self.query.out_features // self.heads
        shapes = [(n_paths * n_assets, self.heads, size, width) for size in sizes]
        return tuple(Ring(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for shape in shapes)

    def step(
        self,
        rings: tuple[Ring, ...],
        count: jax.Array,
        x: jax.Array,
        rotary: Rotation | None,
        tokens: tuple[jax.Array, ...],
    ) -> tuple[tuple[Ring, ...], jax.Array]:
        """Attention of one bar.

        Args:
          rings: from `start` or the bar before.
          count: `[]` int32, number of this bar since the start.
          x: `[P, A, 1, D]`.
          rotary: rotation of the bar, or None.
          tokens: of each coarser level, `[P, A, 1, D]`.

        Returns:
          The rings with this bar, and `[P, A, 1, D]`.
        """
        normed = self.norm(x)
        query = _rotated(self._heads(self.query(normed)), rotary)
        fine = rings[0].with_bar(*self._key_value(self.key_value, normed, rotary), count)
        parts = [fine.attend(query, count, 1, self.window, 0, _values(self.bias))]
        coarse = []
        for i, pool in enumerate(self.pools):
            ring = rings[i + 1].with_bar(*self._key_value(self.coarse_key_values[i], tokens[i], rotary), count)
            # A coarser token exists once `pool` bars do.
            parts.append(ring.attend(query, count, pool, self.coarse_window, pool - 1, _values(self.coarse_biases[i])))
            coarse.append(ring)
        return (fine, *coarse), x + self.out(_merged_heads(merge(parts), x.shape))

    def _project(
        self, x: jax.Array, rotary: Rotation | None, tokens: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array], list[tuple[jax.Array, jax.Array]]]:
        """Queries of a chunk, the keys and values of its bars, and those of each coarser level."""
        normed = self.norm(x)
        query = _rotated(self._heads(self.query(normed[:, :, self.window - 1 :])), rotary)
        coarse = []
        for pool, project, rows in zip(self.pools, self.coarse_key_values, tokens, strict=True):
            n_rows = query.shape[-2] + pool * (self.coarse_window - 1)
            coarse.append(self._key_value(project, rows[:, :, -n_rows:], rotary))
        return query, self._key_value(self.key_value, normed, rotary), coarse

    def _key_value(self, project: nnx.Linear, x: jax.Array, rotary: Rotation | None) -> tuple[jax.Array, jax.Array]:
        key, value = jnp.split(project(x), 2, axis=-1)
        return _rotated(self._heads(key), rotary), self._heads(value)

    def _heads(self, x: jax.Array) -> jax.Array:
        """`[P, A, T, H * D]` to `[P * A, H, T, D]`."""
        return x.reshape(-1, x.shape[2], self.heads, x.shape[3] // self.heads).swapaxes(1, 2)


class AssetAttention(nnx.Module):
    """Pre-norm attention across assets at each bar with a residual; permutation-equivariant."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        self.heads = config.heads
        self.norm = nnx.LayerNorm(config.width, dtype=config.dtype, rngs=rngs)
        self.query_key_value = nnx.Linear(config.width, 3 * config.width, use_bias=False, dtype=config.dtype, rngs=rngs)
        self.out = nnx.Linear(config.width, config.width, dtype=config.dtype, rngs=rngs)

    def __call__(self, x: jax.Array, present: jax.Array, masks: jax.Array | None = None, place: int = 0) -> jax.Array:
        """`[P, A, S, D]` with `present` `[P, S, A]` bool to `[P, A, S, D]`; `masks` and `place` as in `drop`."""
        n_paths, n_assets, length, width = x.shape
        mixed = attention_over_assets(*self._project(x), present).swapaxes(2, 3)
        merged = mixed.reshape(n_paths, length, n_assets, width).swapaxes(1, 2)
        return x + drop(self.out(merged), masks, place)

    def weights(self, x: jax.Array, present: jax.Array) -> jax.Array:
        """Attention weights between assets.

        Args:
          x: `[P, A, S, D]`.
          present: `[P, S, A]` bool.

        Returns:
          `[P, S, H, A, A]`; the last axis, of the assets attended to, sums to 1.
        """
        query, key, _ = self._project(x)
        scaled = query * query.shape[-1] ** -0.5
        logits = jnp.einsum("...qd,...kd->...qk", scaled, key, preferred_element_type=jnp.float32)
        return jax.nn.softmax(jnp.where(present_or_itself(present), logits, jnp.finfo(jnp.float32).min), axis=-1)

    def _project(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries, keys and values of `[P, A, S, D]`, each `[P, S, H, A, D / H]`."""
        n_paths, n_assets, length, _ = x.shape
        by_bar = self.query_key_value(self.norm(x)).swapaxes(1, 2)
        shape = (n_paths, length, n_assets, self.heads, -1)
        query, key, value = (part.reshape(shape).swapaxes(2, 3) for part in jnp.split(by_bar, 3, axis=-1))
        return query, key, value


class Block(nnx.Module):
    """Residual block: attention over bars, attention over assets, feed-forward."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        self.time = TimeAttention(config, rngs)
        self.assets = AssetAttention(config, rngs) if config.asset_attention else None
        self.feed_forward = FeedForward(config, rngs)

    def __call__(
        self,
        x: jax.Array,
        present: jax.Array,
        rotary: Rotation | None,
        tokens: tuple[jax.Array, ...],
        masks: jax.Array | None,
        place: int,
    ) -> jax.Array:
        """`[P, A, S + window - 1, D]` with `present` `[P, T, A]` up to the last bar to `[P, A, S, D]`.

        The other arguments are as in `TimeAttention`.
        """
        x = checkpoint_name(self.time(x, rotary, tokens, masks, place), "time_attention")
        if self.assets is not None and x.shape[1] > 1:
            x = self.assets(x, present[:, -x.shape[2] :], masks, place + 1)
            x = checkpoint_name(x, "asset_attention")
        return self.feed_forward(x, masks, place + 2)

    def step(
        self,
        rings: tuple[Ring, ...],
        count: jax.Array,
        x: jax.Array,
        present: jax.Array,
        rotary: Rotation | None,
        tokens: tuple[jax.Array, ...],
    ) -> tuple[tuple[Ring, ...], jax.Array]:
        """Runs the block on one bar.

        Args:
          rings: of the attention over bars.
          count: `[]` int32, number of this bar since the start.
          x: `[P, A, 1, D]`.
          present: `[P, 1, A]` bool.
          rotary: rotation of the bar, or None.
          tokens: of each coarser level, `[P, A, 1, D]`.

        Returns:
          The rings with this bar, and `[P, A, 1, D]`.
        """
        rings, x = self.time.step(rings, count, x, rotary, tokens)
        if self.assets is not None and x.shape[1] > 1:
            x = self.assets(x, present)
        return rings, self.feed_forward(x)

    def weights(
        self, x: jax.Array, present: jax.Array, rotary: Rotation | None, tokens: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, tuple[jax.Array, ...], jax.Array | None]:
        """Attention weights of a chunk.

        Args:
          x: `[P, A, S + window - 1, D]`.
          present: `[P, T, A]` bool up to the last bar.
          rotary: rotations up to the last bar, or None.
          tokens: of each coarser level, `[P, A, T, D]`.

        Returns:
          Those of `TimeAttention.weights`, and those of `AssetAttention.weights`, None without attention over assets.
        """
        window, levels = self.time.weights(x, rotary, tokens)
        if self.assets is None or x.shape[1] == 1:
            return window, levels, None
        x = self.time(x, rotary, tokens, None, 0)
        return window, levels, self.assets.weights(x, present[:, -x.shape[2] :])


def _values(bias: LagBias | None) -> jax.Array | None:
    return None if bias is None else bias()


def _rotated(x: jax.Array, rotary: Rotation | None) -> jax.Array:
    """`[B, H, T, D]` rotated by the last T of the rotations `[B, 1, .., D]`."""
    return x if rotary is None else rotate(x, rotary.rows(-x.shape[-2]))


def _merged_heads(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """`[P * A, H, T, D]` to `[P, A, T, H * D]`, where `shape` begins with P and A."""
    x = x.swapaxes(1, 2)
    return x.reshape(*shape[:2], x.shape[1], -1)
