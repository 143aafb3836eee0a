"""Trading sessions of exchanges, and the session of each bar."""

from __future__ import annotations

import dataclasses
import difflib
import zoneinfo
from collections.abc import Collection

import numpy as np
import pandas as pd

from jaxppo.envs.data.times import DAY
from jaxppo.errors import DataError

YEARS_COUNTED = 5
"""Years of a calendar whose sessions are counted for the bars of a year."""
DAYS_PER_YEAR = 365.25
MOST_OUTSIDE = 0.005
"""Share of bars outside of sessions from which bars do not follow the calendar: they would not be counted."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Sessions of an exchange around the data.

    Attributes:
      name: exchange_calendars name.
      timezone: IANA zone of the exchange.
      dates: `[S]` int64 ns, date of the session at midnight.
      opens: `[S]` int64 ns UTC.
      closes: `[S]` int64 ns UTC.
    """

    name: str
    timezone: str
    dates: np.ndarray
    opens: np.ndarray
    closes: np.ndarray


def check_timezone(name: str | None) -> None:
    """Checks that a name is an IANA time zone; raises DataError if not."""
    if name is None:
        return
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        hint = _did_you_mean(name, zoneinfo.available_timezones())
        raise DataError(f"timezone={name!r} is no IANA time zone such as 'America/New_York'{hint}") from None


