"""Each asset's own bars: packs a ragged panel so that every row of a column is a real bar, and spreads results back."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxppo.envs.market.kernels import compiled


class OwnBars(NamedTuple):
    """Positions of each asset's own bars (`tradable` True) on the market's time axis.

    Attributes:
      source: `[T, A]` int32, market row of the asset's k-th own bar; 0 in the unused rows at the end.
      latest: `[T, A]` int32, index k of the asset's last own bar at or before market row t; -1 before the first.
      complete: `[]` bool, no asset of any market in the batch misses a bar, so that nothing needs to move.
    """

    source: jax.Array
    latest: jax.Array
    complete: jax.Array

    @property
    def listed(self) -> jax.Array:
        """Whether the asset has had a bar at or before t, `[T, A]` bool."""
        return self.latest >= 0

    @property
    @compiled
    def bars_since(self) -> jax.Array:
        """Market bars since the asset's last own bar, `[T, A]` int32; 0 on an own bar and before the first."""
        rows = jnp.arange(self.latest.shape[0], dtype=jnp.int32)[:, None]
        return jnp.where(self.listed, rows - self.spread(self.source), 0)

    @compiled
    def pack(self, x: jax.Array) -> jax.Array:
        """Gathers own bars, `[T, A] -> [T, A]`: row k holds the value at the asset's k-th own bar."""
        return jax.lax.cond(self.complete, lambda x: x, lambda x: jnp.take_along_axis(x, self.source, axis=0), x)

    @compiled
    def spread(self, packed: jax.Array) -> jax.Array:
        """Undoes `pack`, `[T, A, ...] -> [T, A, ...]`: row t holds the asset's last own bar; row 0 before the first."""

        def scattered(packed: jax.Array) -> jax.Array:
            index = jnp.maximum(self.latest, 0)
            return jnp.take_along_axis(packed, index.reshape(index.shape + (1,) * (packed.ndim - 2)), axis=0)

        return jax.lax.cond(self.complete, lambda packed: packed, scattered, packed)


# Under `vmap` a condition with a batched predicate computes both branches. One predicate for the whole batch keeps
# `lax.cond` a branch, so that complete markets, the usual case, skip every gather.
@jax.custom_batching.custom_vmap
def all_in_batch(x: jax.Array) -> jax.Array:
    """Whether `x` is True everywhere, in every element of the batch: `[]` bool, not batched under `vmap`."""
    return jnp.all(x)


@all_in_batch.def_vmap
def _(axis_size, in_batched, x):
    return all_in_batch(x), False


@compiled
def own_bars(tradable: jax.Array) -> OwnBars:
    """Locates each asset's own bars. Causal: packed row k and `latest[t]` do not depend on later rows.

    Args:
      tradable: `[T, A]` bool.
    """
    n_bars, n_assets = tradable.shape
    rows = jnp.broadcast_to(jnp.arange(n_bars, dtype=jnp.int32)[:, None], tradable.shape)

    def located(tradable: jax.Array) -> tuple[jax.Array, jax.Array]:
        latest = jnp.cumsum(tradable, axis=0, dtype=jnp.int32) - 1
        columns = jnp.broadcast_to(jnp.arange(n_assets)[None], tradable.shape)
        target = jnp.where(tradable, latest, n_bars)
        return jnp.zeros_like(rows).at[target, columns].set(rows, mode="drop"), latest

    complete = all_in_batch(tradable)
    source, latest = jax.lax.cond(complete, lambda tradable: (rows, rows), located, tradable)
    return OwnBars(source, latest, complete)


@compiled
def carried_forward(x: jax.Array, known: jax.Array, start: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Carries the last known value forward.

    Args:
      x: `[T, A]`; any value where not known.
      known: `[T, A]` bool.
      start: `[A]` value before the first known one.

    Returns:
      `[T, A]` last known value, and `[T, A]` bool, whether there has been one.
    """

    def held(x: jax.Array, known: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows = jnp.arange(x.shape[0], dtype=jnp.int32)[:, None]
        latest = jax.lax.cummax(jnp.where(known, rows, -1))
        last = jnp.take_along_axis(x, jnp.maximum(latest, 0), axis=0)
        return jnp.where(latest >= 0, last, start[None]), latest >= 0

    return jax.lax.cond(all_in_batch(known), lambda x, known: (x, known), held, x, known)
