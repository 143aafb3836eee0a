"""Rows of several assets under one name: a column that would tell them apart, and that nothing reads."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from jaxppo.envs.data.digits import clock_times
from jaxppo.envs.data.rows import SYMBOL_SPELLINGS, Table
from jaxppo.errors import DataError

REPEATED = 0.05
"""Share of the rows that may repeat a time of their asset before a column is looked for that tells them apart."""


def check_identity(part: pd.DataFrame, raw: pd.DataFrame, used: Collection[str], table: Table) -> None:
    """Refuses a table whose rows are of several assets by a column that nothing reads.

    Whatever `on_duplicates` says: it would keep one of the assets and throw the others away.

    Args:
      part: rows of the table, `symbol` and `utc` (ns).
      raw: the same rows as they were written.
      used: labels of columns that are read.
      table: as it was read, with its `columns`.

    Raises:
      DataError: names that column.
    """
    if part.duplicated(["symbol", "utc"]).mean() <= REPEATED:
        return
    keys = part[["symbol", "utc"]]
    distinct = ~raw.assign(**{"/symbol": keys["symbol"].to_numpy()}).astype(str).duplicated().to_numpy()
    keys, values = keys[distinct], raw[distinct]
    n_repeats = int(keys.duplicated().sum())
    if n_repeats <= REPEATED * len(keys):
        return
    column = _telling(keys, values, used)
    if column is None:
        return
    symbol = table.columns.get("symbol")
    if _is_clock(values[column]):
        finding, remedy = (
            f"{column!r} tells these rows apart",
            "rename it to time if it is the time of day, or to symbol",
        )
    elif symbol is None:
        finding = f"no symbol column was found; {column!r} tells these rows apart"
        remedy = f"rename it to symbol, or to another of {', '.join(SYMBOL_SPELLINGS[1:])}"
    else:
        finding = f"{column!r} tells these rows apart, not {symbol!r}, which is read as the symbol"
        remedy = f"rename {column!r} to symbol and {symbol!r} to something else, or keep the rows of one {column}"
    raise DataError(f"{table.name}: {n_repeats} of {len(keys)} rows repeat a time: {finding}; {remedy}")


def _telling(keys: pd.DataFrame, values: pd.DataFrame, used: Collection[str]) -> str | None:
    """The column of few values, text before numbers, of which each time has each value once; None if there is none."""
    candidates: list[tuple[int, str]] = []
    for label in values.columns:
        column = values[label]
        if str(label) in used or not isinstance(column, pd.Series) or pd.api.types.is_float_dtype(column.dtype):
            continue
        written = column.astype(str).to_numpy()
        n_values = len(set(written))
        if 1 < n_values <= len(keys) / 2 and not keys.assign(value=written).duplicated().any():
            candidates.append((int(pd.api.types.is_numeric_dtype(column.dtype)), str(label)))
    return min(candidates, key=lambda found: found[0], default=(0, None))[1]


def _is_clock(column: pd.Series) -> bool:
    """Whether values read as clock times: `09:30`, `930`, hours of a day."""
    written = column.astype(str).str.strip()
    return bool(written.str.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?").all()) or clock_times(column) is not None


def told_apart_by(repeated: int, rows: int) -> str:
    """What to try first where so many of the rows repeat a time that they may be of several assets; else nothing.

    Args:
      repeated: rows whose time is there already.
      rows: all of them.
    """
    return "" if repeated <= REPEATED * rows else "if these rows are of several assets, add a column symbol; or else "
