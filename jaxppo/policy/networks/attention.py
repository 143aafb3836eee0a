"""Causal sliding-window attention, in blocks, fused and dilated, and attention across assets."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.envs.market.kernels import platform

Kernel = Literal["xla", "cudnn"]
"""Implementations of `jax.nn.dot_product_attention`."""
FEW_ASSETS = 8
"""Most assets whose attention to each other is no matrix product on a GPU."""


class Attended(NamedTuple):
    """Result of the attention of queries to some keys; `merge` joins several into one softmax.

    Attributes:
      out: `[..., S, D]` weighted mean of the values.
      log_weight: `[..., S]` float32, logarithm of the sum of the exponentiated logits.
    """

    out: jax.Array
    log_weight: jax.Array


def sliding_window_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    window: int,
    *,
    lag_bias: jax.Array | None = None,
    block: int | None = None,
) -> Attended:
    """Attention of each query to the bar it stands at and the `window - 1` bars before.

    Keys start `window - 1` bars before the first query ("valid" padding), so nothing is padded with an absent past:
    query `i` reads keys `i .. i + window - 1`. Computed in blocks of queries, cost and memory `O(S (window + block))`.

    Args:
      query: `[..., H, S, D]`.
      key: `[..., H, S + window - 1, D]`.
      value: `[..., H, S + window - 1, D]`.
      window: bars that a query sees, >= 1.
      lag_bias: `[H, window]` added to the logits by how many bars ago a key is.
      block: queries per block; default: half a window, at least 16.

    Returns:
      `out` in the dtype of `value`; the softmax is float32.

    Raises:
      ValueError: the keys do not cover the window of every query.
    """
    length = query.shape[-2]
    if key.shape[-2] != length + window - 1:
        raise ValueError(f"{length} queries with window {window} need {length + window - 1} keys, not {key.shape[-2]}")
    block = max(window // 2, 16) if block is None else block
    if length <= block:
        mask, bias = _band(length, key.shape[-2], window), _banded(lag_bias, length, key.shape[-2], window)
        return masked_attention(query, key, value, mask, bias)
    n_blocks = -(-length // block)
    reach = -(-(window - 1) // block)
    query = _split(query, n_blocks, block)
    key = _overlapping(_split(key, n_blocks + reach, block), n_blocks, reach)
    value = _overlapping(_split(value, n_blocks + reach, block), n_blocks, reach)
    mask, bias = _band(block, key.shape[-2], window), _banded(lag_bias, block, key.shape[-2], window)
    attended = masked_attention(query, key, value, mask, None if bias is None else bias[:, None])
    out = attended.out.reshape(*attended.out.shape[:-3], n_blocks * block, attended.out.shape[-1])[..., :length, :]
    return Attended(out, attended.log_weight.reshape(*out.shape[:-2], n_blocks * block)[..., :length])


def fused_window_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, window: int, *, implementation: Kernel = "cudnn"
) -> jax.Array:
    """`sliding_window_attention` by JAX's fused kernel, without biases and with first derivatives only.

    Args:
      query: `[B, H, S, D]`; for cuDNN bfloat16 or float16, D a multiple of 8.
      key: `[B, H, S + window - 1, D]`.
      value: `[B, H, S + window - 1, D]`.
      window: bars that a query sees, >= 1.
      implementation: of `jax.nn.dot_product_attention`.

    Returns:
      `[B, H, S, D]`.
    """
    # The kernel takes as many queries as keys, and derives for even numbers of them only: what is past alone gets
    # queries too, whose results are dropped, and an odd chunk one more row before its past, which nothing kept reads.
    odd = key.shape[2] % 2
    past = window - 1 + odd
    query = jnp.pad(query, ((0, 0), (0, 0), (past, 0), (0, 0)))
    if odd:
        key, value = (jnp.pad(x, ((0, 0), (0, 0), (odd, 0), (0, 0))) for x in (key, value))
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    out = jax.nn.dot_product_attention(
        query, key, value, is_causal=True, local_window_size=(window - 1, 0), implementation=implementation
    )
    return out[:, past:].swapaxes(1, 2)


def dilated_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    window: int,
    dilation: int,
    *,
    lag_bias: jax.Array | None = None,
) -> Attended:
    """Attention of each query to the bar it stands at and to `window - 1` bars at multiples of `dilation` before it.

    Bars that are congruent modulo `dilation` form separate sequences; in each, this is `sliding_window_attention`.

    Args:
      query: `[..., H, S, D]`.
      key: `[..., H, S + dilation (window - 1), D]`.
      value: `[..., H, S + dilation (window - 1), D]`.
      window: keys that a query sees, >= 1.
      dilation: bars between two of them, >= 1.
      lag_bias: `[H, window]` added to the logits by how many multiples of `dilation` ago a key is.

    Reference: Beltagy et al. (2020), Longformer, section 3.1. https://arxiv.org/abs/2004.05150
    """
    length = query.shape[-2]
    n_rows = -(-length // dilation)
    query = _phases(query, n_rows, dilation)
    key, value = (_phases(x, n_rows + window - 1, dilation) for x in (key, value))
    attended = sliding_window_attention(query, key, value, window, lag_bias=lag_bias)
    out = jnp.moveaxis(attended.out, -4, -2)
    weight = jnp.moveaxis(attended.log_weight, -3, -1)
    return Attended(
        out.reshape(*out.shape[:-3], n_rows * dilation, out.shape[-1])[..., :length, :],
        weight.reshape(*weight.shape[:-2], n_rows * dilation)[..., :length],
    )


def logits_by_lag(
    query: jax.Array, key: jax.Array, window: int, dilation: int = 1, *, lag_bias: jax.Array | None = None
) -> jax.Array:
    """Logits of `dilated_attention`, or of `sliding_window_attention` with `dilation` 1, for inspection.

    Args:
      query: `[..., H, S, D]`.
      key: `[..., H, S + dilation (window - 1), D]`.
      window: keys that a query sees, >= 1.
      dilation: bars between two of them, >= 1.
      lag_bias: `[H, window]` added to the logits.

    Returns:
      `[..., H, S, window]` float32; key j is `j dilation` bars before the query.
    """
    scaled, length = query * query.shape[-1] ** -0.5, query.shape[-2]

    def at(lag: jax.Array) -> jax.Array:
        keys = jax.lax.dynamic_slice_in_dim(key, dilation * (window - 1 - lag), length, axis=-2)
        return jnp.einsum("...sd,...sd->...s", scaled, keys, preferred_element_type=jnp.float32)

    logits = jnp.moveaxis(jax.lax.map(at, jnp.arange(window)), 0, -1)
    if lag_bias is None:
        return logits
    return logits + lag_bias.reshape((1,) * (logits.ndim - 3) + (lag_bias.shape[0], 1, window))


def merge(parts: list[Attended]) -> jax.Array:
    """Joins the parts into one softmax over all their keys: `[..., S, D]` in the dtype of the first part."""
    if len(parts) == 1:
        return parts[0].out
    share = jax.nn.softmax(jnp.stack([part.log_weight for part in parts]), axis=0)
    total = sum(weight[..., None] * part.out for weight, part in zip(share, parts, strict=True))
    return total.astype(parts[0].out.dtype)


def masked_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: np.ndarray | jax.Array, bias: jax.Array | None = None
) -> Attended:
    """Softmax attention over the last two axes.

    Args:
      query: `[..., Q, D]`.
      key: `[..., K, D]`.
      value: `[..., K, D]`.
      mask: bool, broadcasts to `[..., Q, K]`; a query without any key has no weight in `merge`.
      bias: broadcasts to `[..., Q, K]`, added to the logits.
    """
    logits = jnp.einsum("...qd,...kd->...qk", query * query.shape[-1] ** -0.5, key, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = logits + bias.reshape((1,) * (logits.ndim - bias.ndim) + bias.shape)
    mask = jnp.asarray(mask).reshape((1,) * (logits.ndim - mask.ndim) + mask.shape)
    # The smallest finite number: with -inf, a query without any key would be NaN instead of weightless in `merge`.
    logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return Attended(jnp.einsum("...qk,...kd->...qd", weights, value), jax.nn.logsumexp(logits, axis=-1))


def attention_over_assets(query: jax.Array, key: jax.Array, value: jax.Array, present: jax.Array) -> jax.Array:
    """Attention of every asset to itself and to all assets that are present, bar by bar.

    Args:
      query: `[B, S, H, A, D]`.
      key: `[B, S, H, A, D]`.
      value: `[B, S, H, A, D]`.
      present: `[B, S, A]` bool.

    Returns:
      `[B, S, H, A, D]`.
    """
    mask = present_or_itself(present)
    if platform() != "gpu" or query.shape[-2] > FEW_ASSETS:
        return masked_attention(query, key, value, mask).out
    # Sums of products, which are part of larger kernels: matrix products as small as these are padded and launched one
    # by one, forward and backward.
    wide = [x.astype(jnp.float32) for x in (query * query.shape[-1] ** -0.5, key, value)]
    logits = jnp.sum(wide[0][..., :, None, :] * wide[1][..., None, :, :], axis=-1)
    weights = jax.nn.softmax(jnp.where(mask, logits, jnp.finfo(jnp.float32).min), axis=-1).astype(value.dtype)
    mixed = jnp.sum(weights.astype(jnp.float32)[..., None] * wide[2][..., None, :, :], axis=-2)
    return mixed.astype(value.dtype)


def present_or_itself(present: jax.Array) -> jax.Array:
    """Mask of the assets that each asset attends to: `[..., A]` bool to `[..., 1, A, A]`."""
    itself = jnp.eye(present.shape[-1], dtype=bool)
    return present[..., None, None, :] | itself.reshape((1,) * present.ndim + itself.shape)


def _band(n_queries: int, n_keys: int, window: int) -> np.ndarray:
    """`[n_queries, n_keys]` bool: key `j` is within the window of query `i`."""
    offset = np.arange(n_keys)[None, :] - np.arange(n_queries)[:, None]
    return (offset >= 0) & (offset < window)


def _banded(lag_bias: jax.Array | None, n_queries: int, n_keys: int, window: int) -> jax.Array | None:
    """`[H, window]` by lag to `[H, n_queries, n_keys]`; anything outside the band."""
    if lag_bias is None:
        return None
    offset = np.arange(n_keys)[None, :] - np.arange(n_queries)[:, None]
    return lag_bias[:, np.clip(window - 1 - offset, 0, window - 1)]


def _split(x: jax.Array, n_blocks: int, block: int) -> jax.Array:
    """`[..., S, D]` to `[..., n_blocks, block, D]`, zeros at the end (masked by the band)."""
    padded = _padded(x, n_blocks * block)
    return padded.reshape(*x.shape[:-2], n_blocks, block, x.shape[-1])


def _phases(x: jax.Array, n_rows: int, dilation: int) -> jax.Array:
    """`[..., H, S, D]` to `[..., dilation, H, n_rows, D]`: bar `i` is row `i // dilation` of phase `i % dilation`."""
    split = _padded(x, n_rows * dilation).reshape(*x.shape[:-2], n_rows, dilation, x.shape[-1])
    return jnp.moveaxis(split, -2, -4)


def _padded(x: jax.Array, length: int) -> jax.Array:
    """The first `length` rows of `[..., S, D]`, zeros where there are fewer."""
    missing = length - x.shape[-2]
    if missing <= 0:
        return x[..., :length, :]
    return jnp.pad(x, ((0, 0),) * (x.ndim - 2) + ((0, missing), (0, 0)))


def _overlapping(x: jax.Array, n_blocks: int, reach: int) -> jax.Array:
    """Concatenates each block with the `reach` blocks after it: `[..., n_blocks, (reach + 1) block, D]`."""
    return jnp.concatenate([x[..., i : i + n_blocks, :, :] for i in range(reach + 1)], axis=-2)
