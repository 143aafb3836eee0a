"""Conversion of prices into one currency by columns of rates in the data."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pandas as pd

from jaxppo.envs.data.checks import beyond_float32, describe_size
from jaxppo.envs.data.options import LoadOptions
from jaxppo.envs.data.rows import PRICES, Rows, Table, column_key
from jaxppo.errors import DataError

RATES = ("rate", "rate_open")
"""Fields of the rates at the close and at the open of a bar."""


def rate_columns(options: LoadOptions) -> dict[str, str]:
    """Names of the columns of rates by field: `rate` at the close and, where one is given, `rate_open`."""
    given = options.rate_column
    if given is None:
        return {}
    return {"rate": given} if isinstance(given, str) else {"rate_open": given[0], "rate": given[1]}


def find_rates(found: dict[str, Hashable], table: Table, options: LoadOptions) -> None:
    """Finds the columns of rates in a table.

    Args:
      found: field -> label of its column; changed.
      table: whose columns are looked through.
      options: `rate_column` applies.

    Raises:
      DataError: a table without such a column, or one that has another meaning.
    """
    columns = list(table.frame.columns)
    for field, name in rate_columns(options).items():
        exact = [column for column in columns if str(column) == name]
        key = column_key(name)
        labels = exact or [column for column in columns if key and column_key(column) == key]
        if not labels:
            listed = ", ".join(map(str, columns[:12]))
            raise DataError(f"{table.name}: rate_column={name!r} is no column of it; found {listed}")
        taken = [other for other, label in found.items() if label == labels[0] and other not in RATES]
        if taken:
            raise DataError(f"{table.name}: rate_column={name!r} is its column of {taken[0]}, not one of rates")
        found[field] = labels[0]


def convert(rows: Rows, options: LoadOptions) -> None:
    """Multiplies prices and quotes by the rate of their own bar; volume stays in units of the asset.

    One column is the rate of the whole bar. Of two, the first one converts the open and the second one the rest; high
    and low are then widened where they do not hold the converted open and close. No rate of a later bar is read.

    Args:
      rows: checked and adjusted rows; changed.
      options: `rate_column` and `on_bad_rows` apply.

    Raises:
      DataError: a rate is missing or not positive, or converted prices leave the range of prices.
    """
    columns = rate_columns(options)
    if not columns:
        return
    for field, name in columns.items():
        _require_positive(rows, field, name, options)
    frame = rows.frame
    converted = {name: frame[name] * frame["rate"] for name in (*PRICES, "bid", "ask")}
    if "rate_open" in columns:
        converted["open"] = frame["open"] * frame["rate_open"]
    top, bottom = (pick(converted["open"], converted["close"]) for pick in (np.maximum, np.minimum))
    converted["high"] = np.maximum(converted["high"], top)
    converted["low"] = np.minimum(converted["low"], bottom)
    rows.frame = frame.assign(**converted)
    rows.raise_at_first(
        beyond_float32(rows.frame),
        lambda i: (f"after conversion, {describe_size(rows.frame.iloc[i])}", "check rate_column"),
    )


def _require_positive(rows: Rows, field: str, name: str, options: LoadOptions) -> None:
    """Drops or refuses rows without a rate in a column."""
    rate = rows.frame[field].to_numpy()

    def describe(row: pd.Series) -> str:
        return f"the rate {name} is {row[field]:g}, it must be above 0 (1 where there is nothing to convert)"

    rows.drop_or_raise(~(np.isfinite(rate) & (rate > 0)), "no rate", describe, options.on_bad_rows)
