"""Parses times (text, epoch numbers, datetimes) to nanoseconds in UTC and on the clock they were written in."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from jaxppo.envs.data.digits import DAY, FIRST_YEAR, LAST_YEAR, calendar_times

NOT_A_TIME = np.iinfo(np.int64).min
EARLIEST, LATEST = (np.datetime64(f"{year}-01-01", "ns").astype(np.int64) for year in (FIRST_YEAR, LAST_YEAR))
"""Times of prices lie between these, ns since 1970."""

_EPOCH_UNITS = ((10**9, 1e8, 1e11), (10**6, 1e11, 1e14), (10**3, 1e14, 1e17), (1, 1e17, 1e19))
"""Nanoseconds in a unit, and the range of numbers that are epochs in it."""
_OFFSET = re.compile(r"^(.*\d:\d{2}.*?|\d{8}T\d{4,6})\s*(Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)$")
_DIGITS = re.compile(r"\d{8,19}(\.\d+)?")
_SHORT_DATE = re.compile(r"^\d{1,2}[/.\-]\d{1,2}[/.\-](\d{4}|\d{2})(?!\d)")
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p", " %I %p")
_DATES = ("%Y-%m-%d", "%Y%m%d", "%d %b %Y", "%d %B %Y", "%b %d %Y", "%B %d %Y", "%d %b %y")


class AmbiguousDates(ValueError):
    """Dates of a column that all read day first as well as month first, with different results."""


def parse_times(
    values: pd.Series, *, timezone: str | None = None, day_first: bool | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Parses one column of times.

    Args:
      values: `[N]` datetimes, numbers that read as a calendar date and clock (`yyyymmdd[HH[MM[SS[mmm]]]]`), other
        numbers as epochs (seconds to nanoseconds, told apart by size), or text in one of the usual notations, with or
        without a UTC offset (which may change from row to row).
      timezone: IANA zone of times that carry none; None is UTC.
      day_first: whether 01/02/2020 is the first of February; None decides from the whole column.

    Returns:
      `(utc, written)`, each `[N]` int64 ns since 1970: the instant, and the time that the local clock showed. Both are
      `NOT_A_TIME` where the text is no time; `utc` alone in an hour that a change of clocks skips or repeats.

    Raises:
      AmbiguousDates: all dates read day first and month first, and `day_first` is None.
    """
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        return _nanoseconds(values.dt.tz_convert("UTC").dt.tz_localize(None)), _nanoseconds(values.dt.tz_localize(None))
    if pd.api.types.is_datetime64_dtype(values.dtype):
        written = _nanoseconds(values)
        return _to_utc(written, timezone), written
    if pd.api.types.is_numeric_dtype(values.dtype):
        written, is_epoch = _from_numbers(values.to_numpy(np.float64, na_value=np.nan), values)
        return np.where(is_epoch, written, _to_utc(written, timezone)), written
    codes, unique = pd.factorize(values.astype("string").str.strip())
    utc, written = _from_text(pd.Series(unique, dtype="string"), timezone, day_first)
    missing = np.array([NOT_A_TIME])
    return np.append(utc, missing)[codes], np.append(written, missing)[codes]


def states_zone(values: pd.Series) -> bool:
    """Whether all times are instants: epoch numbers, or times with a zone or UTC offset."""
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        return True
    if pd.api.types.is_datetime64_dtype(values.dtype):
        return False
    texts = values.astype("string").str.strip()
    numbers = pd.to_numeric(texts, errors="coerce").fillna(0.0).to_numpy(np.float64)
    epochs = numbers >= _EPOCH_UNITS[0][1]
    if epochs.any() and calendar_times(_whole(numbers, numbers)) is not None:
        return False
    return bool((texts.str.fullmatch(_OFFSET).fillna(False) | epochs).all())


def _nanoseconds(values: pd.Series) -> np.ndarray:
    """Times as int64 ns; what 64 bits do not hold is `NOT_A_TIME`."""
    times = values.to_numpy()
    years = times.astype("datetime64[Y]").astype(np.int64) + 1970
    held = ~np.isnat(times) & (years > 1678) & (years < 2262)
    kept = np.where(held, times, np.datetime64(0, "s")).astype("datetime64[ns]").astype(np.int64)
    return np.where(held, kept, NOT_A_TIME)


