"""Dividends that are paid in cash: prices of total returns for all that looks at returns, and prices as traded.

Whoever holds a share at the close before the ex-date receives `D_t` at bar t, the ex-date. Reinvested at the open of
that bar, it buys `D_t / O_t` shares. So the prices of total returns are those as traded times

`G_t = G_tm1 (1 + D_t / O_t)`, `G = 1` before the first dividend.

The product runs forward: a dividend changes no price before it. From the close before to the open it adds `D_t` to the
return, exactly; inside bars returns are those of the prices as traded.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxppo.envs.market.market_data import Dividends, MarketData
from jaxppo.errors import DataError


def with_dividends(market: MarketData, amount: np.ndarray) -> MarketData:
    """The market whose prices are those of total returns, and whose dividends accounts are paid; host-side.

    Args:
      market: unbatched, with prices as traded: they fall by the dividend on the ex-date.
      amount: `[T, A]` >= 0, dividend per share at the bar of the ex-date, currency; 0 for none.

    Returns:
      The market with `dividends`. Its volume counts the shares of the given one.

    Raises:
      DataError: another shape, dividends that are there already, or an amount that is negative or not finite.
    """
    amount = np.asarray(amount, np.float64)
    if amount.shape != market.close.shape:
        raise DataError(f"the dividends have shape {amount.shape}; [T, A] {market.close.shape} as of close is expected")
    if not isinstance(market.dividends, tuple):
        raise DataError("the market has dividends already; its prices are those of total returns")
    if not np.all(np.isfinite(amount) & (amount >= 0)):
        bad = amount[~(np.isfinite(amount) & (amount >= 0))][0]
        raise DataError(f"a dividend is {bad:g}; it must be finite and >= 0")
    factor = np.cumprod(1.0 + amount / np.asarray(market.open, np.float64), axis=0)
    prices = {name: np.asarray(getattr(market, name), np.float64) * factor for name in ("open", "high", "low", "close")}
    arrays = {name: jnp.asarray(values.astype(np.float32)) for name, values in prices.items()}
    paid = Dividends(*(jnp.asarray(x.astype(np.float32)) for x in (amount, factor)))
    return market.replace(**arrays, dividends=paid)
