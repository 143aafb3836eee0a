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
    present_or_own,
    sliding_window_attention,
)
from jaxppo.policy.networks.config import EncoderConfig
from jaxppo.policy.networks.dropout import drop
from jaxppo.policy.networks.positions import Rotation, make_lag_bias, rotate


@struct.dataclass
class Ring:
    """Keys and values of the latest bars of B assets (of all paths); bar number n is in slot `n % R`.

    Attributes:
      key: `[B, H, R, D]`, rotated.
      value: `[B, H, R, D]`.
    """

    key: jax.Array
    value: jax.Array

    def with_bar(self, key: jax.Array, value: jax.Array, count: jax.Array) -> Ring:
        """Overwrites the oldest bar by bar number `count`, `[B, H, 1, D]`."""
        slot = count % self.key.shape[-2]
        put = jax.lax.dynamic_update_slice_in_dim
        return Ring(put(self.key, key, slot, axis=2), put(self.value, value, slot, axis=2))

    def look_back(
        self, query: jax.Array, count: jax.Array, step: int, window: int, need: int, bias: jax.Array | None
    ) -> Attended:
        """Attention of bar `count` to itself and the `window - 1` bars before it that lie multiples of `step` apart.

        Bars before number `need` do not exist.
        """
        bar = count - step * jnp.arange(window)
        slot = bar % self.key.shape[-2]
        key, value = (jnp.take(x, slot, axis=-2) for x in (self.key, self.value))
        return masked_attention(query, key, value, bar >= need, None if bias is None else bias[:, None])


