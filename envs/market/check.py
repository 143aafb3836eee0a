"""The check of a market that was made in Python: what a price file must satisfy, arrays must as well."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxppo.envs.market.market_data import MarketData
from jaxppo.errors import DataError

PRICES = ("open", "high", "low", "close")
ROUNDING = 1e-5
"""Share of the price by which open and close may lie outside of [low, high]: float32 and adjustments round."""


def check_market(market: MarketData) -> MarketData:
    """Refuses a market with prices that cannot be right, naming asset and bar; one pass over the arrays.

    Args:
      market: unbatched.

    Returns:
      The market.

    Raises:
      DataError: symbols that cannot be printed, arrays of different shapes, a price that is not finite and positive, a
        bar whose range does not hold its open and close, a volume or half-spread that is negative or not finite, times
        that do not increase, an asset that trades after its end, funding or dividends that are not finite.
    """
    check_symbols(market.info.symbols)
    arrays = {name: np.asarray(getattr(market, name)) for name in (*PRICES, "volume", "half_spread", "tradable")}
    shape = arrays["close"].shape
    for name, array in arrays.items():
        if array.ndim != 2 or array.shape != shape:
            raise DataError(f"the market's {name} has shape {array.shape}; [T, A] {shape} as of close is expected")
    times = market.info.timestamps
    if len(times) not in (0, shape[0]) or np.any(np.diff(times) <= np.timedelta64(0)):
        raise DataError(f"the market's timestamps must be {shape[0]} increasing times, or none")
    for name in PRICES:
        _refuse(market, ~(np.isfinite(arrays[name]) & (arrays[name] > 0)), name, arrays[name], "finite and positive")
    top, bottom = (pick(arrays["open"], arrays["close"]) for pick in (np.maximum, np.minimum))
    _refuse(market, arrays["high"] < top * (1 - ROUNDING), "high", arrays["high"], "at least open and close")
    _refuse(market, arrays["low"] > bottom * (1 + ROUNDING), "low", arrays["low"], "at most open and close")
    for name in ("volume", "half_spread"):
        _refuse(market, ~(np.isfinite(arrays[name]) & (arrays[name] >= 0)), name, arrays[name], "finite and >= 0")
    if not isinstance(market.ended, tuple):
        ended = np.asarray(market.ended)
        if ended.shape != shape or ended.dtype != bool:
            raise DataError(f"the market's ended is {ended.dtype} {ended.shape}; bool {shape} is expected, or ()")
        back = ended & arrays["tradable"]
        back[1:] |= ended[:-1] & ~ended[1:]
        _refuse(market, back, "ended", ended, "False where the asset trades, and True from its end on")
    if not isinstance(market.carry, tuple):
        carry = np.asarray(market.carry)
        if carry.shape != shape:
            raise DataError(f"the market's carry has shape {carry.shape}; {shape} is expected, or ()")
        _refuse(market, np.isinf(carry), "carry", carry, "finite, or NaN if unknown")
    _check_payments(market)
    for name, values in () if isinstance(market.columns, tuple) else market.columns.items():
        column = np.asarray(values)
        if column.shape != shape:
            raise DataError(f"the market's column {name} has shape {column.shape}; {shape} is expected")
        _refuse(market, np.isinf(column), f"column {name}", column, "finite, or NaN if unknown")
    if not isinstance(market.futures, tuple):
        futures = np.asarray(market.futures)
        if futures.shape != shape[1:] or futures.dtype != bool:
            raise DataError(
                f"the market's futures is {futures.dtype} {futures.shape}; bool {shape[1:]} is expected, or ()"
            )
    return market


def _check_payments(market: MarketData) -> None:
    """Refuses funding that is not finite, and dividends that the prices do not contain."""
    arrays = {} if isinstance(market.funding, tuple) else {"funding": market.funding}
    if not isinstance(market.dividends, tuple):
        arrays |= {"dividends": market.dividends.amount, "factor of dividends": market.dividends.factor}
    for name, values in arrays.items():
        array = np.asarray(values)
        if array.shape != market.close.shape:
            raise DataError(f"the market's {name} has shape {array.shape}; {market.close.shape} is expected, or ()")
        _refuse(market, ~np.isfinite(array), name, array, "finite")
        if name == "dividends":
            _refuse(market, array < 0, name, array, "at least 0; see with_dividends")
        if name == "factor of dividends":
            falls = (array < 1) | (np.diff(array, axis=0, prepend=array[:1]) < 0)
            _refuse(market, falls, name, array, "at least 1 and never fall; see with_dividends")


def check_symbols(symbols: Sequence[str]) -> None:
    """Refuses symbols with characters that are not shown, or that change how others are shown: names go into reports.

    Args:
      symbols: of a market.

    Raises:
      DataError: names the first one and its character.
    """
    for symbol in symbols:
        hidden = next((c for c in str(symbol) if c != " " and not c.isprintable()), None)
        if hidden is not None:
            raise DataError(f"the symbol {str(symbol)[:60]!a} holds the character U+{ord(hidden):04X}; rename it")


def _refuse(market: MarketData, bad: np.ndarray, name: str, values: np.ndarray, allowed: str) -> None:
    """A DataError for the first of the marked values `[T, A]`, if there is one."""
    found = np.argwhere(bad)
    if not len(found):
        return
    bar, asset = (int(i) for i in found[0])
    symbol = market.info.symbols[asset] if market.info.symbols else f"asset {asset}"
    when = f" ({str(market.info.timestamps[bar])[:16]})" if len(market.info.timestamps) else ""
    more = f" ({len(found)} such values)" if len(found) > 1 else ""
    value = f"{values[bar, asset]:g}"
    raise DataError(f"the market's {name} of {symbol} at bar {bar}{when} is {value}; it must be {allowed}{more}")