def _from_numbers(numbers: np.ndarray, exact: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Parses calendar digits or epoch numbers; returns nanoseconds, and which entries are epochs (hence UTC)."""
    # float64 cannot hold epochs in nanoseconds: integers are scaled as integers.
    is_integer = pd.api.types.is_integer_dtype(exact.dtype)
    whole = _whole(numbers, exact.fillna(-1).to_numpy() if is_integer else numbers)
    dates = calendar_times(whole)
    if dates is not None:
        return dates, np.zeros(len(numbers), bool)
    result = np.full(len(numbers), NOT_A_TIME)
    for scale, low, high in _EPOCH_UNITS:
        # Beyond the last plausible year the product may not fit 64 bits.
        rows = (numbers >= low) & (numbers < min(high, LATEST / scale))
        result[rows] = whole[rows] * scale if is_integer else np.round(numbers[rows] * scale).astype(np.int64)
    return result, result != NOT_A_TIME


def _whole(numbers: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """The whole numbers among `[N]` numbers as int64; -1 for the others."""
    whole = np.isfinite(numbers) & (numbers >= 0) & (numbers < 9e18) & (numbers == np.floor(numbers))
    return np.where(whole, exact, -1).astype(np.int64)


def _to_utc(written: np.ndarray, timezone: str | None) -> np.ndarray:
    """Converts local clock times to UTC; dates (all midnight) stay dates."""
    valid = written != NOT_A_TIME
    if timezone is None or not np.any(written[valid] % DAY):
        return written
    local = pd.DatetimeIndex(written.astype("datetime64[ns]"))
    return local.tz_localize(timezone, ambiguous="NaT", nonexistent="NaT").tz_convert("UTC").as_unit("ns").asi8


def _from_text(texts: pd.Series, timezone: str | None, day_first: bool | None) -> tuple[np.ndarray, np.ndarray]:
    digits = texts.str.fullmatch(_DIGITS).fillna(False)
    if len(texts) and digits.mean() > 0.5:
        exact = pd.to_numeric(texts.where(digits))
        written, is_epoch = _from_numbers(exact.to_numpy(np.float64, na_value=np.nan), exact)
        return np.where(is_epoch, written, _to_utc(written, timezone)), written
    parts = texts.str.extract(_OFFSET)
    zoned = parts[1].notna().to_numpy()
    bodies = parts[0].where(parts[1].notna(), texts)
    written = _parse_bodies(bodies, day_first)
    utc = written.copy()
    utc[zoned] -= np.where(written[zoned] == NOT_A_TIME, 0, _offset_nanoseconds(parts[1][zoned]))
    utc[~zoned] = _to_utc(written[~zoned], timezone)
    return utc, written


def _offset_nanoseconds(offsets: pd.Series) -> np.ndarray:
    text = offsets.replace({"Z": "+0000", "UTC": "+0000", "GMT": "+0000"}).str.replace(":", "").str.ljust(5, "0")
    sign = np.where(text.str[0] == "-", -1, 1)
    minutes = text.str[1:3].astype(np.int64).to_numpy() * 60 + text.str[3:5].astype(np.int64).to_numpy()
    return sign * minutes * 60 * 10**9


def _parse_bodies(texts: pd.Series, day_first: bool | None) -> np.ndarray:
    """Parses times without offset in the one notation that reads the most of them."""
    iso = _attempt(texts, "ISO8601")
    if (iso != NOT_A_TIME).all():
        return iso
    plain = texts.str.replace(r"(\d{4})\.(\d{1,2})\.(\d{1,2})", r"\1-\2-\3", regex=True)
    plain = plain.str.replace(r"(\d{4})/(\d{1,2})/(\d{1,2})", r"\1-\2-\3", regex=True)
    plain = plain.str.replace(r"-([AP]M)$", r" \1", regex=True, flags=re.IGNORECASE)
    plain = plain.str.replace(r"(?<=[a-zA-Z])[-,]+|,+|-(?=[a-zA-Z])", " ", regex=True).str.replace(
        r"\s+", " ", regex=True
    )
    if plain.str.match(_SHORT_DATE).fillna(False).mean() > 0.5:
        return _parse_short_dates(plain, day_first)
    formats = ["ISO8601", *(date + clock for date in _DATES for clock in _CLOCKS), "%Y%m%d %H%M%S", "%Y%m%d %H%M"]
    return max((_attempt(plain, form) for form in _likely(plain, formats)), key=_n_read, default=iso)


def _parse_short_dates(texts: pd.Series, day_first: bool | None) -> np.ndarray:
    """Parses `01/02/2020`, `1.2.20`, ..., with one order of day and month for the whole column."""
    plain = texts.str.replace(r"^(\d{1,2})[/.\-](\d{1,2})[/.\-]", r"\1/\2/", regex=True)
    year = "%Y" if plain.str.match(r"^\d+/\d+/\d{4}").mean() >= 0.5 else "%y"
    orders = {True: "%d/%m/", False: "%m/%d/"}
    read = {
        first: max((_attempt(plain, f) for f in _likely(plain, [order + year + c for c in _CLOCKS])), key=_n_read)
        for first, order in orders.items()
    }
    if day_first is not None:
        return read[day_first]
    if _n_read(read[True]) == _n_read(read[False]) and not np.array_equal(read[True], read[False]):
        raise AmbiguousDates(f"{texts.iloc[0]!r}")
    return max(read.values(), key=_n_read)


def _likely(texts: pd.Series, formats: list[str]) -> list[str]:
    """Formats that read the most of a sample, best first: at least one, at most three."""
    sample = texts.iloc[np.unique(np.linspace(0, len(texts) - 1, 50).astype(int))]
    counts = [_n_read(_attempt(sample, form)) for form in formats]
    ranked = sorted(range(len(formats)), key=lambda i: -counts[i])[:3]
    return [formats[i] for i in ranked if counts[i]] or formats[:1]


def _attempt(texts: pd.Series, form: str) -> np.ndarray:
    return _nanoseconds(pd.to_datetime(texts, format=form, errors="coerce"))


def _n_read(times: np.ndarray) -> int:
    return int((times != NOT_A_TIME).sum())


def is_daily(written: np.ndarray) -> bool:
    """Whether every clock time `[N]` is midnight: bars of a day or longer, stamped with their date."""
    return not np.any(written % DAY)
