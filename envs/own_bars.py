"""An asset's own bars: packs a ragged panel so that every row of a column is a real bar, and spreads results back."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class OwnBars(NamedTuple):
    """Where each asset's own bars (those with `tradable` True) lie on the market's time axis.

    Attributes:
      source: `[T, A]` int32, market row of the asset's k-th own bar; 0 in the unused rows at the end.
      latest: `[T, A]` int32, index k of the asset's last own bar at or before market row t; -1 before the first.
    """

    source: jax.Array
    latest: jax.Array

    @property
    def listed(self) -> jax.Array:
        """`[T, A]` bool, the asset has printed a bar at or before t."""
        return self.latest >= 0

    @property
    def bars_since(self) -> jax.Array:
        """`[T, A]` int32, market bars since the asset's last own bar; 0 on an own bar and before the first."""
        rows = jnp.arange(self.latest.shape[0], dtype=jnp.int32)[:, None]
        return jnp.where(self.listed, rows - self.spread(self.source), 0)

    def pack(self, x: jax.Array) -> jax.Array:
        """`[T, A] -> [T, A]`: row k holds the value at the asset's k-th own bar."""
        return jnp.take_along_axis(x, self.source, axis=0)

    def spread(self, packed: jax.Array) -> jax.Array:
        """`[T, A, ...] -> [T, A, ...]`: row t holds the value of the asset's last own bar; row 0's before the first."""
        index = jnp.maximum(self.latest, 0)
        return jnp.take_along_axis(packed, index.reshape(index.shape + (1,) * (packed.ndim - 2)), axis=0)


def own_bars(tradable: jax.Array) -> OwnBars:
    """Finds each asset's own bars. Causal: packed row k and `latest[t]` do not depend on later rows.

    Args:
      tradable: `[T, A]` bool.
    """
    n_bars, n_assets = tradable.shape
    latest = jnp.cumsum(tradable, axis=0, dtype=jnp.int32) - 1
    rows = jnp.broadcast_to(jnp.arange(n_bars, dtype=jnp.int32)[:, None], tradable.shape)
    columns = jnp.broadcast_to(jnp.arange(n_assets)[None], tradable.shape)
    target = jnp.where(tradable, latest, n_bars)
    source = jnp.zeros_like(rows).at[target, columns].set(rows, mode="drop")
    return OwnBars(source, latest)


def carried_forward(x: jax.Array, known: jax.Array, start: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The last known value at each row, and whether there has been one.

    Args:
      x: `[T, A]`, any value where not known.
      known: `[T, A]` bool.
      start: `[A]`, the value before the first known one.

    Returns:
      `([T, A], [T, A] bool)`.
    """
    rows = jnp.arange(x.shape[0], dtype=jnp.int32)[:, None]
    latest = jax.lax.cummax(jnp.where(known, rows, -1))
    held = jnp.take_along_axis(x, jnp.maximum(latest, 0), axis=0)
    return jnp.where(latest >= 0, held, start[None]), latest >= 0
