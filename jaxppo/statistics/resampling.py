"""Bars of a stationary bootstrap: blocks of geometric length (Politis & Romano, JASA 1994)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxppo.envs.simulators import bootstrap

# Numbers drawn at once: what bounds the memory of a bootstrap whatever the length of the series.
BATCH_ELEMENTS = 2**20


def stationary_indices(start: jax.Array, uniform: jax.Array, probability: jax.Array | float) -> jax.Array:
    """Bars visited by a stationary bootstrap, from the random numbers that drive it (unbatched).

    The bars alone of `jaxppo.envs.simulators.bootstrap.stationary_indices`, of as many bars as there are to choose from: with probability
    `p` a new block begins at a fresh `start_t`, else the walk goes on to the next bar, from the last to the first.

    Args:
      start: `[n]` int32, uniform on [0, n).
      uniform: `[n]` uniform on [0, 1).
      probability: of a new block in a bar, the inverse of the mean block length, in (0, 1].

    Returns:
      `[n]` int32 in [0, n).
    """
    return bootstrap.stationary_indices(start, uniform, probability, start.shape[0])[0]


def stationary_bootstrap_indices(key: jax.Array, n: int, mean_block: jax.Array | float) -> jax.Array:
    """One resample of `n` bars by the stationary bootstrap (unbatched; `vmap` over keys).

    Args:
      key: consumed.
      n: number of bars, static, >= 1.
      mean_block: mean length of a block in bars, >= 1; 1 is the ordinary bootstrap. Traceable.

    Returns:
      `[n]` int32 in [0, n): `returns[indices]` is the resample, all columns of a panel together.
    """
    start_key, block_key = jax.random.split(key)
    start = jax.random.randint(start_key, (n,), 0, n)
    return stationary_indices(start, jax.random.uniform(block_key, (n,)), 1.0 / mean_block)


@functools.partial(jax.jit, static_argnames=("n", "n_resamples"))
def resampling_counts(key: jax.Array, n: int, mean_block: jax.Array | float, n_resamples: int) -> jax.Array:
    """How often each resample of a stationary bootstrap holds each bar.

    The mean of any series over a resample is `counts @ series / n`: of all series, and all resamples, one matmul.

    Args:
      key: consumed.
      n: number of bars, static.
      mean_block: mean block length in bars, >= 1. Traceable.
      n_resamples: static.

    Returns:
      `[n_resamples, n]` float32 counts; each row sums to n.
    """

    return _over_resamples(lambda counts: counts, key, n, mean_block, n_resamples)


@functools.partial(jax.jit, static_argnames=("n_resamples",))
def resampled_means(key: jax.Array, series: jax.Array, mean_block: jax.Array | float, n_resamples: int) -> jax.Array:
    """Means `[n_resamples, N]` of the resamples of `series [n, N]`, in memory that does not grow with their number.

    A matmul of counts for each batch of resamples; see `resampling_counts`.
    """
    n = series.shape[0]

    def mean(counts: jax.Array) -> jax.Array:
        return jnp.matmul(counts.astype(series.dtype), series, precision=jax.lax.Precision.HIGHEST) / n

    return _over_resamples(mean, key, n, mean_block, n_resamples)


def _over_resamples(
    statistic: Callable[[jax.Array], jax.Array], key: jax.Array, n: int, mean_block: jax.Array | float, n_resamples: int
) -> jax.Array:
    """`[n_resamples, ...]` of the counts `[n]` of each resample."""

    def one(resample_key: jax.Array) -> jax.Array:
        bars = stationary_bootstrap_indices(resample_key, n, mean_block)
        return statistic(jnp.zeros((n,), jnp.float32).at[bars].add(1.0))

    keys = jax.random.split(key, n_resamples)
    return jax.lax.map(one, keys, batch_size=max(1, min(n_resamples, BATCH_ELEMENTS // n)))
