"""Positions of bars: rotary phases of elapsed time, and biases by lag."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

POSITIONS = ("rotary", "rotary_rows", "alibi", "sinusoidal", "learned", "none")
"""Kinds of positions: rotary on elapsed time or on row numbers, three biases by the lag in rows, none at all."""

LONGEST = 10_000.0
"""Wavelength of the slowest rotary pair, in units of 2 pi bars."""

N_SINUSOIDS = 16
"""Sine and cosine waves that a sinusoidal bias is made of."""


class Rotation(NamedTuple):
    """Rotary angles of consecutive bars, as `rotate` multiplies with them.

    Attributes:
      cos: `[..., T, D]` float32, cosines twice.
      sin: `[..., T, D]` float32, negative sines, then sines.
    """

    cos: jax.Array
    sin: jax.Array

    def rows(self, start: int, stop: int | None = None) -> Rotation:
        """Rows `start:stop` of the axis T.

        Args:
          start: first row; negative from the end.
          stop: row after the last; None for the end.
        """
        return Rotation(self.cos[..., start:stop, :], self.sin[..., start:stop, :])


def _frequencies(n: int) -> np.ndarray:
    """`[n]` radians per bar, log-spaced from 1 to about `1 / LONGEST`."""
    return (LONGEST ** (-np.arange(n) / n)).astype(np.float32)


def phase_steps(elapsed: jax.Array, n_pairs: int) -> jax.Array:
    """Phase by which each rotary pair turns in a time, in `2^-32` turns.

    Args:
      elapsed: `[...]` float32 >= 0, bars.
      n_pairs: half of the head's dimension.

    Returns:
      `[..., n_pairs]` uint32.

    Reference: Su et al. (2021), RoFormer, eq. 15. https://arxiv.org/abs/2104.09864
    """
    per_bar = (_frequencies(n_pairs) / (2 * math.pi)).astype(np.float32)
    turns = elapsed[..., None] * per_bar.reshape((1,) * elapsed.ndim + (-1,))
    # Unsigned sums wrap around as angles do: phase differences stay exact however long the history is.
    return ((turns - jnp.floor(turns)) * 2.0**32).astype(jnp.uint32)


def rotation(phase: jax.Array) -> Rotation:
    """Rotations by phases `[..., T, D / 2]` in `2^-32` turns."""
    angle = phase.astype(jnp.float32) * (2 * math.pi / 2.0**32)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    pair = jnp.concatenate([cos, cos], axis=-1), jnp.concatenate([-sin, sin], axis=-1)
    # Behind a barrier, or the compiler computes them again for every head, layer and use.
    return Rotation(*jax.lax.optimization_barrier(pair))


def rotations(elapsed: jax.Array, n_pairs: int) -> Rotation:
    """Rotations of consecutive bars.

    Args:
      elapsed: `[..., T]` float32, bars since the bar before; the first one does not matter.
      n_pairs: half of the head's dimension.
    """
    return rotation(jnp.cumsum(phase_steps(elapsed, n_pairs), axis=-2, dtype=jnp.uint32))


def rotate(x: jax.Array, by: Rotation) -> jax.Array:
    """Rotates pairs of features, so that products of rotated queries and keys depend on phase differences only.

    Args:
      x: `[..., T, D]`, D even.
      by: rotations that broadcast against `x`.

    Returns:
      Array of the shape and dtype of `x`.

    Reference: Su et al. (2021), RoFormer, eq. 34. https://arxiv.org/abs/2104.09864
    """
    cos, sin, pairs = (y.reshape(*y.shape[:-1], 2, -1) for y in (by.cos.astype(x.dtype), by.sin.astype(x.dtype), x))
    return (pairs * cos + pairs[..., ::-1, :] * sin).reshape(x.shape)


class LagBias(nnx.Module):
    """Logits added to attention by how many rows ago a key is.

    Reference: "alibi": Press et al. (2022), Train short, test long, section 3, https://arxiv.org/abs/2108.12409;
    "sinusoidal": Dai et al. (2019), Transformer-XL, term (d) of section 3.3, https://arxiv.org/abs/1901.02860;
    "learned": Raffel et al. (2020), T5, section 2.1, https://arxiv.org/abs/1910.10683, one bias per lag.
    """

    def __init__(self, kind: str, heads: int, n_lags: int):
        self.kind, self.heads, self.n_lags = kind, heads, n_lags
        if kind == "learned":
            self.table = nnx.Param(jnp.zeros((heads, n_lags)))
        if kind == "sinusoidal":
            self.weights = nnx.Param(jnp.zeros((heads, N_SINUSOIDS)))

    def __call__(self) -> jax.Array:
        """`[H, n_lags]` float32; lag 0 is the query's own row."""
        lag = np.arange(self.n_lags, dtype=np.float32)
        if self.kind == "learned":
            return self.table[...]
        if self.kind == "sinusoidal":
            angle = lag[:, None] * self.n_lags ** (-np.arange(N_SINUSOIDS // 2) / (N_SINUSOIDS // 2))
            waves = np.concatenate([np.sin(angle), np.cos(angle)], axis=-1).astype(np.float32)
            return self.weights[...] @ waves.T
        slopes = 2.0 ** (-8.0 * np.arange(1, self.heads + 1) / self.heads)
        return jnp.asarray(-slopes[:, None] * lag[None, :], jnp.float32)


def make_lag_bias(kind: str, heads: int, n_lags: int) -> LagBias | None:
    """Builds the bias of a kind of positions; None for kinds without a bias.

    Args:
      kind: one of `POSITIONS`.
      heads: attention heads.
      n_lags: rows that a query sees.
    """
    return LagBias(kind, heads, n_lags) if kind in ("alibi", "sinusoidal", "learned") else None
