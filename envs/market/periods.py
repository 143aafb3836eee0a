"""Bars per year: from the calendar of the exchange where one is named, else from the times of the bars alone."""

from __future__ import annotations

import numpy as np

from jaxppo.envs.market.market_data import SECONDS_PER_YEAR, MarketData

DAY = 86_400 * 10**9
"""Nanoseconds in a day."""
MINUTE = 60 * 10**9
DAYS_PER_YEAR = SECONDS_PER_YEAR / 86_400
WEEKDAYS_PER_YEAR = DAYS_PER_YEAR * 5 / 7
USUAL_SESSIONS = 252
"""Sessions per year of a market closed at weekends, where too few are seen to count its holidays."""
ALL_HOURS = 0.9
"""Share of the day that a market trades at all hours."""


def periods_per_year(market: MarketData) -> float:
    """Counts bars per year on the time axis of the market (about 252 for daily US equities).

    Of the calendar with which the market was loaded; else estimated from `info.timestamps`, see `bars_per_year`, or
    from `seconds_since_previous`; 252 for a market without any time.

    Example:
      >>> from jaxppo.envs import load_market, periods_per_year
      >>> round(periods_per_year(load_market("us5_1d")))
      251
    """
    if market.info.periods_per_year is not None:
        return market.info.periods_per_year
    if len(market.info.timestamps) > 1:
        return bars_per_year(local_times(market))
    seconds = float(np.asarray(market.seconds_since_previous, dtype=np.float64).sum())
    return (market.n_bars - 1) / (seconds / SECONDS_PER_YEAR) if seconds > 0 else float(USUAL_SESSIONS)


