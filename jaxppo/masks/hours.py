"""Trading hours of an exchange, known in advance, for the bars of a market; host-side."""

from __future__ import annotations

import numpy as np
import pandas as pd

from jaxppo.envs.data.sessions import Schedule, load_schedule
from jaxppo.envs.market.market_data import MarketData

MINUTE = 60 * 10**9


def trading_hours(market: MarketData, calendar: str) -> tuple[np.ndarray, np.ndarray]:
    """Minutes since the open and to the close of the session, at the end of each bar.

    Half days and holidays are those of the calendar. Sessions that follow each other without a break (24-hour markets)
    count as one: in 24/5 the close is that of Friday, in 24/7 there is none. A bar lasts as long as was usual until
    then (the median time between bars), and at most to the close.

    Args:
      market: with times, of bars shorter than a day.
      calendar: exchange_calendars name, such as `XNYS` or `24/5`.

    Returns:
      `(since_open, to_close)`, each `[T]` float64; negative for bars that begin outside trading hours, infinity where
      there is no close.

    Raises:
      envs.DataError: no such calendar, or it does not cover the market.
      ValueError: a market without times, or of daily bars.
    """
    times = market.info.timestamps.astype("datetime64[ns]").astype(np.int64)
    if not len(times):
        raise ValueError("trading hours need a market with times")
    schedule = load_schedule(calendar, int(times[0]), int(times[-1]))
    minutes = usual_minutes(market)
    if not 0 < np.median(minutes) < 23 * 60:
        raise ValueError("trading hours need bars shorter than a day; these are daily or longer")
    return hours_of(times, minutes, schedule)


def hours_of(times: np.ndarray, minutes: np.ndarray, schedule: Schedule) -> tuple[np.ndarray, np.ndarray]:
    """`trading_hours` of bars at some times.

    Args:
      times: `[T]` int64 ns UTC, starts of the bars.
      minutes: `[T]` length of a bar.
      schedule: sessions that cover `times`.
    """
    breaks = schedule.opens[1:] > schedule.closes[:-1]
    opens = schedule.opens[np.concatenate([[True], breaks])]
    closes = schedule.closes[np.concatenate([breaks, [True]])].astype(np.float64)
    if not breaks.any():
        closes[:] = np.inf
    index = np.minimum(np.searchsorted(closes, times, side="right"), len(opens) - 1)
    end = np.minimum(times + minutes * MINUTE, closes[index])
    inside = (times >= opens[index]) & (times < closes[index])
    # A bar that begins before the open but reaches into the session belongs to it.
    inside |= (times < opens[index]) & (end > opens[index])
    since_open = np.where(inside, (end - opens[index]) / MINUTE, -1.0)
    to_close = np.where(inside, (closes[index] - end) / MINUTE, -1.0)
    return since_open, to_close


def usual_minutes(market: MarketData) -> np.ndarray:
    """Length of a bar `[T]` in minutes: the median of the times between those until then; 0 for a single bar."""
    times = market.info.timestamps.astype("datetime64[ns]").astype(np.int64)
    apart = pd.Series(np.diff(times) / MINUTE).expanding().median().to_numpy()
    return np.concatenate([apart[:1], apart]) if len(apart) else np.zeros(len(times))
