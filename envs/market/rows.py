"""Where a row stands on the leading time axis `[T, ...]`, and what came before it: in whole tables, or in a stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxppo.envs.market import streaming
from jaxppo.envs.market.kernels import platform


def rows_from(tree: Any, first: jax.Array, n_rows: int) -> Any:
    """Rows `first .. first + n_rows - 1` of tables `[T, ...]`: `[n_rows, ...]`, many of them at a time under `vmap`.

    Args:
      tree: pytree of arrays `[T, ...]`.
      first: `[]` int32, in `[0, T - n_rows]`; outside it is clipped to it.
      n_rows: >= 1.
    """

    def one(x: jax.Array) -> jax.Array:
        if platform() != "tpu" or x.ndim > 2:
            return jax.lax.dynamic_slice_in_dim(x, first, n_rows)
        # XLA copies the slices of a small table one path after the other on a TPU, but gathers single rows at once.
        start = jnp.clip(first, 0, x.shape[0] - n_rows)
        return x.at[start + jnp.arange(n_rows)].get(mode="promise_in_bounds")

    return jax.tree.map(one, tree)


def row_number(x: jax.Array) -> jax.Array:
    """Number of each row, from 0, int32 of the rank of `x`: `[T, 1, ...]`, or of what broadcasts with `x` in a stream.

    Args:
      x: `[T, ...]`.
    """
    stream = streaming.current()
    if stream is not None:
        return stream.axis.rows_before(x.ndim)
    return jnp.arange(x.shape[0], dtype=jnp.int32).reshape((-1,) + (1,) * (x.ndim - 1))


def first_row(x: jax.Array) -> jax.Array:
    """The first row, `[1, ...]`.

    Args:
      x: `[T, ...]`.
    """
    stream = streaming.current()
    if stream is None:
        return x[:1]

    def update(held: jax.Array) -> tuple[jax.Array, jax.Array]:
        held = jnp.where(row_number(x) == 0, x, held)
        return held, held

    return stream.remember(x.shape, x.dtype, update)


def first_valid(x: jax.Array, valid: jax.Array) -> jax.Array:
    """The first valid value, `[1, ...]`; any value of rows before it.

    Args:
      x: `[T, ...]`.
      valid: `[T, ...]` bool.
    """
    stream = streaming.current()
    if stream is None:
        return jnp.take_along_axis(x, jnp.argmax(valid, axis=0)[None], axis=0)
    before = running_count(valid) - valid

    def update(held: jax.Array) -> tuple[jax.Array, jax.Array]:
        held = jnp.where(before > 0, held, jnp.where(valid, x, 0))
        return held, held

    return stream.remember(x.shape, x.dtype, update)


def running_count(valid: jax.Array) -> jax.Array:
    """Counts the rows so far, the current one included, that are valid: `[T, ...]` int32.

    Args:
      valid: `[T, ...]` bool.
    """
    stream = streaming.current()
    if stream is None:
        return jnp.cumsum(valid, axis=0, dtype=jnp.int32)

    def update(count: jax.Array) -> tuple[jax.Array, jax.Array]:
        count = count + valid
        return count, count

    return stream.remember(valid.shape, jnp.int32, update)


def followed(
    step: Callable[[jax.Array, jax.Array], tuple[jax.Array, Any]], start: jax.Array, x: jax.Array, *, unroll: int = 1
) -> Any:
    """Goes from row to row, `jax.lax.scan(step, start, x)[1]`; not on the rows of own bars.

    Args:
      step: `(carry, row) -> (carry, result)`.
      start: carry before the first row.
      x: `[T, ...]`.
      unroll: rows of one iteration.
    """
    stream = streaming.current()
    if stream is None:
        return jax.lax.scan(step, start, x, unroll=unroll)[1]

    def update(carry: jax.Array) -> tuple[Any, jax.Array]:
        carry, result = step(jnp.where(stream.axis.before == 0, start, carry), x[0])
        return jax.tree.map(lambda row: row[None], result), carry

    return stream.remember(start.shape, start.dtype, update)


def newest(x: jax.Array, n_rows: int) -> jax.Array:
    """The newest rows of a stream, `[n_rows, ...]`, the last one included; the first one repeats before the start.

    Args:
      x: `[1, ...]` row of a stream.
      n_rows: >= 1.
    """
    return with_past(x, n_rows - 1, None)


def with_past(x: jax.Array, n_rows: int, start: jax.Array | None) -> jax.Array:
    """The last rows of a stream before its newest, and that one: `[n_rows + 1, ...]`.

    Args:
      x: `[1, ...]` row of a stream.
      n_rows: >= 0.
      start: `[1, ...]` each row before the first; None repeats the first.
    """
    stream = streaming.current()
    assert stream is not None
    first, filler = row_number(x) == 0, x if start is None else start

    def update(held: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows = jnp.concatenate([jnp.where(first, filler, held), x])
        return rows, rows[1:]

    return stream.remember((n_rows, *x.shape[1:]), x.dtype, update) if n_rows else x
