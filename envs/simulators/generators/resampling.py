"""Generators that put whole bars of the source in another order, all assets together."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.simulators.bootstrap import block_bootstrap, circular_indices, resample
from jaxppo.envs.simulators.generators.generator import Generator, checked_source
from jaxppo.envs.simulators.markov import checked_chain, checked_labels, estimate_chain, markov_path


def stationary_bootstrap(market: MarketData, n_bars: int, *, mean_block: float) -> Generator:
    """Stationary bootstrap: blocks of geometric length, jointly over assets and columns.

    Example:
      >>> import jax
      >>> from jaxppo.envs import load_market
      >>> from jaxppo.envs.simulators.generators import stationary_bootstrap
      >>> generator = stationary_bootstrap(load_market("us5_1d"), n_bars=252, mean_block=20)
      >>> generator.draw(generator.data, jax.random.key(0))
      MarketData(252 bars x 5 assets)

    Args:
      market: `[T, A]` source, T >= 2.
      n_bars: of a path.
      mean_block: mean length of a block in bars, >= 1.

    Raises:
      ValueError: an argument outside its range.

    Reference: Politis, Romano (1994), The stationary bootstrap.
    """
    mean_block = _checked_block("mean_block", mean_block)
    data = {"market": checked_source(market, n_bars), "mean_block": jnp.asarray(mean_block, jnp.float32)}
    return Generator("stationary_bootstrap", data, _stationary(n_bars))


@functools.cache
def _stationary(n_bars: int):
    def draw(data: dict[str, Any], key: jax.Array) -> MarketData:
        return block_bootstrap(key, data["market"], n_bars, data["mean_block"])

    return draw


def circular_bootstrap(market: MarketData, n_bars: int, *, block: float) -> Generator:
    """Circular bootstrap: blocks of one length, jointly over assets and columns.

    Args:
      market: `[T, A]` source, T >= 2.
      n_bars: of a path.
      block: length of a block in bars, >= 1; rounded up to whole bars.

    Raises:
      ValueError: an argument outside its range.

    Reference: Politis, Romano (1992), A circular block-resampling procedure for stationary data.
    """
    block = min(math.ceil(_checked_block("block", block)), n_bars)
    data = {"market": checked_source(market, n_bars), "block": jnp.asarray(block, jnp.int32)}
    return Generator("circular_bootstrap", data, _circular(n_bars))


@functools.cache
def _circular(n_bars: int):
    @jax.jit
    def draw(data: dict[str, Any], key: jax.Array) -> MarketData:
        market = data["market"]
        starts = jax.random.randint(key, (n_bars,), 0, market.n_bars - 1)
        index, fresh = circular_indices(starts, data["block"], n_bars, market.n_bars - 1)
        return resample(market, index + 1, fresh)

    return draw


def regime_bootstrap(
    market: MarketData,
    n_bars: int,
    *,
    labels: np.ndarray,
    mean_block: float,
    regime: int | None = None,
    transition: np.ndarray | None = None,
) -> Generator:
    """Bootstrap of blocks of one regime each, where the regimes follow their estimated Markov chain.

    A block begins at a bar drawn uniformly among those of the regime, and goes on bar by bar until the regime of the
    path changes, the source's does, or a new block begins by chance (probability `1 / mean_block` per bar).

    Args:
      market: `[T, A]` source, T >= 2.
      n_bars: of a path.
      labels: `[T]` ints, the regime of each bar, one for all assets; negative where unknown: such bars are not drawn.
      mean_block: mean length in bars of a block that no change of regime ends, >= 1.
      regime: if given, every bar comes from this regime, such as crisis only.
      transition: `[S, S]` probabilities of the next bar's regime (column) given this bar's (row); default: relative
        frequencies of the labels.

    Raises:
      ValueError: an argument outside its range, or a regime of which there is no bar.
    """
    mean_block = _checked_block("mean_block", mean_block)
    source = checked_source(market, n_bars)
    labels = checked_labels(labels, market.n_bars)
    share, estimated = estimate_chain(labels)
    transition = estimated if transition is None else checked_chain(transition, len(share))
    if regime is not None:
        if not 0 <= regime < len(share) or share[regime] == 0:
            raise ValueError(f"regime is {regime}; there are bars of {np.flatnonzero(share).tolist()} only")
        share = np.eye(len(share))[regime]
        transition = np.tile(share, (len(share), 1))
    elif (transition[:, share == 0] > 0)[share > 0].any():
        raise ValueError("transition leads to a regime of which the source has no bar")
    rows = np.argsort(labels, kind="stable")
    rows = rows[labels[rows] >= 0]
    counts = np.bincount(labels[rows], minlength=len(share))
    data = {
        "market": source,
        "labels": jnp.asarray(labels, jnp.int32),
        "rows": jnp.asarray(rows, jnp.int32),
        "first": jnp.asarray(np.cumsum(counts) - counts, jnp.int32),
        "count": jnp.asarray(counts, jnp.int32),
        "initial": jnp.asarray(share, jnp.float32),
        "transition": jnp.asarray(transition, jnp.float32),
        "restart": jnp.asarray(1.0 / mean_block, jnp.float32),
    }
    return Generator("regime_bootstrap", data, _regimes(n_bars))


@functools.cache
def _regimes(n_bars: int):
    def draw(data: dict[str, Any], key: jax.Array) -> MarketData:
        path_key, draws_key = jax.random.split(key)
        regime = markov_path(path_key, n_bars, data["initial"], data["transition"])
        choice, restart = jax.random.uniform(draws_key, (2, n_bars))
        row, fresh = _regime_rows(data, regime, choice, restart)
        return resample(data["market"], row, fresh)

    return draw


def _regime_rows(
    data: dict[str, jax.Array], regime: jax.Array, choice: jax.Array, restart: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Source bars `[N]` of the regimes `[N]` int32, and where blocks begin `[N]`.

    `choice` and `restart`, `[N]` uniform over [0, 1), say with which bar of its regime a block begins, and whether one
    begins.
    """
    n_source = data["labels"].shape[0]

    def step(row: jax.Array, now: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, Any]:
        regime, choice, restart = now
        count = data["count"][regime]
        begun = data["rows"][data["first"][regime] + jnp.minimum((choice * count).astype(jnp.int32), count - 1)]
        following = jnp.minimum(row + 1, n_source - 1)
        fresh = (restart < data["restart"]) | (row + 1 >= n_source) | (data["labels"][following] != regime)
        row = jnp.where(fresh, begun, following)
        return row, (row, fresh)

    _, (rows, fresh) = jax.lax.scan(step, jnp.asarray(n_source, jnp.int32), (regime, choice, restart))
    return rows, fresh


def _checked_block(name: str, bars: float | None) -> float:
    """A length of blocks as a float, or ValueError."""
    if bars is None or not 1 <= bars < math.inf:
        raise ValueError(f"{name} is {bars}; it must be a number of bars >= 1")
    return float(bars)
