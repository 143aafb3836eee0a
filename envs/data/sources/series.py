"""Bars of one symbol as a source gave them, and which of them are finished."""

from __future__ import annotations

import datetime
from typing import NamedTuple

import pandas as pd

from jaxppo.envs.data.sources.timeframes import Timeframe


class Series(NamedTuple):
    """Bars of a symbol.

    Attributes:
      symbol: name of it.
      frame: columns time (dates for bars of a day or longer, else UTC), open, high, low, close, volume, perhaps
        adj_close.
      zone: IANA zone of the exchange, on whose clock a day ends.
      currency: of the prices, as the source says; empty where it does not.
    """

    symbol: str
    frame: pd.DataFrame
    zone: str = "UTC"
    currency: str = ""


def finished(series: Series, timeframe: Timeframe, now: pd.Timestamp) -> pd.DataFrame:
    """The bars that have ended: a bar of a day once that day is over on the exchange's clock.

    Args:
      series: bars of a symbol.
      timeframe: their length.
      now: with a time zone.
    """
    times = series.frame["time"]
    clock = now.tz_convert(series.zone).tz_localize(None) if timeframe.daily else now.tz_convert("UTC")
    return series.frame[(timeframe.ends(times) <= clock).to_numpy(bool)]


def day_after(date: str) -> str:
    """The date behind one, `YYYY-MM-DD`."""
    return str((pd.Timestamp(date) + pd.Timedelta(days=1)).date())


def seconds_of(date: str) -> int:
    """Seconds since 1970 of the beginning of a date, UTC."""
    return int(datetime.datetime.combine(pd.Timestamp(date).date(), datetime.time(), datetime.UTC).timestamp())
