"""Columns of a user's own: read beside the prices, and placed on the bars at whose close they are known."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Literal

import numpy as np
import pandas as pd

from jaxppo.envs.data.numbers import has_decimal_comma, is_number_column, parse_numbers
from jaxppo.envs.data.options import LoadOptions
from jaxppo.envs.data.rows import Table, column_key
from jaxppo.envs.data.times import NOT_A_TIME, AmbiguousDates, parse_times
from jaxppo.errors import DataError

UNKNOWN = "pass on_bad_rows='drop' to take such values as unknown"
LARGEST = 1e30
"""Largest size of a value; beyond 3e38 float32 has infinity."""
DAY = 86_400 * 10**9
VALUE, PUBLISHED, ON_CLOCK = "own ", "published ", "published on the clock of "
"""How columns of the rows begin that hold values, when they were published (UTC), and what clocks showed then."""


def named(options: LoadOptions) -> dict[str, str | None]:
    """Own column -> column of its times of publication; None where it is known at the close of its bar.

    Args:
      options: of the load.
    """
    return dict.fromkeys(options.columns) if isinstance(options.columns, tuple) else dict(options.columns or {})


def labels(raw: pd.DataFrame, table: Table, options: LoadOptions) -> tuple[str, ...]:
    """Labels of the own columns of a table, as it spells them, and of those of their times of publication.

    Args:
      raw: cells of the table.
      table: they come from.
      options: `columns` applies.

    Raises:
      DataError: a column that is not there.
    """
    names = (name for pair in named(options).items() for name in pair if name is not None)
    return tuple(dict.fromkeys(str(_label(name, raw, table)) for name in names))


def read_columns(raw: pd.DataFrame, part: pd.DataFrame, table: Table, options: LoadOptions) -> dict[str, np.ndarray]:
    """Values of the own columns of a table, and their times of publication, as columns of its rows.

    Args:
      raw: cells of the rows that are used.
      part: symbol, row and times of these.
      table: they come from.
      options: `columns`, `timezone`, `day_first` and `on_bad_rows` apply.

    Raises:
      DataError: a column that is not there, text that is no number or time, a value without a time of publication.
    """
    found: dict[str, np.ndarray] = {}
    for name, published in named(options).items():
        column = raw[_label(name, raw, table)]
        comma = table.separator == ";" and not is_number_column(column) and has_decimal_comma([column])
        values = parse_numbers(column, decimal_comma=comma)
        given = column.notna().to_numpy() & (column.astype("string").str.strip().fillna("").to_numpy() != "")
        usable = np.abs(values) <= LARGEST
        _refuse(given & ~usable, f"{name} {{!r}} is not a number up to {LARGEST:g}", column, part, table, options)
        values = np.where(usable, values, np.nan)
        if published is not None:
            times = raw[_label(published, raw, table)]
            try:
                utc, written = parse_times(times, timezone=options.timezone, day_first=options.day_first)
            except AmbiguousDates as error:
                raise DataError(
                    f"{table.name}: {published}: dates such as {error} read day first and month first; pass "
                    "day_first=True or day_first=False"
                ) from None
            late = f"{published} {{!r}} is no time, and {name} has a value"
            _refuse(np.isfinite(values) & (utc == NOT_A_TIME), late, times, part, table, options)
            values = np.where(utc == NOT_A_TIME, np.nan, values)
            found[PUBLISHED + name], found[ON_CLOCK + name] = utc, written
        found[VALUE + name] = values
    return found


def _label(name: str, raw: pd.DataFrame, table: Table) -> Hashable:
    """Label of the column of that name, whatever its case and punctuation."""
    exact = [label for label in raw.columns if str(label) == name]
    alike = exact or [label for label in raw.columns if column_key(label) == column_key(name)]
    if not alike:
        listed = ", ".join(map(str, raw.columns[:12]))
        raise DataError(f"{table.name}: no column {name!r}, which columns names; found {listed}")
    return alike[0]


def _refuse(
    bad: np.ndarray, finding: str, column: pd.Series, part: pd.DataFrame, table: Table, options: LoadOptions
) -> None:
    """A DataError for the first bad cell, unless bad rows are dropped: then the value is unknown."""
    at = np.flatnonzero(bad & (part["utc"].to_numpy() != NOT_A_TIME))
    if len(at) and options.on_bad_rows == "error":
        shown = finding.format(str(column.iloc[at[0]])[:40])
        raise table.error(part["symbol"].iloc[at[0]], part["row"].iloc[at[0]], shown, UNKNOWN, len(at))


def on_axis(
    frame: pd.DataFrame, times: np.ndarray, daily: bool, length: int, options: LoadOptions
) -> dict[str, np.ndarray]:
    """Own columns at every close of a market, `[T, A]` float32 each; NaN where unknown.

    Args:
      frame: rows of all assets.
      times: `[T]` ns, start of every bar.
      daily: whether bars are stamped with dates.
      length: of a bar, ns.
      options: of the load.
    """
    names = tuple(named(options))
    found = {name: np.full((len(times), frame["symbol"].cat.categories.size), np.nan, np.float32) for name in names}
    for a, (_, part) in enumerate(frame.groupby("symbol", observed=True, sort=True) if names else ()):
        listed = times >= part["utc"].min()
        for name, values in found.items():
            values[listed, a] = _placed(name, part, times, daily, length)[listed]
    return found


def _placed(name: str, part: pd.DataFrame, times: np.ndarray, daily: bool, length: int) -> np.ndarray:
    """Values of an own column at the close of every bar, `[T]`; NaN before the first. A value stands until the next.

    Without times of publication a value is known at the close of its own bar. With them it is known at the first close
    that is not before its publication; of daily bars, whose closes have no time, at that of the first later date.
    """
    values = part[VALUE + name].to_numpy()
    known = np.isfinite(values)
    side: Literal["left", "right"]
    if PUBLISHED + name not in part:
        since, unit, ends, side = part["utc"].to_numpy()[known], 1, times, "right"
    elif daily:
        since, unit, ends, side = part[ON_CLOCK + name].to_numpy()[known], DAY, times // DAY, "left"
    else:
        since, unit, ends, side = part[PUBLISHED + name].to_numpy()[known], 1, times + length, "right"
    order = np.argsort(since, kind="stable")
    latest = np.searchsorted(since[order] // unit, ends, side=side) - 1
    in_order = np.append(values[known][order], np.nan)
    return in_order[latest]  # before the first: the NaN at the end
