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
      whole: `[]` bool, every asset, of every market that is mapped over, has a bar at every row: nothing to move.
    """

    source: jax.Array
    latest: jax.Array
    whole: jax.Array

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
        return jax.lax.cond(self.whole, lambda x: x, lambda x: jnp.take_along_axis(x, self.source, axis=0), x)

    def spread(self, packed: jax.Array) -> jax.Array:
        """`[T, A, ...] -> [T, A, ...]`: row t holds the value of the asset's last own bar; row 0's before the first."""

        def moved(packed: jax.Array) -> jax.Array:
            index = jnp.maximum(self.latest, 0)
            return jnp.take_along_axis(packed, index.reshape(index.shape + (1,) * (packed.ndim - 2)), axis=0)

        return jax.lax.cond(self.whole, lambda packed: packed, moved, packed)


@jax.custom_batching.custom_vmap
def everywhere(x: jax.Array) -> jax.Array:
    """Whether all of `x` is True, in every element of a batch that is mapped over: `[]` bool, the same for all."""
    return jnp.all(x)


@everywhere.def_vmap
def _(axis_size, in_batched, x):
    return everywhere(x), False


def own_bars(tradable: jax.Array) -> OwnBars:
    """Finds each asset's own bars. Causal: packed row k and `latest[t]` do not depend on later rows.

    Args:
      tradable: `[T, A]` bool.
    """
    n_bars, n_assets = tradable.shape
    rows = jnp.broadcast_to(jnp.arange(n_bars, dtype=jnp.int32)[:, None], tradable.shape)

    def found(tradable: jax.Array) -> tuple[jax.Array, jax.Array]:
        latest = jnp.cumsum(tradable, axis=0, dtype=jnp.int32) - 1
        columns = jnp.broadcast_to(jnp.arange(n_assets)[None], tradable.shape)
        target = jnp.where(tradable, latest, n_bars)
        return jnp.zeros_like(rows).at[target, columns].set(rows, mode="drop"), latest

    whole = everywhere(tradable)
    return OwnBars(*jax.lax.cond(whole, lambda tradable: (rows, rows), found, tradable), whole)


def carried_forward(x: jax.Array, known: jax.Array, start: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The last known value at each row, and whether there has been one.

    Args:
      x: `[T, A]`, any value where not known.
      known: `[T, A]` bool.
      start: `[A]`, the value before the first known one.

    Returns:
      `([T, A], [T, A] bool)`.
    """

    def held(x: jax.Array, known: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows = jnp.arange(x.shape[0], dtype=jnp.int32)[:, None]
        latest = jax.lax.cummax(jnp.where(known, rows, -1))
        last = jnp.take_along_axis(x, jnp.maximum(latest, 0), axis=0)
        return jnp.where(latest >= 0, last, start[None]), latest >= 0

    return jax.lax.cond(everywhere(known), lambda x, known: (x, known), held, x, known)
