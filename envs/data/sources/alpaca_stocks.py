"""Bars of US stocks from Alpaca, through alpaca-py."""

from __future__ import annotations

import datetime
from typing import Any

import pandas as pd

from jaxppo.envs.data.sources.alpaca_client import alpaca_keys, said, with_timeout
from jaxppo.envs.data.sources.asking import UNREADABLE, Unavailable, asked, extra
from jaxppo.envs.data.sources.request import Request
from jaxppo.envs.data.sources.series import Series, day_after, seconds_of
from jaxppo.envs.data.sources.timeframes import Timeframe
from jaxppo.errors import DataError

FIELDS = {"o": "open", "h": "high", "l": "low", "c": "close", "v": "volume"}
FIRST = "2016-01-01"
"""Alpaca has no bars before."""
RECENT = 16 * 60
"""Seconds that accounts without a subscription have to stay away from now, and one more minute."""
ZONE = "America/New_York"
ADJUSTED = "prices adjusted for splits and dividends as of the download, trades of all exchanges"
PASSING = (429, 500, 502, 503, 504)
"""Answers that may be others when one asks again."""


def bars_of(request: Request) -> list[Series]:
    """Bars of each symbol.

    Args:
      request: what is asked for.

    Raises:
      DataError: alpaca-py or keys are missing, no such symbol or length of bars, or no answer.
    """
    historical = extra("alpaca.data.historical", "alpaca", request.source)
    key, secret = alpaca_keys(request.source)
    client = with_timeout(historical.StockHistoricalDataClient(key, secret, raw_data=True))
    return downloaded(client, request)


def downloaded(client: Any, request: Request) -> list[Series]:
    """Bars of each symbol.

    Args:
      client: a `StockHistoricalDataClient` of raw data.
      request: what is asked for.

    Raises:
      DataError: see `bars_of`.
    """
    from alpaca.common.exceptions import APIError
    from alpaca.data.enums import Adjustment, DataFeed
    from alpaca.data.requests import StockBarsRequest

    timeframe = request.timeframe
    assert timeframe is not None
    start = seconds_of(request.start or FIRST)
    latest = int(datetime.datetime.now(datetime.UTC).timestamp()) - RECENT
    end = latest if request.end is None else min(latest, seconds_of(day_after(request.end)) - 1)
    asked_for = StockBarsRequest(
        symbol_or_symbols=list(request.symbols),
        timeframe=_length(request.source, timeframe),
        start=datetime.datetime.fromtimestamp(start, datetime.UTC),
        end=datetime.datetime.fromtimestamp(max(end, start), datetime.UTC),
        adjustment=Adjustment.ALL,
        feed=DataFeed.SIP,
    )

    def ask() -> dict[str, list[dict[str, Any]]]:
        try:
            return client.get_stock_bars(asked_for)
        except APIError as error:
            if error.status_code in PASSING:
                raise Unavailable(said(error), limited=error.status_code == 429) from None
            raise DataError(f"{request.source}: {said(error)}") from None
        except UNREADABLE as error:
            raise Unavailable(said(error)) from None

    answer = asked(ask, request.source)
    return [Series(symbol, _frame(answer.get(symbol) or [], timeframe), ZONE) for symbol in request.symbols]


def _frame(rows: list[dict[str, Any]], timeframe: Timeframe) -> pd.DataFrame:
    """Bars of a symbol, as Alpaca lists them."""
    frame = pd.DataFrame([{name: row[letter] for letter, name in FIELDS.items()} for row in rows], dtype=float)
    times = pd.to_datetime(pd.Series([row["t"] for row in rows], dtype=str), utc=True, format="ISO8601")
    if timeframe.daily:
        times = times.dt.tz_convert(ZONE).dt.tz_localize(None).dt.normalize()
    return pd.DataFrame({"time": times, **{name: frame.get(name) for name in FIELDS.values()}})


def _length(source: str, timeframe: Timeframe) -> Any:
    """A length of bars, as Alpaca has it."""
    from alpaca.data.timeframe import TimeFrame, TimeFrameUnit

    units = {"min": "Minute", "h": "Hour", "d": "Day", "w": "Week", "mo": "Month"}
    try:
        return TimeFrame(timeframe.n, getattr(TimeFrameUnit, units[timeframe.unit]))
    except ValueError:
        allowed = "1 to 59 minutes, 1 to 23 hours, 1 day, 1 week, or 1, 2, 3, 6 or 12 months"
        raise DataError(f"{source}: Alpaca has no bars of {timeframe}, only of {allowed}") from None
