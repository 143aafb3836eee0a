"""Bars of crypto exchanges, through ccxt; they need no keys."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pandas as pd

from jaxppo.envs.data.sources.asking import UNREADABLE, Unavailable, asked, extra
from jaxppo.envs.data.sources.request import Request
from jaxppo.envs.data.sources.series import Series, day_after, seconds_of
from jaxppo.errors import DataError

FIELDS = ("open", "high", "low", "close", "volume")
ADJUSTED = "prices as traded, volume in the base currency"


def bars_of(request: Request) -> list[Series]:
    """Bars of each symbol.

    Args:
      request: what is asked for.

    Raises:
      DataError: ccxt is missing, no such exchange, symbol or length of bars, no first date, or no answer.
    """
    ccxt = extra("ccxt", "ccxt", request.source)
    if request.place not in ccxt.exchanges:
        raise DataError(f"{request.source}: no exchange of ccxt is called {request.place!r}")
    if request.start is None:
        raise DataError(
            f"{request.source}: exchanges do not say how far back they go; pass a first date, such as "
            "start='2022-01-01'"
        )
    exchange = getattr(ccxt, request.place)({"enableRateLimit": True})
    return [Series(symbol, frame) for symbol, frame in downloaded(exchange, ccxt, request).items()]


def downloaded(exchange: Any, ccxt: Any, request: Request) -> dict[str, pd.DataFrame]:
    """Symbol -> bars, of an exchange of ccxt.

    Args:
      exchange: to ask.
      ccxt: the package, for its errors.
      request: with a first date.

    Raises:
      DataError: see `bars_of`.
    """
    timeframe = request.timeframe
    assert timeframe is not None
    assert request.start is not None

    def called(function: Callable[[], Any]) -> Any:
        def ask() -> Any:
            try:
                return function()
            except (ccxt.RateLimitExceeded, ccxt.DDoSProtection) as error:
                raise Unavailable(str(error), limited=True) from None
            except (ccxt.AuthenticationError, ccxt.BadRequest, ccxt.NotSupported, ccxt.OperationRejected) as error:
                raise DataError(f"{request.source}: {' '.join(str(error).split())[:200]}") from None
            except (*UNREADABLE, ccxt.BaseError) as error:
                raise Unavailable(str(error) or type(error).__name__) from None

        return asked(ask, request.source)

    markets = called(exchange.load_markets)
    unknown = [symbol for symbol in request.symbols if symbol not in markets]
    if unknown:
        raise DataError(f"{request.source}: {exchange.id} has no market {unknown[0]}; symbols are such as BTC/USDT")
    lengths = {exchange.parse_timeframe(name): name for name in exchange.timeframes or ()}
    if timeframe.seconds not in lengths:
        known = ", ".join(lengths.values()) or "none"
        raise DataError(f"{request.source}: {exchange.id} has no bars of {timeframe}, only {known}")
    start = seconds_of(request.start)
    end = int(time.time()) + 1 if request.end is None else seconds_of(day_after(request.end))
    found = {}
    for symbol in request.symbols:

        def page(since: int, symbol: str = symbol) -> list[list[Any]]:
            return called(lambda: exchange.fetch_ohlcv(symbol, lengths[timeframe.seconds], since=since))

        rows = all_pages(page, start, end, timeframe.seconds, through_gaps=True)
        frame = pd.DataFrame(rows, columns=["time", *FIELDS]).astype(dict.fromkeys(FIELDS, float))
        times = pd.to_datetime(frame["time"].astype("int64"), unit="ms", utc=True)
        frame["time"] = times.dt.tz_localize(None).dt.normalize() if timeframe.daily else times
        found[symbol] = frame
    return found


def all_pages(
    page: Callable[[int], list[list[Any]]], start: int, end: int, seconds: float, through_gaps: bool = False
) -> list[list[Any]]:
    """Asks for bars page by page.

    Args:
      page: rows of milliseconds, open, high, low, close, volume, in order, from a time in milliseconds on.
      start: seconds since 1970.
      end: likewise; bars begin before it.
      seconds: of a bar.
      through_gaps: whether to go on behind an empty page, as exchanges have before a listing.
    """
    found: dict[int, list[Any]] = {}
    next_, longest = 1000 * start, 0
    while next_ < 1000 * end:
        rows = page(next_)
        new = {row[0]: row for row in rows if next_ <= row[0] < 1000 * end}
        longest = max(longest, len(rows))
        if new:
            found |= new
            next_ = max(new) + round(1000 * seconds)
        elif through_gaps and not any(row[0] >= next_ for row in rows):
            # What is asked for has no bar: the next may lie a page ahead.
            next_ += round(1000 * seconds) * max(longest, SHORTEST_PAGE)
        else:
            break
    return list(found.values())


SHORTEST_PAGE = 100
"""Bars that exchanges answer with at least, if there are as many."""
