"""Each asset's own bars: packs a ragged panel so that every row of a column is a real bar, and spreads results back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxppo.envs.market import streaming
from jaxppo.envs.market.kernels import compiled
from jaxppo.envs.market.rows import running_count


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
        stream = streaming.current()
        if stream is not None:
            return jnp.where(self.listed, stream.axis.before - self.source, 0)
        rows = jnp.arange(self.latest.shape[0], dtype=jnp.int32)[:, None]
        return jnp.where(self.listed, rows - self.spread(self.source), 0)

    def computed(self, function: Callable[..., Any], *tables: Any) -> Any:
        """Calls a function of own bars: `spread(function(*pack(tables)))`, for pytrees of tables.

        Args:
          function: of packed tables, in which each row is a bar of the asset.
          *tables: pytrees of `[T, A]`.

        Returns:
          What it returns, a pytree of `[T, A, ...]`, on the market's time axis: that of the last own bar; before the
          first, of no meaning.
        """
        stream = streaming.current()
        if stream is None:
            return jax.tree.map(self.spread, function(*jax.tree.map(self.pack, tables)))
        own = self.listed & (self.source == stream.axis.before)
        with streaming.on_axis(streaming.Axis(self.latest, own)):
            result = function(*tables)

        def held(x: jax.Array) -> jax.Array:
            here = own.reshape(own.shape + (1,) * (x.ndim - 2))
            return stream.remember(x.shape, x.dtype, lambda before: (jnp.where(here, x, before),) * 2)

        return jax.tree.map(held, result)

    @compiled
    def pack(self, x: jax.Array) -> jax.Array:
        """Gathers own bars of whole tables, `[T, A] -> [T, A]`: row k holds the value at the asset's k-th own bar."""
        assert streaming.current() is None, "a stream has own bars in `computed` only"
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
    stream = streaming.current()
    if stream is not None:
        latest, now = running_count(tradable) - 1, jnp.broadcast_to(stream.axis.before, tradable.shape)
        source = stream.remember(tradable.shape, jnp.int32, lambda held: (jnp.where(tradable, now, held),) * 2)
        return OwnBars(source, latest, jnp.all(tradable))
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
