"""Dates and clocks that are written as digits alone: 20210104, 202101040930, 20210104093000000; 930, 93000, 2400."""

from __future__ import annotations

import numpy as np
import pandas as pd

FIRST_YEAR, LAST_YEAR = 1900, 2100
DAY = 86_400 * 10**9
"""Nanoseconds in a day."""
_CLOCK_DIGITS = (0, 2, 4, 6, 9)
"""Digits of the clock behind `yyyymmdd`: none, HH, HHMM, HHMMSS, HHMMSSmmm."""
_NOT_A_TIME = np.iinfo(np.int64).min


def calendar_times(numbers: np.ndarray) -> np.ndarray | None:
    """Reads whole numbers as `yyyymmdd[HH[MM[SS[mmm]]]]`, all of one width.

    Args:
      numbers: `[N]` int64, negative where there is none.

    Returns:
      `[N]` int64 ns since 1970, the smallest int64 where a number is no such time; None if most are not, or if their
      widths differ.
    """
    given = numbers >= 0
    widths = np.unique(np.char.str_len(numbers[given].astype(str)))
    if len(widths) != 1 or int(widths[0]) - 8 not in _CLOCK_DIGITS:
        return None
    digits = int(widths[0]) - 8
    dates, clock = np.divmod(np.where(given, numbers, 0), 10**digits)
    days = pd.to_datetime(pd.Series(dates.astype(str)), format="%Y%m%d", errors="coerce")
    known = given & days.notna().to_numpy() & days.dt.year.between(FIRST_YEAR, LAST_YEAR).to_numpy()
    nanoseconds = _of_day(clock, digits)
    known &= nanoseconds >= 0
    if known.sum() <= 0.5 * given.sum():
        return None
    result = np.full(len(numbers), _NOT_A_TIME)
    result[known] = days.to_numpy()[known].astype("datetime64[ns]").astype(np.int64) + nanoseconds[known]
    return result


def clock_times(values: pd.Series) -> np.ndarray | None:
    """Reads a column of clock times written as digits: `HHMM`, `HHMMSS` or `HHMMSSmmm`, leading zeros lost or not.

    `2400` is midnight at the end of the day. Numbers of at most 24 are hours.

    Args:
      values: `[N]` numbers or text.

    Returns:
      `[N]` int64 ns since midnight, -1 where a value is no clock time; None if the column is not of digits alone, or
      most are no clock times.
    """
    texts = values.astype("string").str.strip().str.replace(r"\.0+$", "", regex=True)
    written = texts.str.fullmatch(r"\d{1,9}").fillna(False).to_numpy(bool)
    if not written.any() or written.sum() < texts.notna().sum() / 2:
        return None
    numbers = np.where(written, pd.to_numeric(texts.where(written, "0")).to_numpy(np.int64), 0)
    largest = numbers.max()
    digits = next(d for d in _CLOCK_DIGITS[1:] if largest < 10**d and (d > 2 or largest <= 24))
    nanoseconds = np.where(written, _of_day(numbers, digits), -1)
    return nanoseconds if (nanoseconds >= 0).sum() > written.sum() / 2 else None


def _of_day(clock: np.ndarray, digits: int) -> np.ndarray:
    """Nanoseconds since midnight of `[N]` clocks of that many digits, -1 where there is no such clock time."""
    padded = clock * 10 ** (9 - digits)
    hours, rest = np.divmod(padded, 10**7)
    minutes, rest = np.divmod(rest, 10**5)
    seconds, milliseconds = np.divmod(rest, 10**3)
    valid = (minutes < 60) & (seconds < 60) & ((hours < 24) | ((hours == 24) & (padded == 24 * 10**7)))
    total = ((hours * 60 + minutes) * 60 + seconds) * 10**9 + milliseconds * 10**6
    return np.where(valid, total, -1)