def local_times(market: MarketData) -> np.ndarray:
    """Starts of the bars on the clock of the exchange, `[T]` int64 ns; never more than half a day from UTC."""
    utc = market.info.timestamps.astype("datetime64[ns]").astype(np.int64)
    ahead = (np.asarray(market.minute_of_day, np.int64) - utc // MINUTE % 1440 + 720) % 1440 - 720
    if len(np.unique(ahead)) > 2:  # no clock: one has an offset in winter and one in summer
        return utc
    return np.maximum.accumulate(utc + ahead * MINUTE)  # clocks that are set back repeat an hour


def bars_per_year(times: np.ndarray) -> float:
    """Estimates how many bars a market has in a year.

    A bar of a week (intraday) or of a day is counted as often as there was a chance to see it, so that cut sessions
    and weeks at either end do not matter. Markets with a night and a weekend are taken to have 252 sessions in that
    part of a year which is not seen.

    Args:
      times: `[T]` int64 ns, increasing, starts of bars on the clock of the exchange; at least two.
    """
    length = bar_length(times)
    if length > 4 * DAY:  # weeks, months
        return (len(times) - 1) * SECONDS_PER_YEAR * 1e9 / float(times[-1] - times[0])
    return _days(np.unique(times // DAY)) if length >= 0.9 * DAY else _intraday(times, length)


LEAST_STEPS, SAME_LENGTH = 20, 1.9
"""Bars on either side of a change of their length, and the ratio from which two lengths differ."""


def length_changes(times: np.ndarray) -> tuple[int, int, int] | None:
    """Finds where the bars of an asset become longer or shorter for good.

    Missing bars make long steps among short ones; a stretch of long bars has no short step at all.

    Args:
      times: `[T]` int64 ns, increasing.

    Returns:
      Bar at which the length changes, and the lengths before and after, ns; None if it does not.
    """
    steps = np.diff(times)
    if len(steps) <= 2 * LEAST_STEPS:
        return None
    # The shortest step so far, and of the rest; a change leaves one of them at nearly twice the other for good.
    before, after = np.minimum.accumulate(steps), np.minimum.accumulate(steps[::-1])[::-1]
    places = np.arange(LEAST_STEPS, len(steps) - LEAST_STEPS)
    ratio = before[places - 1] / after[places]
    at = int(places[np.argmax(np.maximum(ratio, 1 / ratio))])
    lengths = bar_length(times[: at + 1]), bar_length(times[at:])
    apart = max(lengths) >= SAME_LENGTH * min(lengths)
    clear = (steps[:at] if lengths[0] > lengths[1] else steps[at:]).min() * SAME_LENGTH > max(lengths)
    return (at, *lengths) if apart and clear else None


def bar_length(times: np.ndarray) -> int:
    """Most frequent distance between two bars, ns; 0 for a single one.

    Args:
      times: `[T]` int64 ns, increasing.
    """
    steps, counts = np.unique(np.diff(times), return_counts=True)
    return int(steps[counts.argmax()]) if len(steps) else 0


def _days(days: np.ndarray) -> float:
    """Days with bars per year; `days` `[n]` since 1970, increasing."""
    dates = days.astype("datetime64[D]")
    if not np.all(np.is_busday(dates)):
        return DAYS_PER_YEAR * len(days) / float(days[-1] - days[0] + 1)
    weekdays = int(np.busday_count(dates[0], dates[-1] + 1))
    seen = min(weekdays / WEEKDAYS_PER_YEAR, 1.0)
    return seen * WEEKDAYS_PER_YEAR * len(days) / weekdays + (1.0 - seen) * USUAL_SESSIONS


def _intraday(times: np.ndarray, length: int) -> float:
    index = (times - times[0]) // length
    n_slots = int(index[-1]) + 1
    day, week = max(DAY // length, 1), max(7 * DAY // length, 1)
    usual_slots, per_day = _typical(*_chances(index, n_slots, day, _days_with_bars(times, length, n_slots)))
    all_hours = usual_slots >= ALL_HOURS * day
    if not all_hours and not np.any(_weekend(times)):
        return per_day * _days(np.unique(times // DAY))
    if n_slots < week:
        return per_day * (WEEKDAYS_PER_YEAR if _one_week_of_fx(times) or _weekend_is_closed(times) else DAYS_PER_YEAR)
    occupied, chances = _chances(index, n_slots, week, np.ones(n_slots, bool))
    return float(np.sum(occupied / chances)) * DAYS_PER_YEAR / 7.0


def _chances(index: np.ndarray, n_slots: int, period: int, open_: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often a bar was seen in each slot of a period, and how often it could have been; `[period]` each."""
    slots = np.arange(n_slots)[open_] % period
    chances = np.bincount(slots, minlength=period)
    occupied = np.bincount(np.unique(index) % period, minlength=period)
    return occupied[:period], np.maximum(chances[:period], occupied[:period]).clip(1)


def _typical(occupied: np.ndarray, chances: np.ndarray) -> tuple[int, float]:
    """Slots that most days have, and bars of a full day: those slots times how often they have a bar."""
    share = occupied / chances
    usual = share >= 0.5
    return int(usual.sum()), float(usual.sum() * np.median(share[usual])) if usual.any() else float(share.sum())


def _days_with_bars(times: np.ndarray, length: int, n_slots: int) -> np.ndarray:
    """Marks slots `[n_slots]` on days that have bars."""
    day_of_slot = (times[0] + np.arange(n_slots) * length) // DAY
    return np.isin(day_of_slot, np.unique(times // DAY))


def _weekend(times: np.ndarray) -> np.ndarray:
    """Marks times between Saturday 00:00 and Sunday 12:00 UTC, when only markets without weekends trade."""
    weekday, hour = (times // DAY + 3) % 7, times % DAY // (3600 * 10**9)
    return (weekday == 5) | ((weekday == 6) & (hour < 12))


def _weekend_is_closed(times: np.ndarray) -> bool:
    """Whether a whole Saturday lies between the bars, without a bar."""
    days = np.arange(times[0] // DAY + 1, times[-1] // DAY)
    return bool(np.any((days + 3) % 7 == 5)) and not bool(np.any(_weekend(times)))


def _one_week_of_fx(times: np.ndarray) -> bool:
    """Whether bars begin on a Sunday evening and end by Friday night: the week of currencies."""
    first, last = ((int(t) // DAY + 3) % 7 for t in (times[0], times[-1]))
    evening = int(times[0]) % DAY >= 20 * 3600 * 10**9
    return first == 6 and evening and last in (3, 4)
