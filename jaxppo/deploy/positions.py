"""The positions and the cash of a real account, as a file has them."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from jaxppo.errors import DataError

CASH = "CASH"
"""Symbol of the line whose quantity is cash, currency."""
COLUMNS = ("symbol", "quantity")
LARGEST = 1e15
"""Of shares and of currency, either way."""


@dataclasses.dataclass(frozen=True)
class Positions:
    """A real account.

    Attributes:
      shares: symbol -> shares (contracts of a future), signed.
      cash: currency, less what is borrowed; of an account of futures its equity.
      peak: highest equity so far, currency, from which drawdowns count; None for the equity as it is.
      on_order: symbol -> shares of orders that are still to be worked, signed.
    """

    shares: Mapping[str, float]
    cash: float
    peak: float | None = None
    on_order: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def check(self, symbols: Sequence[str]) -> None:
        """Refuses positions in what a market has not.

        Args:
          symbols: of the market's assets.

        Raises:
          DataError: names the first of them.
        """
        held = {**self.shares, **self.on_order}
        unknown = sorted(name for name, quantity in held.items() if name not in symbols and quantity != 0)
        if unknown:
            raise DataError(
                f"positions: {unknown[0]} is none of {', '.join(symbols[:8])}; the agent cannot trade it, so keep it "
                "in another account or leave it out"
            )

    def equity(self, symbols: Sequence[str], price: np.ndarray, futures: np.ndarray) -> float:
        """Cash and what the positions are worth, currency.

        Args:
          symbols: of the market's assets, in order.
          price: `[A]` marks.
          futures: `[A]` bool, assets that cost no cash.

        Raises:
          DataError: nothing is left.
        """
        shares = np.asarray([self.shares.get(name, 0.0) for name in symbols], np.float64)
        equity = float(self.cash + np.sum(np.where(futures, 0.0, shares * np.asarray(price, np.float64))))
        if not equity > 0:
            raise DataError(f"positions: cash {self.cash:g} and positions are worth {equity:g}; nothing is left")
        return equity


def amount_of(text: str) -> float | None:
    """Shares or currency that a text says; None where it is no number, or none that an account can have.

    Args:
      text: as a file or an option has it.
    """
    try:
        amount = float(text)
    except ValueError:
        return None
    return amount if abs(amount) <= LARGEST else None


def read_positions(path: str | pathlib.Path, cash: float | None = None, peak: float | None = None) -> Positions:
    """Reads positions from a CSV file with the columns `symbol` and `quantity`.

    Args:
      path: of the file; a line with the symbol CASH is the cash of the account.
      cash: in place of that line, currency.
      peak: highest equity so far, currency, > 0.

    Raises:
      DataError: no such file, a column that is missing, a symbol twice, a quantity that is no number, or no cash.
    """
    path = pathlib.Path(path)
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a CSV file of positions: {error}") from None
    frame.columns = [str(name).strip().lower() for name in frame.columns]
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise DataError(f"{path}: no column {missing[0]}; a file of positions has {' and '.join(COLUMNS)}")
    found: dict[str, float] = {}
    for number, (symbol, text) in enumerate(zip(frame["symbol"], frame["quantity"], strict=True), start=2):
        name = symbol.strip()
        quantity = amount_of(text)
        if quantity is None:
            raise DataError(f"{path}: line {number}: quantity of {name} is {text!r}, which is no usable number")
        if not name or name in found:
            raise DataError(f"{path}: line {number}: symbol {name!r} {'is there twice' if name else 'is empty'}")
        found[name] = quantity
    named = {name: found.pop(name) for name in list(found) if name.upper() == CASH}
    if cash is None and not named:
        raise DataError(f"{path}: no line {CASH}; give the cash of the account there or with --cash")
    return Positions(found, next(iter(named.values())) if cash is None else cash, peak)


def given_positions(
    path: str | pathlib.Path | None, cash: float | None = None, peak: float | None = None
) -> Positions | None:
    """The account that a file, or an amount of cash alone, stands for; None where neither is given.

    Args:
      path: see `read_positions`; None for an account without positions.
      cash: currency.
      peak: highest equity so far, currency, > 0.

    Raises:
      DataError: see `read_positions`; or a peak without an account, or that is not positive.
    """
    if peak is not None and (not peak > 0 or (path is None and cash is None)):
        raise DataError(f"peak is {peak:g}; it must be > 0, and belongs to positions or cash")
    if path is not None:
        return read_positions(path, cash, peak)
    return None if cash is None else Positions({}, cash, peak)
