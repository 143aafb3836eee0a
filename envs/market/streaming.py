"""One bar at a time: functions of whole tables `[T, ...]`, called with the newest row and a memory of those before it.

    first, step = streamed(lambda market: compute_features(market))
    memory = first(row)
    features, memory = step(memory, number, row)

The functions that know of time (`jaxppo.envs.market.windows`, `own_bars`) keep what they need of the past in cells: the
last bars of a rolling window, the value of a recursion, a count. Whatever is built of them alone runs either way, to
the same numbers, in constant time and memory a bar. Anything else that looks along the leading axis (`jnp.cumsum`,
`jnp.arange(T)`, a slice) sees a table of one row.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Axis(NamedTuple):
    """The rows of the present computation: those of the market, or the own bars of each asset.

    Attributes:
      before: `[]` or `[1, A]` int32, rows before the newest.
      own: `[1, A]` bool, whether the newest market row is a row of the asset; None on the axis of the market.
    """

    before: jax.Array
    own: jax.Array | None = None

    def rows_before(self, rank: int) -> jax.Array:
        """Rows before the newest, int32 of that rank."""
        return self.before.reshape(self.before.shape + (1,) * (rank - self.before.ndim))


class Stream:
    """Cells of one call, in the order in which they are asked for.

    Attributes:
      axis: of the present computation.
      cells: their values after the call.
    """

    def __init__(self, number: jax.Array, before: Sequence[jax.Array] | None):
        self.axis = Axis(number)
        self.cells: list[Any] = []
        self._before = before

    def remember(self, shape: tuple[int, ...], dtype: Any, update: Callable[[jax.Array], tuple[Any, jax.Array]]) -> Any:
        """Reads and writes the next cell.

        Args:
          shape: of the cell, `[n, A, ...]` where the rows are own bars.
          dtype: of it; it starts with zeros.
          update: `before -> (result, after)`; `after` is kept of assets that have a row.

        Returns:
          The result.
        """
        place = len(self.cells)
        self.cells.append(None)
        before = jnp.zeros(shape, dtype) if self._before is None else self._before[place]
        result, after = update(before)
        if self.axis.own is not None:
            own = self.axis.own.reshape(self.axis.own.shape + (1,) * (len(shape) - 2))
            after = jnp.where(own, after, before)
        self.cells[place] = after
        return result


_current: contextvars.ContextVar[Stream | None] = contextvars.ContextVar("stream", default=None)


def current() -> Stream | None:
    """The stream that the calling function is part of; None where it is given whole tables."""
    return _current.get()


@contextlib.contextmanager
def on_axis(axis: Axis) -> Iterator[None]:
    """Computes on other rows of the present stream.

    Args:
      axis: of these rows.
    """
    stream = _current.get()
    assert stream is not None
    before, stream.axis = stream.axis, axis
    try:
        yield
    finally:
        stream.axis = before


def streamed(
    function: Callable[..., Any],
) -> tuple[Callable[..., list[np.ndarray]], Callable[..., tuple[Any, list[jax.Array]]]]:
    """Turns a causal function of tables `[T, ...]` into one of a row and a memory.

    Args:
      function: built of `jaxppo.envs.market.windows`, `own_bars` and what looks at one row only.

    Returns:
      `first(*row) -> memory`, and `step(memory, number, *row) -> (row of the result, memory)`: rows have a leading axis
      of length 1, `number` is an `[]` int32, how many rows came before.
    """

    def step(memory: Sequence[jax.Array] | None, number: jax.Array, *row: Any) -> tuple[Any, list[jax.Array]]:
        stream = Stream(jnp.asarray(number, jnp.int32), memory)
        token = _current.set(stream)
        try:
            result = function(*row)
        finally:
            _current.reset(token)
        return result, stream.cells

    def first(*row: Any) -> list[np.ndarray]:
        _, cells = jax.eval_shape(lambda *row: step(None, jnp.int32(0), *row), *row)
        return [np.zeros(cell.shape, cell.dtype) for cell in cells]

    return first, step
