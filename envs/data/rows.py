"""Rows of prices with their origin, the choices of the loader, and the error that names a row."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd

from jaxppo.envs.data.times import DAY

PRICES = ("open", "high", "low", "close")
SYMBOL_SPELLINGS = ("symbol", "ticker", "sym", "tic", "instrument", "asset", "code", "name")


class DataError(ValueError):
    """Price data that cannot be used as it is. The message is one line: file, symbol, row, finding, and the way out."""

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).split()))


DROP_ROWS = "pass on_bad_rows='drop' to leave such rows out"


@dataclasses.dataclass(frozen=True)
class LoadOptions:
    """The choices of `envs.load_market`; documented there."""

    symbols: tuple[str, ...] | None
    calendar: str | None
    timezone: str | None
    day_first: bool | None
    adjust: bool
    on_bad_rows: str
    on_duplicates: str
    on_crossed_quotes: str
    on_off_session: str
    range_tolerance: float
    max_log_jump: float
    max_log_range: float
    max_log_spike: float
    split_tolerance: float
    max_hole_days: float
    zero_volume_tradable: bool
    min_half_spread: float
    spread_window: int

    def __post_init__(self):
        allowed = {
            "on_bad_rows": ("error", "drop"),
            "on_duplicates": ("error", "first", "last"),
            "on_crossed_quotes": ("error", "estimate"),
            "on_off_session": ("keep", "drop", "error"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise DataError(f"{name}={getattr(self, name)!r} is not one of {', '.join(map(repr, values))}")
        lowest = {"range_tolerance": 0, "split_tolerance": 0, "min_half_spread": 0, "spread_window": 3}
        positive = dict.fromkeys(("max_log_jump", "max_log_range", "max_log_spike", "max_hole_days"), 0)
        for name, bound in (lowest | positive).items():
            value = getattr(self, name)
            if not value >= bound or (name in positive and value == 0):
                raise DataError(f"{name}={value!r} must be {'above' if name in positive else 'at least'} {bound}")
        if self.symbols == ():
            raise DataError("symbols is empty: name at least one symbol, or pass None for all of them")
        other = [name for name in self.symbols or () if not isinstance(name, str)]
        if other:
            raise DataError(f"symbols must be text such as '{other[0]}', not {other[0]!r}")
        repeated = [name for name in self.symbols or () if self.symbols.count(name) > 1]
        if repeated:
            raise DataError(f"symbols names {repeated[0]!r} more than once")
        if self.min_half_spread >= 1:
            raise DataError(f"min_half_spread={self.min_half_spread!r} is a fraction of the price and must be below 1")


@dataclasses.dataclass
class Table:
    """One table as it was written.

    Attributes:
      frame: the columns, untouched.
      name: file (and archive member) for messages.
      rows: `[N]` place of each row in its source: line of the file (first line is 1), or row of the frame (first is 0).
      symbol: name of the asset if the table has no column for it; empty if there is none.
      unnamed: label of an unnamed first column, a candidate for times.
      in_lines: whether `rows` counts lines of a file.
      separator: of the cells of a file of text; empty elsewhere. Between semicolons numbers may have decimal commas.
      price_scale: multiplies the prices (Lean writes US equities in 1/10,000 of a dollar).
      columns: which column was used for what; filled in while reading.
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

    def place(self, row: int) -> str:
        """Where a row is, in words."""
        return f"{'line' if self.in_lines else 'row'} {row}"

    def refuse(self, symbol: str, row: int, finding: str, way_out: str, n: int = 1, time: str = "") -> DataError:
        """The error that one row of the table causes.

        Args:
          symbol: whose row it is; empty if the row does not say.
          row: entry of `rows`.
          finding: what is wrong.
          way_out: what the user can do.
          n: how many rows have the same fault.
          time: of the row, if it could be read.
        """
        when = f" ({time})" if time else ""
        more = f" ({n} such rows)" if n > 1 else ""
        whose = f"{symbol}, " if symbol else ""
        return DataError(f"{self.name}: {whose}{self.place(row)}{when}: {finding}{more}; {way_out}")


@dataclasses.dataclass
class Rows:
    """The rows read so far, and where each came from.

    Attributes:
      frame: one row per bar: `symbol` (categorical), `utc` and `written` (int64 ns), the four prices, `volume`, `bid`,
        `ask`, `adj_close`, `adj_factor`, `split`, `dividend` (float64, NaN where not given), `table` and `row` (int).
      tables: the tables that `table` counts through.
      repairs: how many rows each repair touched.
      suspicions: lines for the reader of the report on what was accepted and may be wrong.
    """

    frame: pd.DataFrame
    tables: list[Table]
    repairs: dict[str, int] = dataclasses.field(default_factory=dict)
    suspicions: list[str] = dataclasses.field(default_factory=list)

    def count(self, repair: str, n: int) -> None:
        """Adds `n` rows to a repair's count; nothing is recorded for none."""
        if n:
            self.repairs[repair] = self.repairs.get(repair, 0) + int(n)

    def refuse(self, position: int, finding: str, way_out: str, n: int = 1) -> DataError:
        """The error for row `position` of `frame`; `n` rows have the same fault."""
        row = self.frame.iloc[position]
        table = self.tables[row["table"]]
        return table.refuse(row["symbol"], row["row"], finding, way_out, n, time_text(row["written"]))

    def drop_or_refuse(
        self, bad: np.ndarray, reason: str, describe: Callable[[pd.Series], str], on_bad_rows: str
    ) -> None:
        """Drops the rows in the mask and counts them, or refuses the first one in the order of the file."""
        if not bad.any():
            return
        if on_bad_rows == "error":
            positions = np.flatnonzero(bad)
            order = self.frame["table"].to_numpy()[positions], self.frame["row"].to_numpy()[positions]
            first = positions[np.lexsort(order[::-1])[0]]
            raise self.refuse(first, describe(self.frame.iloc[first]), DROP_ROWS, len(positions))
        self.count(f"dropped: {reason}", bad.sum())
        self.frame = self.frame[~bad].reset_index(drop=True)


def time_text(nanoseconds: int) -> str:
    """A time for people: the date alone at midnight, to the minute or second otherwise."""
    stamp = pd.Timestamp(int(nanoseconds))
    if nanoseconds % DAY == 0:
        return f"{stamp:%Y-%m-%d}"
    return f"{stamp:%Y-%m-%d %H:%M}" if nanoseconds % (60 * 10**9) == 0 else f"{stamp:%Y-%m-%d %H:%M:%S}"
