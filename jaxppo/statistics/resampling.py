"""Resampling of bars by the stationary bootstrap: blocks of geometric length (Politis & Romano, JASA 1994)."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxppo.envs.simulators import bootstrap

BATCH_ELEMENTS = 2**20
"""Random numbers drawn together, which bounds the memory of a bootstrap whatever the length of the series."""


def batch_size(n_resamples: int, elements: int) -> int:
    """Resamples that are computed together, see `BATCH_ELEMENTS`; a divisor of their number, if one is near.

    What `jax.lax.map` does with a remainder is compiled as a program of its own.

    Args:
      n_resamples: in all, >= 1.
      elements: random numbers, or values, of each.
    """
    most = max(1, min(n_resamples, BATCH_ELEMENTS // elements))
    return next((size for size in range(most, most // 2, -1) if n_resamples % size == 0), most)


def stationary_bootstrap_indices(key: jax.Array, n: int, mean_block: jax.Array | float) -> jax.Array:
    """Draws one resample of `n` bars by the stationary bootstrap (unbatched; `vmap` over keys).

    Args:
      key: consumed.
      n: number of bars, static, >= 1.
      mean_block: mean length of a block in bars, >= 1; 1 is the ordinary bootstrap. Traceable.

    Returns:
      `[n]` int32 in [0, n): `returns[indices]` is the resample, all columns of a panel together.
    """
    start_key, block_key = jax.random.split(key)
    start = jax.random.randint(start_key, (n,), 0, n)
    return bootstrap.stationary_indices(start, jax.random.uniform(block_key, (n,)), 1.0 / mean_block, n)[0]


@functools.partial(jax.jit, static_argnames=("n_resamples",))
def resampled_means(key: jax.Array, series: jax.Array, mean_block: jax.Array | float, n_resamples: int) -> jax.Array:
    """Means over the resamples of a stationary bootstrap, in memory that does not grow with their number.

    Args:
      key: consumed.
      series: `[n, N]`.
      mean_block: mean block length in bars, >= 1. Traceable.
      n_resamples: static.

    Returns:
      `[n_resamples, N]`.
    """
    n = series.shape[0]

    def one(resample_key: jax.Array) -> jax.Array:
        bars = stationary_bootstrap_indices(resample_key, n, mean_block)
        # The mean of every series is one matmul of how often each bar was drawn, where a gather would copy them all.
        counts = jnp.zeros((n,), jnp.float32).at[bars].add(1.0)
        return jnp.matmul(counts.astype(series.dtype), series, precision=jax.lax.Precision.HIGHEST) / n

    keys = jax.random.split(key, n_resamples)
    return jax.lax.map(one, keys, batch_size=batch_size(n_resamples, n))
