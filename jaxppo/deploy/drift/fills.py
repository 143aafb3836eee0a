"""Real fills, and what they cost beside what the accounting function would have charged for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxppo.errors import DataError


class Fill(NamedTuple):
    """A fill of a real account.

    Attributes:
      symbol: of the asset.
      quantity: shares (contracts of a future), signed: a sale is negative.
      price: that was paid, in the units of the prices that the policy is fed with.
      fee: commission and other charges, currency of the account; a rebate is negative.
    """

    symbol: str
    quantity: float
    price: float
    fee: float = 0.0


class Filled(NamedTuple):
    """The fills of one bar, added up.

    Attributes:
      size: `[A]` shares that were bought and sold, without sign.
      spent: `[A]` currency: signed shares times price, fees included.
      net: `[A]` shares, signed.
    """

    size: np.ndarray
    spent: np.ndarray
    net: np.ndarray


def add_fills(fills: Sequence[Fill], symbols: Sequence[str], multiplier: Sequence[float]) -> Filled:
    """Adds the fills of a bar up by asset.

    Args:
      fills: any number for an asset.
      symbols: of the A assets, in order.
      multiplier: of each asset, value of a contract over its price.

    Raises:
      DataError: a fill of what the market has not, or one that is not finite, without a size or without a price.
    """
    size, spent, net = np.zeros((3, len(symbols)))
    for fill in fills:
        symbol, quantity, price, fee = Fill(*fill)
        if symbol not in symbols:
            raise DataError(f"fills: {symbol} is none of {', '.join(symbols[:8])}")
        numbers = all(isinstance(x, int | float) and math.isfinite(x) for x in (quantity, price, fee))
        if not numbers or quantity == 0 or not price > 0:
            raise DataError(
                f"fills: {symbol}: quantity {quantity}, price {price} and fee {fee}; a fill has a quantity that is not "
                "0, a price > 0 and a fee, all finite"
            )
        place = list(symbols).index(symbol)
        size[place] += abs(quantity)
        net[place] += quantity
        spent[place] += quantity * price * multiplier[place] + fee
    return Filled(size, spent, net)


def cost_of(
    filled: Filled, modelled: np.ndarray, price: np.ndarray, tradable: np.ndarray
) -> tuple[float, float] | None:
    """Realised and modelled cost of the fills of a bar, as fractions of their value at its open.

    Realised is what was paid beyond the open of the bar, `sum q (p - open) + fees`: the accounting function fills at
    that price too, and charges its costs on top. What the price does between two fills of a bar is noise in it.

    Args:
      filled: in the bar.
      modelled: `[A]` currency that the accounting function charges for them.
      price: `[A]` open of the bar.
      tradable: `[A]` bool; without a bar of an asset there is no open to compare with.

    Returns:
      The two; None where nothing was filled.

    Reference: Perold, "The implementation shortfall: paper versus reality", JPM 14(3), 1988.
    """
    counted = tradable & (filled.size > 0)
    if not counted.any():
        return None
    value = float(np.sum((filled.size * price)[counted]))
    realised = float(np.sum((filled.spent - filled.net * price)[counted]))
    return realised / value, float(np.sum(np.asarray(modelled, np.float64)[counted])) / value
