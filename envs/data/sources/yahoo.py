"""Bars of Yahoo Finance, through yfinance."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import pandas as pd

from jaxppo.envs.data.sources.asking import UNREADABLE, Unavailable, asked, extra
from jaxppo.envs.data.sources.request import Request
from jaxppo.envs.data.sources.series import Series, day_after
from jaxppo.errors import DataError

INTERVALS = ("1m", "2m", "5m", "15m", "30m", "1h", "90m", "1d", "1wk", "1mo", "3mo")
ADJUSTED = "prices adjusted for splits, adj_close for dividends too"
COLUMNS = {"Open": "open", "High": "high", "Low": "low", "Close": "close", "Adj Close": "adj_close", "Volume": "volume"}


def bars_of(request: Request) -> list[Series]:
    """Bars of each symbol.

    Args:
      request: what is asked for.

    Raises:
      DataError: yfinance is missing, no such symbol or length of bars, or no answer.
    """
    yfinance = extra("yfinance", "yfinance", request.source)
    assert request.timeframe is not None
    unit = {"min": "m", "w": "wk"}.get(request.timeframe.unit, request.timeframe.unit)
    interval = f"{request.timeframe.n}{unit}"
    if interval not in INTERVALS:
        raise DataError(f"{request.source}: Yahoo has no bars of {interval}, only {', '.join(INTERVALS)}")
    span: dict[str, Any] = {"period": "max"}
    if request.start or request.end:
        # Without a start it would be a month before the end; without dates it is all there is.
        span = {"start": request.start or "1900-01-01", "end": request.end and day_after(request.end)}
    return [_series(yfinance, request, symbol, interval, span) for symbol in request.symbols]


def _series(yfinance: Any, request: Request, symbol: str, interval: str, span: dict[str, Any]) -> Series:
    def ask() -> tuple[pd.DataFrame, str]:
        try:
            return _history(yfinance, symbol, interval, span)
        except yfinance.exceptions.YFRateLimitError as error:
            raise Unavailable(str(error), limited=True) from None
        except yfinance.exceptions.YFTickerMissingError as error:
            reason = str(getattr(error, "yahoo_reason", None) or error.rationale)
            raise DataError(f"{request.source}: Yahoo has no prices of {symbol}: {reason}") from None
        except (*UNREADABLE, yfinance.exceptions.YFException) as error:
            code = getattr(getattr(error, "response", None), "status_code", None)
            if code == 404:
                raise DataError(f"{request.source}: Yahoo has no prices of {symbol}: no such symbol") from None
            raise Unavailable(str(error) or type(error).__name__, limited=code == 429) from None

    found, currency = asked(ask, request.source)
    daily = request.timeframe is not None and request.timeframe.daily
    if found.empty:
        return Series(symbol, pd.DataFrame(columns=["time", *COLUMNS.values()]))
    times = found.index
    zone = str(times.tz or "UTC")
    frame = found[list(COLUMNS)].rename(columns=COLUMNS).reset_index(drop=True)
    frame.insert(0, "time", times.tz_localize(None) if daily else times.tz_convert("UTC"))
    # Yahoo has rows of nothing, of holidays.
    return Series(symbol, frame.dropna(subset=["open", "high", "low", "close"], how="all"), zone, currency)


def _history(yfinance: Any, symbol: str, interval: str, span: dict[str, Any]) -> tuple[pd.DataFrame, str]:
    """Bars of a symbol, and their currency; errors are raised instead of logged."""
    log = logging.getLogger("yfinance")
    level, debug = log.level, getattr(getattr(yfinance, "config", None), "debug", None)
    hidden = getattr(debug, "hide_exceptions", None)
    log.setLevel(logging.CRITICAL)
    if debug is not None:
        debug.hide_exceptions = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ticker = yfinance.Ticker(symbol)
            found = ticker.history(interval=interval, auto_adjust=False, actions=False, raise_errors=True, **span)
        # What came with the bars; the public way to it asks Yahoo once more.
        about = getattr(getattr(ticker, "_price_history", None), "_history_metadata", None) or {}
        return found, str(about.get("currency") or "")
    finally:
        log.setLevel(level)
        if debug is not None:
            debug.hide_exceptions = hidden
