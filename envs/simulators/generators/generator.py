"""Sources of random markets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxppo.envs.market.market_data import MarketData, MarketInfo


class Generator(NamedTuple):
    """A source of random markets.

    Attributes:
      name: of its kind, with the options that `data` does not hold.
      data: pytree of arrays: fitted parameters and source bars. An argument of compiled functions, never a constant.
      draw: `(data, key) -> MarketData` `[n_bars, A]`; pure, jittable, consumes the key, `vmap` it over keys. The same
        function for every generator of one kind and one `n_bars`, so that other data do not recompile.
    """

    name: str
    data: Any
    draw: Callable[[Any, jax.Array], MarketData]


def checked_source(market: MarketData, n_bars: int) -> MarketData:
    """Returns a market to draw from, without its names and times.

    Args:
      market: `[T, A]` source.
      n_bars: of a path.

    Raises:
      ValueError: fewer than 2 bars to draw from, or no bar to draw.
    """
    if market.n_bars < 2:
        raise ValueError(f"a generator needs at least 2 bars to draw from, got {market.n_bars}")
    if n_bars < 1:
        raise ValueError(f"n_bars is {n_bars}; a path needs at least 1 bar")
    return market.replace(info=MarketInfo())
