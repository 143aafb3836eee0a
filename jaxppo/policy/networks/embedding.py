"""From features to tokens: one projection per feature group, and pools of past tokens for the coarser levels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

EPSILON = 1e-6
"""Added to variances before their root."""


class GroupEmbedding(nnx.Module):
    """Sum of one projection per feature group, each normalised and weighted by a learned gate.

    `sum_g gate_g LayerNorm(W_g x_g + b_g) / sqrt(G)`, where the norms have no parameters: the gate scales, and the next
    layer shifts. A learned token of the feature replaces an unknown value (NaN), which so differs from an average one.

    Attributes:
      kernel: `[2 F + G, D]`: the weights of the F values, the F tokens for unknown ones, the G biases.
      gates: `[G]`, see `weights`.
    """

    def __init__(self, groups: tuple[int, ...], width: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.groups, self.dtype = groups, dtype
        # Biases start at random: normalising an embedding near zero would multiply its gradient by EPSILON ** -0.5.
        per_value = np.repeat((2.0 * np.asarray(groups)) ** -0.5, groups)
        deviation = np.concatenate([per_value, per_value, np.ones(len(groups))])
        normal = jax.random.normal(rngs.params(), (len(deviation), width))
        self.kernel = nnx.Param(normal * jnp.asarray(deviation, jnp.float32)[:, None])
        self.gates = nnx.Param(jnp.zeros(len(groups)))

    def weights(self) -> jax.Array:
        """Gate of each group, `[G]` in (0, 2); all 1 at the start."""
        return 2.0 * jax.nn.sigmoid(self.gates[...])

    def __call__(self, features: jax.Array) -> jax.Array:
        """`[..., F]` features, NaN where unknown, to `[..., D]`."""
        n_groups, lead = len(self.groups), features.shape[:-1]
        group = np.repeat(np.arange(n_groups), self.groups)
        belongs = np.concatenate([np.eye(n_groups, dtype=np.float32)[group]] * 2 + [np.eye(n_groups, dtype=np.float32)])
        unknown = jnp.isnan(features)
        known = jnp.where(unknown, jnp.zeros_like(features), features)
        x = jnp.concatenate([known, unknown, jnp.ones((*lead, n_groups))], axis=-1, dtype=jnp.float32)
        # The variance of a projection is a quadratic form of its few inputs: scaling these makes everything one product
        # with the weights, instead of one normalisation of D numbers per group.
        kernel = self.kernel[...] - self.kernel[...].mean(axis=-1, keepdims=True)
        gram = (kernel @ kernel.T) * (belongs @ belongs.T) / kernel.shape[-1]
        variance = ((x @ gram) * x) @ belongs
        weights = (self.weights() * n_groups**-0.5).reshape((1,) * len(lead) + (-1,))
        scaled = x * ((weights * jax.lax.rsqrt(variance + EPSILON)) @ belongs.T)
        return scaled.astype(self.dtype) @ kernel.astype(self.dtype)


class CoarseToken(nnx.Module):
    """Token for the mean of the last `pool` fine tokens, at every bar: there is no grid whose start would matter."""

    def __init__(self, pool: int, width: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.pool = pool
        self.project = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)

    def __call__(self, mean: jax.Array) -> jax.Array:
        """`[..., D]` means to `[..., D]` tokens."""
        return self.norm(jax.nn.gelu(self.project(mean)))


def pooled(x: jax.Array, pool: int) -> jax.Array:
    """Means of `pool` consecutive rows, in about `2 log2(pool)` additions.

    Every mean adds its rows in the same order wherever they lie, so it does not depend on where the table begins.

    Args:
      x: `[..., T, D]`.
      pool: rows of a mean, >= 1.

    Returns:
      `[..., T - pool + 1, D]`.
    """
    total: jax.Array | None = None
    length, size, power, left = 0, 1, x.astype(jnp.float32), pool
    while left:
        if left & 1:
            # `total` covers `length` rows; the next `size` rows follow it.
            rows = x.shape[-2] - (length + size) + 1
            tail = power[..., length : length + rows, :]
            total = tail if total is None else total[..., :rows, :] + tail
            length += size
        left >>= 1
        if left:
            rows = x.shape[-2] - 2 * size + 1
            power = power[..., :rows, :] + power[..., size : size + rows, :]
            size *= 2
    assert total is not None, "pool is at least 1"
    return (total / pool).astype(x.dtype)
