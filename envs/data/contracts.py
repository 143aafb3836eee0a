"""Contracts: multipliers, by which prices become the value of one contract, and which assets are futures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxppo.envs.data.checks import beyond_float32, describe_size
from jaxppo.envs.data.options import LoadOptions
from jaxppo.envs.data.rows import PRICES, Rows


def multiply(rows: Rows, options: LoadOptions) -> None:
    """Multiplies prices and quotes by the multiplier of their symbol: `m_a * price_ta`, currency per contract.

    Volume stays what the file counts, contracts. Notional volume has become a number of contracts of multiplier 1, and
    is divided by `m_a`. The unadjusted close, of which a tick is a fraction, stays the price of the file.

    Args:
      rows: checked, adjusted and converted rows; changed.
      options: `multiplier` and `volume` apply.

    Raises:
      DataError: the value of a contract is beyond the range of prices.
    """
    frame = rows.frame
    own = multipliers([str(name) for name in frame["symbol"].cat.categories], options)
    if np.all(own == 1):
        return
    factor = own[frame["symbol"].cat.codes.to_numpy()]
    multiplied = {name: frame[name] * factor for name in (*PRICES, "bid", "ask")}
    if options.volume == "notional":
        multiplied["volume"] = frame["volume"] / factor
    rows.frame = frame.assign(**multiplied)
    rows.raise_at_first(
        beyond_float32(rows.frame),
        lambda i: (f"times the multiplier, {describe_size(rows.frame.iloc[i])}", "check multiplier"),
    )


def multipliers(names: Sequence[str], options: LoadOptions) -> np.ndarray:
    """Multiplier of each symbol, `[A]` > 0, currency per contract and unit of the price; 1 where none is given.

    Args:
      names: `A` symbols.
      options: `multiplier` applies.
    """
    given = options.multiplier
    return np.asarray([given.get(name, 1.0) if isinstance(given, Mapping) else given for name in names], np.float64)


def futures_of(names: Sequence[str], options: LoadOptions) -> np.ndarray:
    """Whether each symbol is a future, `[A]` bool.

    Args:
      names: `A` symbols.
      options: `futures` applies.
    """
    given = options.futures
    return np.asarray([given if isinstance(given, bool) else name in given for name in names], bool)


def contract_report(names: Sequence[str], options: LoadOptions) -> dict[str, Any]:
    """What the data report says of contracts: `multiplier` of the symbols that have one, names of `futures`.

    Args:
      names: `A` symbols.
      options: `multiplier` and `futures` apply.
    """
    own = dict(zip(names, multipliers(names, options).tolist(), strict=True))
    other = {name: value for name, value in own.items() if value != 1}
    futures = [name for name, is_future in zip(names, futures_of(names, options), strict=True) if is_future]
    return {**({"multiplier": other} if other else {}), **({"futures": futures} if futures else {})}