class FeedForward(nnx.Module):
    """Pre-norm two-layer perceptron with a residual."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        hidden = config.expansion * config.width
        self.norm = nnx.LayerNorm(config.width, dtype=config.dtype, rngs=rngs)
        self.up = nnx.Linear(config.width, hidden, dtype=config.dtype, rngs=rngs)
        self.down = nnx.Linear(hidden, config.width, dtype=config.dtype, rngs=rngs)

    def __call__(self, x: jax.Array, masks: jax.Array | None = None, place: int = 0) -> jax.Array:
        """`[P, ..., D]` to `[P, ..., D]`."""
        return x + drop(self.down(jax.nn.gelu(self.up(self.norm(x)))), masks, place)


class TimeAttention(nnx.Module):
    """Pre-norm causal attention over bars with a residual; one softmax over a window of bars and over coarser levels.

    A chunk loses the `window - 1` bars that only serve as past.
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
        self, x: jax.Array, turn: Rotation | None, tokens: tuple[jax.Array, ...], masks: jax.Array | None, place: int
    ) -> jax.Array:
        """A chunk.

        Args:
          x: `[P, A, S + window - 1, D]`.
          turn: rotations of as many bars or more, the last one that of the last bar; None for no rotary positions.
          tokens: of each coarser level, `[P, A, T, D]` up to the last bar.
          masks: of dropout, see `drop`.
          place: number of this place for `drop`.

        Returns:
          `[P, A, S, D]`.
        """
        query, (key, value), coarse = self._project(x, turn, tokens)
        if self.fused:
            mixed = fused_window_attention(query, key, value, self.window)
        else:
            parts = [sliding_window_attention(query, key, value, self.window, lag_bias=_of(self.bias))]
            for pool, pair, bias in zip(self.pools, coarse, self.coarse_biases, strict=True):
                parts.append(dilated_attention(query, *pair, self.coarse_window, pool, lag_bias=_of(bias)))
            mixed = merge(parts)
        return x[:, :, self.window - 1 :] + drop(self.out(_merged_heads(mixed, x.shape)), masks, place)

    def weights(
        self, x: jax.Array, turn: Rotation | None, tokens: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """What a chunk attends to: weights `[P, A, H, S, W]` by lag, and of each coarser level, summing to 1."""
        query, (key, _), coarse = self._project(x, turn, tokens)
        logits = [logits_by_lag(query, key, self.window, lag_bias=_of(self.bias))]
        for pool, (key, _), bias in zip(self.pools, coarse, self.coarse_biases, strict=True):
            logits.append(logits_by_lag(query, key, self.coarse_window, pool, lag_bias=_of(bias)))
        weights = jax.nn.softmax(jnp.concatenate(logits, axis=-1), axis=-1)
        weights = weights.reshape(*x.shape[:2], *weights.shape[1:])
        ends = self.window + self.coarse_window * np.arange(len(self.pools))
        window, *levels = jnp.split(weights, ends, axis=-1)
        return window, tuple(levels)

    def start(self, n_paths: int, n_assets: int, dtype: jnp.dtype) -> tuple[Ring, ...]:
        """Empty rings: of the bars, and of each coarser level."""
        sizes = (self.window, *(pool * (self.coarse_window - 1) + 1 for pool in self.pools))
        width = self.query.out_features // self.heads
        shapes = [(n_paths * n_assets, self.heads, size, width) for size in sizes]
        return tuple(Ring(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for shape in shapes)

    def step(
        self,
        rings: tuple[Ring, ...],
        count: jax.Array,
        x: jax.Array,
        turn: Rotation | None,
        tokens: tuple[jax.Array, ...],
    ) -> tuple[tuple[Ring, ...], jax.Array]:
        """One bar.

        Args:
          rings: from `start` or the bar before.
          count: `[]` int32, number of this bar since the start.
          x: `[P, A, 1, D]`.
          turn: its rotation.
          tokens: of each coarser level, `[P, A, 1, D]`.
        """
        normed = self.norm(x)
        query = _turned(self._heads(self.query(normed)), turn)
        fine = rings[0].with_bar(*self._key_value(self.key_value, normed, turn), count)
        parts = [fine.look_back(query, count, 1, self.window, 0, _of(self.bias))]
        coarse = []
        for i, pool in enumerate(self.pools):
            ring = rings[i + 1].with_bar(*self._key_value(self.coarse_key_values[i], tokens[i], turn), count)
            bias = _of(self.coarse_biases[i])
            parts.append(ring.look_back(query, count, pool, self.coarse_window, pool - 1, bias))
            coarse.append(ring)
        return (fine, *coarse), x + self.out(_merged_heads(merge(parts), x.shape))

    def _project(
        self, x: jax.Array, turn: Rotation | None, tokens: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array], list[tuple[jax.Array, jax.Array]]]:
        """Queries of a chunk, the keys and values of its bars, and those of each coarser level."""
        normed = self.norm(x)
        query = _turned(self._heads(self.query(normed[:, :, self.window - 1 :])), turn)
        coarse = []
        for pool, project, rows in zip(self.pools, self.coarse_key_values, tokens, strict=True):
            n_rows = query.shape[-2] + pool * (self.coarse_window - 1)
            coarse.append(self._key_value(project, rows[:, :, -n_rows:], turn))
        return query, self._key_value(self.key_value, normed, turn), coarse

    def _key_value(self, project: nnx.Linear, x: jax.Array, turn: Rotation | None) -> tuple[jax.Array, jax.Array]:
        key, value = jnp.split(project(x), 2, axis=-1)
        return _turned(self._heads(key), turn), self._heads(value)

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
        """`[P, A, S, D]` with `present` `[P, S, A]` to `[P, A, S, D]`."""
        n_paths, n_assets, length, width = x.shape
        mixed = attention_over_assets(*self._project(x), present).swapaxes(2, 3)
        merged = mixed.reshape(n_paths, length, n_assets, width).swapaxes(1, 2)
        return x + drop(self.out(merged), masks, place)

    def weights(self, x: jax.Array, present: jax.Array) -> jax.Array:
        """What each asset attends to: `[P, S, H, A, A]`, the last axis sums to 1."""
        query, key, _ = self._project(x)
        scaled = query * query.shape[-1] ** -0.5
        logits = jnp.einsum("...qd,...kd->...qk", scaled, key, preferred_element_type=jnp.float32)
        return jax.nn.softmax(jnp.where(present_or_own(present), logits, jnp.finfo(jnp.float32).min), axis=-1)

    def _project(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries, keys and values of `[P, A, S, D]`, each `[P, S, H, A, D / H]`."""
        n_paths, n_assets, length, _ = x.shape
        by_bar = self.query_key_value(self.norm(x)).swapaxes(1, 2)
        parts = jnp.split(by_bar, 3, axis=-1)
        return tuple(part.reshape(n_paths, length, n_assets, self.heads, -1).swapaxes(2, 3) for part in parts)


class Block(nnx.Module):
    """Attention over bars, over assets, feed-forward."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        self.time = TimeAttention(config, rngs)
        self.assets = AssetAttention(config, rngs) if config.asset_attention else None
        self.feed_forward = FeedForward(config, rngs)

    def __call__(
        self,
        x: jax.Array,
        present: jax.Array,
        turn: Rotation | None,
        tokens: tuple[jax.Array, ...],
        masks: jax.Array | None,
        place: int,
    ) -> jax.Array:
        """`[P, A, S + window - 1, D]` with `present` `[P, T, A]` up to the last bar to `[P, A, S, D]`."""
        x = checkpoint_name(self.time(x, turn, tokens, masks, place), "time_attention")
        if self._across(x):
            x = self.assets(x, present[:, -x.shape[2] :], masks, place + 1)
            x = checkpoint_name(x, "asset_attention")
        return self.feed_forward(x, masks, place + 2)

    def step(
        self,
        rings: tuple[Ring, ...],
        count: jax.Array,
        x: jax.Array,
        present: jax.Array,
        turn: Rotation | None,
        tokens: tuple[jax.Array, ...],
    ) -> tuple[tuple[Ring, ...], jax.Array]:
        """One bar, `[P, A, 1, D]` with `present` `[P, 1, A]`; see `TimeAttention.step`."""
        rings, x = self.time.step(rings, count, x, turn, tokens)
        if self._across(x):
            x = self.assets(x, present)
        return rings, self.feed_forward(x)

    def weights(
        self, x: jax.Array, present: jax.Array, turn: Rotation | None, tokens: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, tuple[jax.Array, ...], jax.Array | None]:
        """What a chunk attends to, see `TimeAttention.weights`, and across assets, see `AssetAttention.weights`."""
        window, levels = self.time.weights(x, turn, tokens)
        x = self.time(x, turn, tokens, None, 0)
        return window, levels, self.assets.weights(x, present[:, -x.shape[2] :]) if self._across(x) else None

    def _across(self, x: jax.Array) -> bool:
        return self.assets is not None and x.shape[1] > 1


def _of(bias: nnx.Module | None) -> jax.Array | None:
    return None if bias is None else bias()


def _turned(x: jax.Array, turn: Rotation | None) -> jax.Array:
    """`[B, H, T, D]` rotated by the last T of `turn` `[B, 1, .., D]`."""
    return x if turn is None else rotate(x, turn.rows(-x.shape[-2]))


def _merged_heads(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """`[P * A, H, T, D]` to `[P, A, T, H * D]`, where `shape` begins with P and A."""
    x = x.swapaxes(1, 2)
    return x.reshape(*shape[:2], x.shape[1], -1)
