"""`jaxppo.testing.check_causal` with a bar that is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxppo.envs.market.market_data import MarketData
from jaxppo.testing import check_causal, randomise_after

__all__ = ["assert_causal", "randomise_after"]


def assert_causal(fn: Callable[[MarketData], Any], market: MarketData, t: int, key: jax.Array) -> None:
    """Raises AssertionError unless `fn(market)` at rows <= t is bit-equal whatever happens after t.

    Also raises if nothing after t changes anything in the result: such a check would prove nothing.

    Args:
      fn: market to a pytree of arrays with leading axis T.
      market: `[T, A]` bars.
      t: last bar that is kept, `0 <= t < T - 1`.
      key: consumed.
    """
    check_causal(fn, market=market, bars=(t,), key=key)