def _did_you_mean(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def load_schedule(name: str, first: int, last: int) -> Schedule:
    """Loads the sessions of a calendar between two times, of five years before the last, and of a week after it.

    Args:
      name: exchange_calendars name, for example `XNYS`, `XLON`, `CMES`, `24/5`.
      first: first time, int64 ns UTC.
      last: last time, int64 ns UTC.

    Raises:
      DataError: no such calendar, or it does not cover these dates.
    """
    # Here, because it takes a second and few markets name a calendar.
    import exchange_calendars
    from exchange_calendars import errors

    earliest = min(first - 7 * DAY, last - YEARS_COUNTED * 366 * DAY)
    start, end = (pd.Timestamp(int(t)).normalize() for t in (earliest, last + 7 * DAY))
    try:
        calendar = exchange_calendars.get_calendar(name, start=start, end=end)
    except errors.InvalidCalendarName:
        hint = _did_you_mean(name.upper(), exchange_calendars.get_calendar_names())
        raise DataError(f"calendar={name!r} is no exchange_calendars name such as 'XNYS' or '24/5'{hint}") from None
    except (errors.CalendarError, ValueError) as error:
        raise DataError(f"calendar={name!r} does not cover {start:%Y-%m-%d} to {end:%Y-%m-%d}: {error}") from None

    def nanoseconds(values: pd.Index | pd.Series) -> np.ndarray:
        return pd.DatetimeIndex(values).tz_localize(None).as_unit("ns").asi8

    opens, closes = calendar.opens.dt.tz_convert("UTC"), calendar.closes.dt.tz_convert("UTC")
    return Schedule(name, str(calendar.tz), nanoseconds(calendar.sessions), nanoseconds(opens), nanoseconds(closes))


def calendar_periods_per_year(times: np.ndarray, daily: bool, bar_length: int, schedule: Schedule) -> float | None:
    """Counts bars per year by a calendar: its sessions of a year, as far as they have bars.

    Args:
      times: `[T]` int64 ns UTC, increasing, starts of bars (dates if `daily`).
      daily: whether bars are stamped with dates.
      bar_length: ns.
      schedule: sessions that cover `times`.

    Returns:
      Bars per year; None where bars do not follow the calendar: more than `MOST_OUTSIDE` of them lie outside of its
      sessions (currencies on a Sunday evening, extended hours), or fewer than half of those that it expects are there.
    """
    counted = schedule.dates >= schedule.dates[-1] - YEARS_COUNTED * DAYS_PER_YEAR * DAY
    years = (schedule.dates[counted][-1] - schedule.dates[counted][0]) / (DAYS_PER_YEAR * DAY)
    outside = off_session(times, daily, bar_length, schedule)
    if daily:
        expected = np.sum((schedule.dates >= times[0]) & (schedule.dates <= times[-1]))
        yearly = (counted.sum() - 1) / years
    else:
        opens, closes = np.maximum(schedule.opens, times[0]), np.minimum(schedule.closes, times[-1] + bar_length)
        expected = np.sum(-(-np.maximum(closes - opens, 0) // bar_length))
        hours = schedule.closes[counted][:-1] - schedule.opens[counted][:-1]
        yearly = np.sum(-(-hours // bar_length)) / years
    inside = len(times) - outside.sum()
    if outside.mean() > MOST_OUTSIDE or inside < 0.5 * expected:
        return None
    return float(yearly * inside / expected)


def off_session(times: np.ndarray, daily: bool, bar_length: int, schedule: Schedule) -> np.ndarray:
    """Marks bars that no session touches.

    Args:
      times: `[N]` int64 ns UTC, starts of bars (dates if `daily`).
      daily: whether bars are stamped with dates.
      bar_length: ns; an intraday bar is inside if any part of it is.
      schedule: sessions that cover `times`.

    Returns:
      `[N]` bool.
    """
    if daily:
        return ~np.isin(times, schedule.dates)
    index = np.searchsorted(schedule.closes, times, side="right")
    index = np.minimum(index, len(schedule.opens) - 1)
    return ~((schedule.opens[index] < times + max(bar_length, 1)) & (times < schedule.closes[index]))


def dates_of(local: np.ndarray) -> np.ndarray:
    """Dates `[N]` int64 ns of daily bars that are stamped at another time than midnight.

    Bars from Sunday to Thursday are midnights east of the clock they are read on: their dates are the days after. Each
    time of day, one in winter and one in summer, is read by itself.

    Args:
      local: `[N]` int64 ns, on the clock of the exchange, UTC if that is not known.
    """
    days, clock = local // DAY, local % DAY
    for time in np.unique(clock):
        weekdays = np.unique((local[clock == time] // DAY + 3) % 7)
        days[clock == time] += 6 in weekdays and not np.isin([4, 5], weekdays).any()
    return days * DAY


def session_numbers(times: np.ndarray, daily: bool, schedule: Schedule) -> np.ndarray:
    """Assigns each bar to a session of the schedule.

    Trading outside hours belongs to the nearer session: the boundary is halfway between a close and the next open. A
    daily bar on a day without session belongs to the session before it.

    Args:
      times: `[N]` int64 ns UTC, starts of bars (dates if `daily`).
      daily: whether bars are stamped with dates.
      schedule: sessions that cover `times`.

    Returns:
      `[N]` int64 index of the session, non-decreasing in time.
    """
    if daily:
        return np.maximum(np.searchsorted(schedule.dates, times, side="right") - 1, 0)
    boundaries = schedule.closes[:-1] + (schedule.opens[1:] - schedule.closes[:-1]) // 2
    return np.searchsorted(boundaries, times, side="right")


def calendar_fields(
    times: np.ndarray, daily: bool, timezone: str, schedule: Schedule | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes minute of day, session and weekday of every bar on the exchange's clock.

    Args:
      times: `[T]` int64 ns UTC, increasing.
      daily: whether bars are stamped with dates; those have minute 0 and keep their date in every zone.
      timezone: IANA zone of the exchange.
      schedule: sessions that cover `times`; None counts the local dates that occur, 0, 1, 2, ...

    Returns:
      `(minute_of_day, session, day_of_week)`, each `[T]` int32. With a schedule, sessions without a bar leave gaps in
      the numbers.
    """
    local = times
    if not daily:
        zoned = pd.DatetimeIndex(times.astype("datetime64[ns]")).tz_localize("UTC").tz_convert(timezone)
        local = zoned.tz_localize(None).as_unit("ns").asi8
    days = local // DAY
    minute = (local - days * DAY) // (60 * 10**9)
    weekday = (days + 3) % 7
    if schedule is None:
        session = np.unique(days, return_inverse=True)[1]
    else:
        session = session_numbers(times, daily, schedule)
        session = session - session[0]
    return minute.astype(np.int32), np.maximum.accumulate(session).astype(np.int32), weekday.astype(np.int32)
