"""Causal sliding-window attention in blocks, and rotary positions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def sliding_window_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, window: int, *, block: int | None = None
) -> jax.Array:
    """Each query attends to its own bar and the `window - 1` bars before it.

    Keys start `window - 1` bars before the first query ("valid" padding), so nothing is padded with an absent past:
    query `i` reads keys `i .. i + window - 1`. Computed in blocks of queries, cost and memory `O(S (window + block))`.

    Args:
      query: `[B, H, S, D]`.
      key: `[B, H, S + window - 1, D]`.
      value: `[B, H, S + window - 1, D]`.
      window: bars that a query sees, >= 1.
      block: queries per block; default: half a window, at least 16.

    Returns:
      `[B, H, S, D]` in the dtype of `value`; the softmax is float32.

    Raises:
      ValueError: the keys do not cover the window of every query.
    """
    length = query.shape[2]
    if key.shape[2] != length + window - 1:
        raise ValueError(f"{length} queries with window {window} need {length + window - 1} keys, not {key.shape[2]}")
    block = max(window // 2, 16) if block is None else block
    if length <= block:
        return _masked_attention(query, key, value, _band(length, key.shape[2], window))
    n_blocks = -(-length // block)
    reach = -(-(window - 1) // block)
    query = _split(query, n_blocks, block)
    key = _overlapping(_split(key, n_blocks + reach, block), n_blocks, reach)
    value = _overlapping(_split(value, n_blocks + reach, block), n_blocks, reach)
    out = _masked_attention(query, key, value, _band(block, (reach + 1) * block, window))
    return out.reshape(*out.shape[:2], n_blocks * block, out.shape[-1])[:, :, :length]


def _band(n_queries: int, n_keys: int, window: int) -> np.ndarray:
    """`[n_queries, n_keys]` bool: key `j` is within the window of query `i`."""
    offset = np.arange(n_keys)[None, :] - np.arange(n_queries)[:, None]
    return (offset >= 0) & (offset < window)


def _split(x: jax.Array, n_blocks: int, block: int) -> jax.Array:
    """`[B, H, S, D]` to `[B, H, n_blocks, block, D]`, zeros at the end (masked by the band)."""
    pad = n_blocks * block - x.shape[2]
    if pad < 0:
        x = x[:, :, : n_blocks * block]
    padded = jnp.pad(x, ((0, 0), (0, 0), (0, max(pad, 0)), (0, 0)))
    return padded.reshape(*x.shape[:2], n_blocks, block, x.shape[-1])


def _overlapping(x: jax.Array, n_blocks: int, reach: int) -> jax.Array:
    """Concatenates each block with the `reach` blocks after it: `[B, H, n_blocks, (reach + 1) block, D]`."""
    return jnp.concatenate([x[:, :, i : i + n_blocks] for i in range(reach + 1)], axis=3)


def _masked_attention(query: jax.Array, key: jax.Array, value: jax.Array, mask: np.ndarray | jax.Array) -> jax.Array:
    """Softmax attention over the last two axes; `mask` broadcasts to `[..., Q, K]`, every query has a key."""
    scale = query.shape[-1] ** -0.5
    logits = jnp.einsum("...qd,...kd->...qk", query * scale, key, preferred_element_type=jnp.float32)
    mask = jnp.asarray(mask).reshape((1,) * (logits.ndim - mask.ndim) + mask.shape)
    logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("...qk,...kd->...qd", weights, value)


def attention_over_assets(query: jax.Array, key: jax.Array, value: jax.Array, present: jax.Array) -> jax.Array:
    """Every asset attends to itself and to all assets that are present, at each bar on its own.

    Args:
      query: `[B, S, H, A, D]`.
      key: `[B, S, H, A, D]`.
      value: `[B, S, H, A, D]`.
      present: `[B, S, A]` bool.

    Returns:
      `[B, S, H, A, D]`.
    """
    own = jnp.eye(present.shape[-1], dtype=bool)
    mask = present[:, :, None, None, :] | own[None, None, None]
    return _masked_attention(query, key, value, mask)


def rotate(x: jax.Array, position: jax.Array, *, longest: float = 10_000.0) -> jax.Array:
    """Rotary position embedding: attention between rotated queries and keys depends on position differences only.

    Args:
      x: `[..., S, D]`, D even.
      position: `[S]` float, in bars.
      longest: wavelength of the slowest pair, in units of 2 pi bars.

    Returns:
      Array of the shape and dtype of `x`.

    References:
      Su et al. (2021), RoFormer, eq. 34. https://arxiv.org/abs/2104.09864
    """
    half = x.shape[-1] // 2
    frequency = longest ** (-np.arange(half, dtype=np.float32) / half)
    angle = position[:, None] * frequency[None, :]
    cos, sin = (f(angle).astype(x.dtype).reshape((1,) * (x.ndim - 2) + angle.shape) for f in (jnp.cos, jnp.sin))
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)
