"""Checks and repairs of single rows: order, repetition, prices, duplicates, quotes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from jaxppo.envs.data.identity import told_apart_by
from jaxppo.envs.data.options import LoadOptions
from jaxppo.envs.data.rows import PRICES, Rows
from jaxppo.envs.data.times import DAY, states_zone

PRICE_LIMITS = (1e-20, 1e20)
"""Smallest and largest price; within them, products of price, volume and cash do not overflow float32."""
LARGEST_VOLUME = 1e18


def drop_repeats(rows: Rows) -> None:
    """Sorts by symbol and time, and drops exact repeats and empty rows at the ends of a history."""
    frame = rows.frame
    content = [column for column in frame.columns if column not in ("table", "row", "written")]
    repeated = frame.duplicated(content).to_numpy()
    rows.count("exact duplicate rows dropped", repeated.sum())
    frame = frame[~repeated]
    codes, utc = frame["symbol"].cat.codes.to_numpy(), frame["utc"].to_numpy()
    back = (np.diff(utc) < 0) & (np.diff(codes) == 0)
    rows.count("rows out of order sorted", back.sum())
    frame = frame.iloc[np.lexsort((frame["row"], frame["table"], utc, codes))].reset_index(drop=True)
    filled = frame[list(PRICES)].notna().any(axis=1)
    symbols = frame["symbol"].cat.codes
    inside = filled.groupby(symbols).cummax() & filled[::-1].groupby(symbols[::-1]).cummax()[::-1]
    rows.count("empty rows at the ends dropped", (~inside).sum())
    rows.frame = frame[inside].reset_index(drop=True)


def check_rows(rows: Rows, options: LoadOptions) -> None:
    """Checks each row alone: missing, non-positive, huge or inconsistent prices, negative volume.

    Args:
      rows: rows in order of symbol and time; bad ones are dropped, bars may be widened.
      options: `on_bad_rows` and `range_tolerance` apply.

    Raises:
      DataError: a bad row, if `on_bad_rows` is `"error"`.
    """

    def drop_or_raise(bad: np.ndarray, reason: str, describe: Callable[[pd.Series], str]) -> None:
        rows.drop_or_raise(bad, reason, describe, options.on_bad_rows)

    def describe_missing(row: pd.Series) -> str:
        missing = [name for name in PRICES if not np.isfinite(row[name])]
        return "no price at all" if len(missing) == 4 else f"{missing[0]} is missing or not finite"

    def describe_sign(row: pd.Series) -> str:
        name = next(name for name in PRICES if row[name] <= 0)
        return f"{name} is {row[name]:g}, prices must be above 0"

    drop_or_raise(~np.isfinite(rows.frame[list(PRICES)].to_numpy()).all(axis=1), "missing price", describe_missing)
    drop_or_raise((rows.frame[list(PRICES)].to_numpy() <= 0).any(axis=1), "price not above 0", describe_sign)
    drop_or_raise(beyond_float32(rows.frame), "beyond 32-bit numbers", describe_size)
    volume = rows.frame["volume"].to_numpy()
    drop_or_raise((volume < 0) | np.isinf(volume), "bad volume", lambda row: f"volume is {row['volume']:g}")
    inverted = rows.frame["low"].to_numpy() > rows.frame["high"].to_numpy() * (1 + options.range_tolerance)
    drop_or_raise(inverted, "high below low", lambda row: f"high {row['high']:g} is below low {row['low']:g}")
    _check_open_and_close(rows, options)


def beyond_float32(frame: pd.DataFrame) -> np.ndarray:
    """Marks rows with a finite price outside `PRICE_LIMITS` or a volume above `LARGEST_VOLUME`: `[N]` bool."""
    prices, volume = frame[list(PRICES)].to_numpy(), frame["volume"].to_numpy()
    smallest, largest = PRICE_LIMITS
    return ((prices < smallest) | (prices > largest)).any(axis=1) | ((volume > LARGEST_VOLUME) & np.isfinite(volume))


def describe_size(row: pd.Series) -> str:
    """Says which value of a row that `beyond_float32` marks is outside the limits."""
    smallest, largest = PRICE_LIMITS
    name = next((name for name in PRICES if not smallest <= row[name] <= largest), None)
    if name is None:
        return f"volume is {row['volume']:g}, above {LARGEST_VOLUME:g}: give it in a larger unit"
    return f"{name} is {row[name]:g}, outside [{smallest:g}, {largest:g}]: give prices in another unit"


def _check_open_and_close(rows: Rows, options: LoadOptions) -> None:
    """Checks that open and close lie in [low, high]; an excess up to the tolerance widens the bar."""
    tolerance = options.range_tolerance
    open_, high, low, close = (rows.frame[name].to_numpy() for name in PRICES)
    top, bottom = np.maximum(open_, close), np.minimum(open_, close)
    outside = np.maximum(top / high, low / bottom) - 1

    def describe(row: pd.Series) -> str:
        name = max(("open", "close"), key=lambda n: max(row[n] / row["high"], row["low"] / row[n]))
        excess = 100 * (max(row[name] / row["high"], row["low"] / row[name]) - 1)
        text = f"{name} {row[name]:g} lies {excess:.2g} % outside [low {row['low']:g}, high {row['high']:g}]"
        worst = float(outside.max())
        enough = np.ceil(worst * 1e4 + 1e-6) / 1e4
        return f"{text}, the worst row by {100 * worst:.2g} % (range_tolerance={enough:g} widens them all)"

    rows.drop_or_raise(outside > tolerance, "open or close outside the range", describe, options.on_bad_rows)
    open_, high, low, close = (rows.frame[name].to_numpy() for name in PRICES)
    top, bottom = np.maximum(open_, close), np.minimum(open_, close)
    rows.count("bars widened to hold open and close", ((top > high) | (bottom < low)).sum())
    rows.frame = rows.frame.assign(high=np.maximum(high, top), low=np.minimum(low, bottom))


def check_duplicates(rows: Rows, options: LoadOptions) -> None:
    """Checks for differing rows of one symbol and time.

    Args:
      rows: rows in order of symbol and time, without exact repeats; repeated ones are dropped.
      options: `on_duplicates` applies; `timezone` decides on the remedy.

    Raises:
      DataError: differing rows, if `on_duplicates` is `"error"`.
    """
    frame = rows.frame
    keep = "first" if options.on_duplicates == "error" else options.on_duplicates
    repeated = frame.duplicated(["symbol", "utc"], keep=keep).to_numpy()
    if not repeated.any():
        return
    if options.on_duplicates == "error":
        at = int(np.flatnonzero(repeated)[0])
        row, before = frame.iloc[at], frame.iloc[at - 1]
        other = f"{rows.tables[before['table']].name} " if row["table"] != before["table"] else ""
        finding = (
            f"the time is already at {other}{rows.tables[before['table']].place(before['row'])} with other values "
            f"(close {before['close']:g} and {row['close']:g})"
        )
        one = "pass on_duplicates='first' or on_duplicates='last' (order of the file) to keep one of them"
        remedy = told_apart_by(int(repeated.sum()), len(frame)) + one
        if options.timezone is None and _clocks_set_back(frame["utc"].to_numpy()[repeated]) and _is_naive(rows, row):
            finding = f"{finding}, as when clocks are set back"
            remedy = (
                "pass on_bad_rows='drop' and the zone that the times are written in (timezone='America/New_York', for "
                f"example) to leave the repeated hour out, or {one}"
            )
        raise rows.error(at, finding, remedy, int(repeated.sum()))
    rows.count("conflicting duplicate rows dropped", repeated.sum())
    rows.warnings.append(
        f"{repeated.sum()} of {len(frame)} rows were dropped: their time was there already (on_duplicates "
        f"{options.on_duplicates})"
    )
    rows.frame = frame[~repeated].reset_index(drop=True)


def _clocks_set_back(times: np.ndarray) -> bool:
    """Whether all times lie in the first three hours of Sundays, where nearly all clocks repeat an hour."""
    return bool(np.all((times % DAY < 3 * DAY // 24) & (times // DAY % 7 == 3) & (times % DAY != 0)))


def _is_naive(rows: Rows, row: pd.Series) -> bool:
    """Whether the source gives no zone with the time of this row."""
    table = rows.tables[row["table"]]
    column = [str(label) for label in table.frame.columns].index(table.columns["time"])
    return not states_zone(table.frame.iloc[np.flatnonzero(table.rows == row["row"]), column])


def check_quotes(rows: Rows, options: LoadOptions) -> None:
    """Checks for bids above asks; a missing, zero or negative side counts as no quote.

    Args:
      rows: checked rows; unusable quotes become NaN.
      options: `on_crossed_quotes` applies.

    Raises:
      DataError: crossed quotes, if `on_crossed_quotes` is `"error"`.
    """
    bid, ask = rows.frame["bid"].to_numpy(), rows.frame["ask"].to_numpy()
    crossed = (bid > ask) & (ask > 0) | rows.frame["crossed"].to_numpy()

    def describe(at: int) -> tuple[str, str]:
        closing = f"bid {bid[at]:g} is above ask {ask[at]:g}"
        remedy = "pass on_crossed_quotes='estimate' to estimate the spread of such bars from the prices"
        return closing if bid[at] > ask[at] else "bid is above ask within the bar", remedy

    if options.on_crossed_quotes == "error":
        rows.raise_at_first(crossed, describe)
    rows.count("crossed quotes replaced by the estimate", crossed.sum())
    one_sided = ~crossed & (np.isfinite(bid) | np.isfinite(ask)) & ~((bid > 0) & (ask > 0) & np.isfinite(bid + ask))
    rows.count("one-sided quotes ignored", one_sided.sum())
    drop = crossed | one_sided
    rows.frame = rows.frame.assign(bid=np.where(drop, np.nan, bid), ask=np.where(drop, np.nan, ask))
