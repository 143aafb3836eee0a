"""Rows of prices with their origin, and the error that names a row."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from jaxppo.envs.data.times import DAY
from jaxppo.errors import DataError

PRICES = ("open", "high", "low", "close")
SYMBOL_SPELLINGS = ("symbol", "ticker", "sym", "tic", "instrument", "asset", "code", "name")
DROP_ROWS = "pass on_bad_rows='drop' to leave such rows out"


def column_key(label: object) -> str:
    """Normalises a column label: no case, spaces, punctuation or byte-order mark."""
    return re.sub(r"[^a-z0-9]", "", str(label).lower())


@dataclasses.dataclass
class Table:
    """One table of a source, as it was written.

    Attributes:
      frame: columns, unchanged.
      name: file (and archive member) for messages.
      rows: `[N]` position of each row in its source: line of the file (from 1), or row of the frame (from 0).
      symbol: asset of a table without a column of symbols; empty if unknown.
      unnamed: label of an unnamed first column, a candidate for times.
      in_lines: whether `rows` counts lines of a file.
      separator: separator of the cells of a text file, else empty. With semicolons, numbers may have decimal commas.
      price_scale: factor on the prices (Lean writes US equities in 1/10,000 of a dollar).
      columns: label of the column used for each field; filled in while reading.
      closes_only: whether it has closes without open, high and low.
      notes: warnings on what lay beside the table and was left out.
      own: labels of the own columns, and of those of their times of publication; filled in while reading.
      unused: labels of columns that nothing reads; filled in while reading.
      download: record of its download, see `jaxppo.envs.data.sources.downloads`; empty for a file or a frame.
    """

    frame: pd.DataFrame
    name: str
    rows: np.ndarray
    symbol: str = ""
    unnamed: object = None
    in_lines: bool = False
    separator: str = ""
    price_scale: float = 1.0
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    closes_only: bool = False
    notes: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    download: dict[str, Any] = dataclasses.field(default_factory=dict)

    def place(self, row: int) -> str:
        """Names the position of a row in its source."""
        return f"{'line' if self.in_lines else 'row'} {row}"

    def error(self, symbol: str, row: int, finding: str, remedy: str, n: int = 1, time: str = "") -> DataError:
        """Builds the error for one row.

        Args:
          symbol: asset of the row; empty if unknown.
          row: entry of `rows`.
          finding: what is wrong.
          remedy: what the user can do.
          n: number of rows with the same fault, >= 1.
          time: time of the row, if it could be read.
        """
        when = f" ({time})" if time else ""
        more = f" ({n} such rows)" if n > 1 else ""
        whose = f"{symbol}, " if symbol else ""
        return DataError(f"{self.name}: {whose}{self.place(row)}{when}: {finding}{more}; {remedy}")


@dataclasses.dataclass
class Rows:
    """Rows of all tables, each with its origin; the checks of the loader replace `frame` step by step.

    Attributes:
      frame: one row per bar: `symbol` (categorical), `utc` and `written` (int64 ns), the four prices, `volume`, `bid`,
        `ask`, `adj_close`, `adj_factor`, `split`, `dividend`, `carry` (float64, NaN where not given), `table` and
        `row` (int).
      tables: tables that the column `table` indexes.
      repairs: number of rows that each repair changed.
      warnings: lines of the report on accepted rows that may be wrong.
    """

    frame: pd.DataFrame
    tables: list[Table]
    repairs: dict[str, int] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)

    def count(self, repair: str, n: int) -> None:
        """Adds to the count of a repair.

        Args:
          repair: what was done, as the report shows it.
          n: number of rows, >= 0.
        """
        if n:
            self.repairs[repair] = self.repairs.get(repair, 0) + int(n)

    def error(self, position: int, finding: str, remedy: str, n: int = 1) -> DataError:
        """Builds the error for one row.

        Args:
          position: position of the row in `frame`.
          finding: what is wrong.
          remedy: what the user can do.
          n: number of rows with the same fault, >= 1.
        """
        row = self.frame.iloc[position]
        table = self.tables[row["table"]]
        return table.error(row["symbol"], row["row"], finding, remedy, n, time_text(row["written"]))

    def raise_at_first(self, bad: np.ndarray, describe: Callable[[int], tuple[str, str]]) -> None:
        """Raises the error for the first bad row, if there is any.

        Args:
          bad: `[N]` bool.
          describe: `position -> (finding, remedy)`.
        """
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            raise self.error(at, *describe(at), int(bad.sum()))

    def drop_or_raise(
        self, bad: np.ndarray, reason: str, describe: Callable[[pd.Series], str], on_bad_rows: str
    ) -> None:
        """Drops bad rows and counts them, or raises the error for the first one in the order of the source.

        Args:
          bad: `[N]` bool.
          reason: what is wrong, for the count.
          describe: `row -> finding`, for the error.
          on_bad_rows: `"error"` or `"drop"`.
        """
        if not bad.any():
            return
        if on_bad_rows == "error":
            positions = np.flatnonzero(bad)
            order = self.frame["table"].to_numpy()[positions], self.frame["row"].to_numpy()[positions]
            first = positions[np.lexsort(order[::-1])[0]]
            raise self.error(first, describe(self.frame.iloc[first]), DROP_ROWS, len(positions))
        self.count(f"dropped: {reason}", bad.sum())
        self.frame = self.frame[~bad].reset_index(drop=True)


def time_text(nanoseconds: int) -> str:
    """Formats a time: the date alone at midnight, to the minute or second otherwise."""
    stamp = pd.Timestamp(int(nanoseconds))
    if nanoseconds % DAY == 0:
        return f"{stamp:%Y-%m-%d}"
    return f"{stamp:%Y-%m-%d %H:%M}" if nanoseconds % (60 * 10**9) == 0 else f"{stamp:%Y-%m-%d %H:%M:%S}"


def rounded_up(value: float) -> str:
    """Formats the next larger number with one decimal, as a limit that accepts `value`."""
    return f"{np.ceil(value * 10 + 1e-9) / 10:.1f}"
