"""Generators of market paths: what a Monte Carlo backtest draws its markets from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax

from envs.bootstrap import block_bootstrap
from envs.market import MarketData


class Generator(NamedTuple):
    """Draws markets of one shape.

    Attributes:
      data: pytree of arrays, whatever `draw` reads.
      draw: `(data, key) -> MarketData` of `[n_bars, A]`; consumes the key. Pure, jittable, vmappable over keys.
    """

    data: Any
    draw: Callable[[Any, jax.Array], MarketData]


def stationary_bootstrap(market: MarketData, n_bars: int, *, mean_block: float = 20.0) -> Generator:
    """Blocks of geometric length of a market, jointly over assets and columns; see `envs.bootstrap.block_bootstrap`.

    Args:
      market: `[T, A]` bars to draw from.
      n_bars: bars of each path.
      mean_block: mean block length in bars, >= 1.

    Raises:
      ValueError: a block shorter than a bar, or fewer than 2 bars to draw from.
    """
    if not mean_block >= 1:
        raise ValueError(f"mean_block is {mean_block}; a block is at least one bar long")
    if market.n_bars < 2:
        raise ValueError(f"a bootstrap needs at least 2 bars to draw from, got {market.n_bars}")
    return Generator({"market": market, "mean_block": jax.numpy.float32(mean_block)}, partial(_blocks, n_bars=n_bars))


def _blocks(data: dict[str, Any], key: jax.Array, n_bars: int) -> MarketData:
    return block_bootstrap(key, data["market"], n_bars, data["mean_block"])


GENERATORS: dict[str, Callable[..., Generator]] = {"stationary_bootstrap": stationary_bootstrap}
"""Name -> factory `(market, n_bars, **options)`."""
