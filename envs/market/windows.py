"""Causal primitives along the leading time axis `[T, ...]`: lags, rolling windows, linear recursions.

All are accurate in float32 on long tables: rolling windows are built by doubling (sums of sums, never a difference of
two running totals), and recursions only multiply by factors in [0, 1]. Within a stream
(`jaxppo.envs.market.streaming`) they are given one row, and remember what they need of those before.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from jaxppo.envs.market import streaming
from jaxppo.envs.market.kernels import compiled, in_one, once, platform, rounded
from jaxppo.envs.market.rows import first_row, row_number, with_past

Aggregate = TypeVar("Aggregate")
Moments = tuple[jax.Array, jax.Array]
ValidMoments = tuple[jax.Array, jax.Array, jax.Array]


def shift(x: jax.Array, bars: int) -> jax.Array:
    """Lags a series; the first value repeats before the start.

    Args:
      x: `[T, ...]`.
      bars: lag, >= 0.
    """
    return _shifted(x, bars) if streaming.current() is None else with_past(x, bars, None)[:1]


@functools.partial(compiled, static_argnums=1)
def _shifted(x: jax.Array, bars: int) -> jax.Array:
    """`shift` of a whole table."""
    if bars == 0:
        return x
    n_bars = x.shape[0]
    start = jnp.broadcast_to(x[:1], (min(bars, n_bars), *x.shape[1:]))
    return jnp.concatenate([start, x[: max(n_bars - bars, 0)]])


def _rolling(
    aggregate: Aggregate,
    window: int,
    combine: Callable[[Aggregate, int, Aggregate, int], Aggregate],
    start: Aggregate | None = None,
) -> Aggregate:
    """Combines the last `window` bars in about `2 log2(window)` steps.

    Args:
      aggregate: pytree of `[T, ...]`, the aggregate of one bar.
      window: bars, >= 1.
      combine: `(older, n_older, newer, n_newer) -> aggregate` of two adjacent blocks of bars.
      start: aggregate `[1, ...]` of each bar before the first; None repeats the first.
    """
    if window < 1:
        raise ValueError(f"a rolling window must hold at least 1 bar, got {window}")
    # Called, not inlined: what is combined would else be computed with other digits in a stream, where a compiler that
    # fuses it with additions leaves out its rounding, than in a table.
    combined = _combined(window, combine)
    if streaming.current() is not None:
        starts = jax.tree.map(lambda _: None, aggregate) if start is None else start
        rows = jax.tree.map(
            lambda x, first: with_past(x, window - 1, first), aggregate, starts, is_leaf=lambda x: x is None
        )
        return jax.tree.map(lambda x: x[-1:], once(combined, rows))
    if start is not None:
        aggregate = jax.tree.map(lambda first, x: jnp.concatenate([first, x]), start, aggregate)
    found = once(combined, aggregate)
    return found if start is None else jax.tree.map(lambda x: x[1:], found)


@functools.cache
def _combined(
    window: int, combine: Callable[[Aggregate, int, Aggregate, int], Aggregate]
) -> Callable[[Aggregate], Aggregate]:
    """`_rolling` of a whole table, whose first bar repeats before the start; the same function for the same window."""

    def combined(block: Aggregate) -> Aggregate:
        # Binary digits of `window`: the blocks of 1, 2, 4, ... bars that it is the sum of, the newest first.
        result: Aggregate | None = None
        covered, length = 0, 1
        while True:
            if window & length:
                older = jax.tree.map(lambda x, bars=covered: _shifted(x, bars), block)
                result = older if result is None else combine(older, length, result, covered)
                covered += length
            if covered == window and result is not None:
                return result
            older = jax.tree.map(lambda x, bars=length: _shifted(x, bars), block)
            block, length = combine(older, length, block, length), 2 * length

    return combined


def _added(older: jax.Array, n_older: int, newer: jax.Array, n_newer: int) -> jax.Array:
    """Combines sums."""
    del n_older, n_newer
    return older + newer


def _larger(older: jax.Array, n_older: int, newer: jax.Array, n_newer: int) -> jax.Array:
    """Combines maxima."""
    del n_older, n_newer
    return jnp.maximum(older, newer)


def _smaller(older: jax.Array, n_older: int, newer: jax.Array, n_newer: int) -> jax.Array:
    """Combines minima."""
    del n_older, n_newer
    return jnp.minimum(older, newer)


def _moments(older: Moments, n_older: int, newer: Moments, n_newer: int) -> Moments:
    """Combines means and sums of squared deviations."""
    difference = newer[0] - older[0]
    total = n_older + n_newer
    mean = older[0] + rounded(difference * (n_newer / total))
    squares = older[1] + newer[1] + rounded(jnp.square(difference) * (n_older * n_newer / total))
    return mean, squares


def _valid_moments(older: ValidMoments, n_older: int, newer: ValidMoments, n_newer: int) -> ValidMoments:
    """Combines numbers of valid values, their means and sums of squared deviations."""
    del n_older, n_newer
    count = older[0] + newer[0]
    share = newer[0] / jnp.maximum(count, 1)
    difference = newer[1] - older[1]
    squares = older[2] + newer[2] + rounded(jnp.square(difference) * (older[0] * share))
    return count, older[1] + rounded(difference * share), squares


def rolling_sum(x: jax.Array, window: int) -> jax.Array:
    """Sums the last values, the current one included; the first value repeats before the start.

    Args:
      x: `[T, ...]`.
      window: values, >= 1.
    """
    return _rolling(x, window, _added)


def rolling_valid_sum(x: jax.Array, valid: jax.Array, window: int) -> jax.Array:
    """Sums the valid ones among the last values, the current one included; nothing repeats before the start.

    Args:
      x: `[T, ...]`; any value, NaN included, where not valid.
      valid: `[T, ...]` bool.
      window: values, >= 1.
    """
    kept = jnp.where(valid, x, 0)
    return _rolling(kept, window, _added, jnp.zeros_like(kept[:1]))


def rolling_mean(x: jax.Array, window: int) -> jax.Array:
    """Averages the last values, the current one included; the first value repeats before the start.

    Args:
      x: `[T, ...]`.
      window: values, >= 1.
    """
    return rolling_sum(x, window) / window


def rolling_max(x: jax.Array, window: int) -> jax.Array:
    """Largest of the last values, the current one included.

    Args:
      x: `[T, ...]`.
      window: values, >= 1.
    """
    return _rolling(x, window, _larger)


def rolling_min(x: jax.Array, window: int) -> jax.Array:
    """Smallest of the last values, the current one included.

    Args:
      x: `[T, ...]`.
      window: values, >= 1.
    """
    return _rolling(x, window, _smaller)


def rolling_rank(x: jax.Array, window: int) -> jax.Array:
    """Ranks each value among the last ones: the fraction of them, itself included, that are at most as large.

    Args:
      x: `[T, ...]`.
      window: values, >= 1; near the start, those there are.

    Returns:
      `[T, ...]` in (0, 1].
    """
    known = jnp.minimum(row_number(x) + 1, window)
    if streaming.current() is not None:
        past = with_past(x, window - 1, jnp.full_like(x, jnp.inf))
        return jnp.sum(past <= x, axis=0, keepdims=True, dtype=jnp.int32) / known
    n_bars = x.shape[0]
    padding = jnp.full((window - 1, *x.shape[1:]), jnp.inf, x.dtype)
    padded = jnp.concatenate([padding, x])

    def add(lag: jax.Array, count: jax.Array) -> jax.Array:
        past = jax.lax.dynamic_slice_in_dim(padded, window - 1 - lag, n_bars)
        return count + (past <= x)

    count = jax.lax.fori_loop(0, window, add, jnp.zeros(x.shape, jnp.int32))
    return count / known


def rolling_moments(x: jax.Array, window: int) -> tuple[jax.Array, jax.Array]:
    """Mean and sum of squared deviations of the last values, free of cancellation; starts like `rolling_sum`.

    Args:
      x: `[T, ...]`.
      window: values, >= 1.

    Returns:
      `(mean, squares)`, each `[T, ...]`: `squares / window` is the population variance, `squares / (window - 1)` the
      sample variance.

    Reference: Chan, Golub, LeVeque (1983), Algorithms for Computing the Sample Variance, eq. 1.5.
    """

    return _rolling((x, jnp.zeros_like(x)), window, _moments)


def rolling_deviation(x: jax.Array, valid: jax.Array, window: int) -> jax.Array:
    """Sample standard deviation of the valid ones among the last values, the current one included.

    Equals `pandas.Series.rolling(window, min_periods=2).std()`, of a series that is NaN where not valid.

    Args:
      x: `[T, ...]`; any finite value where not valid.
      valid: `[T, ...]` bool.
      window: values, >= 1.

    Returns:
      `[T, ...]`, 0 where fewer than two are valid.

    Reference: Chan, Golub, LeVeque (1983), Algorithms for Computing the Sample Variance, eq. 1.5.
    """

    nothing = jnp.zeros_like(x[:1])
    start = (nothing, x[:1], nothing)  # rows before the first count for nothing
    count, _, squares = _rolling((valid.astype(x.dtype), x, jnp.zeros_like(x)), window, _valid_moments, start)
    return jnp.sqrt(squares / jnp.maximum(count - 1, 1))


def linear_recurrence(decay: jax.Array | float, drive: jax.Array) -> jax.Array:
    """Solves `y_t = decay_t * y_{t-1} + drive_t` with `y_{-1} = 0`.

    Args:
      decay: factor in [0, 1], broadcast to the shape of `drive`.
      drive: `[T, ...]`.

    Returns:
      `[T, ...]`, in the dtype of `drive`.
    """
    decay = jnp.broadcast_to(jnp.asarray(decay, drive.dtype), drive.shape)
    stream = streaming.current()
    if stream is not None:
        # In a kernel of its own, as in a table: the compiler would else leave out the rounding of `drive`.
        return stream.remember(
            drive.shape, drive.dtype, lambda value: (in_one(lambda a, b, c: a * b + c, value, decay, drive),) * 2
        )
    # A CPU is fastest bar by bar; an accelerator pays for every sequential step.
    if platform() == "cpu":

        def step(value, bar):
            value = value * bar[0] + bar[1]
            return value, value

        return in_one(lambda *bars: jax.lax.scan(step, jnp.zeros_like(bars[1][0]), bars)[1], decay, drive)
    return _in_blocks(decay, drive)


def _in_blocks(decay: jax.Array, drive: jax.Array) -> jax.Array:
    """Solves `linear_recurrence` in about `2 sqrt(T)` sequential steps.

    Blocks of `sqrt(T)` bars run side by side from zero; then their end values are chained and added back.
    """
    n_bars = drive.shape[0]
    length = math.isqrt(n_bars - 1) + 1
    n_blocks = -(-n_bars // length)

    def blocks(x: jax.Array) -> jax.Array:
        padding = jnp.zeros((n_blocks * length - n_bars, *x.shape[1:]), x.dtype)
        return jnp.concatenate([x, padding]).reshape(n_blocks, length, *x.shape[1:]).swapaxes(0, 1)

    def inside(carry, bar):
        product, value = carry
        decay_t, drive_t = bar
        carry = (product * decay_t, value * decay_t + drive_t)
        return carry, carry

    def across(carry, block):
        product, value = block
        return value + product * carry, carry

    start = jnp.zeros((n_blocks, *drive.shape[1:]), drive.dtype)
    (last_product, last_value), (products, values) = jax.lax.scan(
        inside, (start + 1, start), (blocks(decay), blocks(drive))
    )
    _, incoming = jax.lax.scan(across, jnp.zeros_like(drive[0]), (last_product, last_value))
    solved = values + products * incoming[None]
    return solved.swapaxes(0, 1).reshape(n_blocks * length, *drive.shape[1:])[:n_bars]


def seeded_average(x: jax.Array, weight: float, window: int, start: int) -> jax.Array:
    """Exponential average seeded at bar `start` by the plain mean of the `window` bars that end there, as in TA-Lib.

    `y_start = mean(x[start - window + 1 : start + 1])`, then `y_t = y_{t-1} + weight * (x_t - y_{t-1})`.

    Args:
      x: `[T, ...]`.
      weight: weight of the newest value, in (0, 1]: `1 / window` is Wilder's smoothing, `2 / (window + 1)` the EMA.
      window: bars in the seed, >= 1.
      start: bar of the seed, >= window - 1.

    Returns:
      `[T, ...]`; before `start` the rolling mean.
    """
    # Relative to the first value: a constant series comes back exactly, and a high price level costs no precision.
    level = first_row(x)
    x = x - level
    seeded = row_number(x) > start
    decay = jnp.where(seeded, 1 - weight, 0).astype(x.dtype)
    drive = jnp.where(seeded, weight * x, rolling_mean(x, window))
    return level + linear_recurrence(decay, drive)


def exponential_gain(valid: jax.Array, span: float) -> jax.Array:
    """Weight `k_t` of the newest value in a bias-corrected exponential average: 1 at the first valid value.

    `k_t = 1 / W_t`, `W_t = 1 + (1 - alpha) W_{t-1}`, `alpha = 2 / (span + 1)`; where `valid` is False, `k_t = 0` and
    `W_t = W_{t-1}`.

    Args:
      valid: `[T, ...]` bool.
      span: bars, >= 1, as in `pandas.Series.ewm(span=..., adjust=True, ignore_na=True)`.

    Returns:
      `[T, ...]` float32 in [0, 1].
    """
    drive = valid.astype(jnp.float32)
    total = linear_recurrence(jnp.where(valid, 1 - 2 / (span + 1), 1).astype(jnp.float32), drive)
    return drive / jnp.maximum(total, 1)


def exponential_average(x: jax.Array, valid: jax.Array, span: float) -> jax.Array:
    """Averages the valid values up to and including t with exponential weights, bias-corrected; 0 before the first.

    Equals `pandas.Series.ewm(span=span, adjust=True, ignore_na=True).mean()`.

    Args:
      x: `[T, ...]`; any value, NaN included, where not valid.
      valid: `[T, ...]` bool.
      span: bars, >= 1.
    """
    gain = exponential_gain(valid, span)
    return linear_recurrence(1 - gain, gain * jnp.where(valid, x, 0))
