"""Drawdowns one by one: depth, peak, trough and recovery.

A drawdown begins at the last bar at the running peak of the equity, and ends at the first bar that is at or above that
peak again. One that is not over when the equity ends is *censored*: its recovery is unknown, and its length so far is
a lower bound. Leaving it out would flatter a strategy, and counting it as over even more so.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxppo.risk.metrics.common import as_float


class Drawdowns(NamedTuple):
    """The k deepest drawdowns of a path, deepest first; `[..., k]` for many paths.

    Attributes:
      depth: `[k]` fraction of the peak, > 0; 0 where the path has fewer than k drawdowns.
      peak: `[k]` int32, last point of the equity at the peak; -1 where there is none.
      trough: `[k]` int32, first point of the lowest equity.
      recovery: `[k]` int32, first point back at the peak, or the last point of the equity if it is not recovered.
      recovered: `[k]` bool.
    """

    depth: jax.Array
    peak: jax.Array
    trough: jax.Array
    recovery: jax.Array
    recovered: jax.Array


class _State(NamedTuple):
    """Running state of a path.

    Attributes:
      point: `[]` int32, points of the equity so far, less one.
      high: `[]` equity at the peak.
      peak: `[]` int32, last point at the peak.
      low: `[]` lowest equity since the peak.
      trough: `[]` int32, its first point.
      deepest: the k deepest of those that have ended, in no order.
    """

    point: jax.Array
    high: jax.Array
    peak: jax.Array
    low: jax.Array
    trough: jax.Array
    deepest: Drawdowns


def _start(equity: jax.Array, k: int) -> _State:
    """State at the first point of the equity `[]`; `k`, static, is how many drawdowns are kept."""
    equity = as_float(equity)
    point, nowhere = jnp.zeros((), jnp.int32), jnp.full((k,), -1, jnp.int32)
    kept = Drawdowns(jnp.zeros((k,), equity.dtype), nowhere, nowhere, nowhere, jnp.zeros((k,), bool))
    return _State(point, equity, point, equity, point, kept)


def _update(state: _State, equity: jax.Array) -> _State:
    """State after the next point of the equity `[]`."""
    point = state.point + 1
    over = equity >= state.high
    lower = over | (equity < state.low)
    kept = _insert(state.deepest, state, point, over)
    return _State(
        point=point,
        high=jnp.where(over, equity, state.high),
        peak=jnp.where(over, point, state.peak),
        low=jnp.where(lower, equity, state.low),
        trough=jnp.where(lower, point, state.trough),
        deepest=kept,
    )


def _finish(state: _State) -> Drawdowns:
    """The k deepest drawdowns, the one that is not over among them, deepest first."""
    found = _insert(state.deepest, state, state.point, jnp.zeros((), bool))
    order = jnp.lexsort((found.peak, -found.depth))
    return jax.tree.map(lambda field: field[order], found)


def _insert(kept: Drawdowns, state: _State, point: jax.Array, recovered: jax.Array) -> Drawdowns:
    """Replaces the shallowest drawdown by that of the state, if it is deeper and it, or the equity, is over."""
    depth = 1.0 - state.low / state.high
    least = jnp.argmin(kept.depth)
    ends = recovered | (point == state.point)
    here = (jnp.arange(kept.depth.shape[0]) == least) & ends & (depth > kept.depth[least])
    new = Drawdowns(depth, state.peak, state.trough, point, recovered)
    return jax.tree.map(lambda old, value: jnp.where(here, value, old), kept, new)


@functools.partial(jax.jit, static_argnames="k")
def deepest(equity: jax.Array, k: int = 5) -> Drawdowns:
    """Finds the k deepest drawdowns of each path, in one pass and memory of k drawdowns.

    Args:
      equity: `[..., n + 1]` currency, the start included; the first point above 0.
      k: drawdowns per path, static.

    Returns:
      `Drawdowns` of `[..., k]`.
    """
    equity = as_float(equity)

    def one(path: jax.Array) -> Drawdowns:
        state, _ = jax.lax.scan(lambda state, value: (_update(state, value), None), _start(path[0], k), path[1:])
        return _finish(state)

    found = jax.vmap(one)(equity.reshape(-1, equity.shape[-1]))
    return jax.tree.map(lambda field: field.reshape(*equity.shape[:-1], k), found)


def table(equity: np.ndarray, times: np.ndarray | None = None, *, deepest: int | None = None) -> pd.DataFrame:
    """Tabulates every drawdown of an equity curve.

    Args:
      equity: `[n + 1]` currency, the start included.
      times: `[n + 1]` datetime64 of its points; None numbers them from 0.
      deepest: how many, deepest first; None takes all, in the order of time.

    Returns:
      A row for each drawdown: `peak`, `trough`, `recovery` (time or number; NaT or NA if not recovered), `depth`
      (positive fraction of the peak), `bars_to_trough` (from the peak), `bars_to_recover` (from the trough; NA if not
      recovered), `bars` (from the peak to the recovery, or so far), `recovered`.

    Raises:
      ValueError: the equity is empty, not finite or starts at 0 or below, or `times` has another length.
    """
    equity = _checked(equity)
    if times is not None and len(times) != len(equity):
        raise ValueError(f"times has {len(times)} points but the equity {len(equity)}")
    if deepest is not None and deepest < 1:
        raise ValueError(f"deepest is {deepest}; at least 1 drawdown is expected")
    high = np.maximum.accumulate(equity)
    under = equity < high
    peak = np.flatnonzero(~under[:-1] & under[1:])
    back = np.flatnonzero(under[:-1] & ~under[1:]) + 1
    recovered = np.arange(len(peak)) < len(back)
    last = len(equity) - 1
    end = np.append(back, last)[: len(peak)]
    trough = np.array([p + int(np.argmin(equity[p : e + 1])) for p, e in zip(peak, end, strict=True)], np.int64)
    depth = 1.0 - equity[trough] / equity[peak]
    frame = pd.DataFrame(
        {
            "peak": _named(peak, times),
            "trough": _named(trough, times),
            "recovery": _named(end, times).where(recovered),
            "depth": depth,
            "bars_to_trough": trough - peak,
            "bars_to_recover": pd.Series(end - trough, dtype="Int64").where(recovered),
            "bars": end - peak,
            "recovered": recovered,
        }
    )
    if deepest is None:
        return frame
    return frame.sort_values("depth", ascending=False, kind="stable").head(deepest).reset_index(drop=True)


def _checked(equity: np.ndarray) -> np.ndarray:
    """`[n + 1]` float64.

    Raises:
      ValueError: see `table`.
    """
    equity = np.asarray(equity, np.float64)
    if equity.ndim != 1 or not len(equity):
        raise ValueError(f"equity has shape {equity.shape}; one curve with its starting point is expected")
    bad = ~np.isfinite(equity)
    if bad.any():
        raise ValueError(f"equity[{np.argmax(bad)}] is {equity[bad][0]}; every point must be finite")
    if equity[0] <= 0:
        raise ValueError(f"equity starts at {equity[0]:g}; a positive amount is expected")
    return equity


def _named(points: np.ndarray, times: np.ndarray | None) -> pd.Series:
    """Points as times, or as their numbers where there are none."""
    if times is None:
        return pd.Series(points, dtype="Int64")
    return pd.Series(np.asarray(times)[points])
