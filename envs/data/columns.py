"""Maps the column spellings of the usual vendors to one canonical frame of rows."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Hashable, Sequence

import numpy as np
import pandas as pd

from jaxppo.envs.data import own_columns, payments
from jaxppo.envs.data.closes import check_spacing
from jaxppo.envs.data.digits import DAY, FIRST_YEAR, clock_times
from jaxppo.envs.data.identity import check_identity
from jaxppo.envs.data.numbers import dots_may_group_thousands, has_decimal_comma, is_number_column, parse_numbers
from jaxppo.envs.data.options import LoadOptions
from jaxppo.envs.data.rates import find_rates, rate_columns
from jaxppo.envs.data.rows import DROP_ROWS, PRICES, SYMBOL_SPELLINGS, Rows, Table, column_key, time_text
from jaxppo.envs.data.times import EARLIEST, LATEST, NOT_A_TIME, AmbiguousDates, parse_times
from jaxppo.envs.data.volume import choose_volume
from jaxppo.envs.market.check import check_symbols
from jaxppo.errors import DataError

MOST_BAD_SHARE, MOST_BAD_ROWS = 0.05, 5
"""More unreadable times than these are no bad rows: the column is misread."""
SHORTEST_WITHIN = 3
"""Letters of a spelling that is looked for within other names."""
EXAMPLE = "2021-01-04 09:30"
NO_TIME = ("", "nan", "NaT", "<NA>", "None")
NUMBERS = (*PRICES, "volume", "bid", "ask", "adj_close", "adj_factor", "split", "dividend", "carry")
_DATE_AT_THE_END = re.compile(r"([-_. ]+(19|20)\d{2}([-_.]?(0[1-9]|1[0-2])([-_.]?[0-3]\d)?)?(?!\d))+$")
"""Such as `_2021` of `SPY_2021`, `-2025-01` of `BTCUSDT-1h-2025-01`, `_20210104_20211231`."""
_DATES = ("date", "tradedate", "day")
_TIME_SPELLINGS = (
    "timestamp", "datetime", "opentime", "starttime", "dateutc", "gmttime", "date", "time", "t", "ts", "unix",
    "unixtime", "epoch", "tradedate", "day",
)  # fmt: skip
SPELLINGS = {
    "time": _TIME_SPELLINGS,
    "clock": ["time", "timeofday"],
    "symbol": SYMBOL_SPELLINGS,
    "open": ["open", "openprice", "priceopen", "1open", "o"],
    "high": ["high", "highprice", "pricehigh", "2high", "h", "max"],
    "low": ["low", "lowprice", "pricelow", "3low", "l", "min"],
    "close": ["close", "closeprice", "priceclose", "4close", "closelast", "last", "price", "c"],
    "volume": ["volume", "vol", "5volume", "6volume", "tickvolume", "tickvol", "sharevolume", "v"],
    "bid": ["bid", "bidprice", "bidclose", "closebid", "closingbid"],
    "ask": ["ask", "askprice", "askclose", "closeask", "closingask", "offer", "ofr"],
    "adj_close": ["adjclose", "adjustedclose", "closeadj", "5adjustedclose", "adjcloseprice"],
    "adj_factor": ["adjfactor", "adjustmentfactor"],
    "split": ["stocksplits", "splitratio", "splitcoefficient", "8splitcoefficient"],
    "carry": ["carry", "carryperyear", "annualcarry"],
    "dividend": ["dividends", "dividend", "exdividend", "dividendamount", "7dividendamount", "divcash"],
}
Labels = dict[str, Hashable]
"""Canonical name of a field -> label of the column that holds it."""
_KNOWN = frozenset(spelling for spellings in SPELLINGS.values() for spelling in spellings)
_QUOTE_BARS = tuple(side + price for side in ("bid", "ask") for price in PRICES)


def _recognise(columns: list[Hashable]) -> Labels:
    """Finds the column of each field; spellings earlier in `SPELLINGS` win."""
    keys: dict[str, Hashable] = {}
    for column in columns:
        keys.setdefault(column_key(column), column)
    found: Labels = {}
    for name, spellings in SPELLINGS.items():
        spelling = next((s for s in spellings if s in keys), None)
        if spelling is not None:
            found[name] = keys[spelling]
    found |= {name: keys[name] for name in _QUOTE_BARS if name in keys}
    if found.get("clock") is not None and (
        found["clock"] == found.get("time") or column_key(found["time"]) not in _DATES
    ):
        del found["clock"]
    return found


def canonical_rows(tables: list[Table], options: LoadOptions) -> Rows:
    """Parses times and numbers of every table and selects the symbols.

    Args:
      tables: result of `read_tables`.
      options: `symbols`, `timezone`, `day_first` and `on_bad_rows` apply.

    Returns:
      All rows in file order; unreadable ones are dropped and counted if `on_bad_rows` is `"drop"`.

    Raises:
      DataError: missing columns, unknown symbol, unreadable times or numbers, no rows.
    """
    _join_parts_of_a_history(tables)
    rows = Rows(pd.DataFrame(), tables, warnings=[note for table in tables for note in table.notes])
    parts = []
    available: set[str] = set()
    for index, table in enumerate(tables):
        part, names = _read_table(index, table, rows, options)
        available |= names
        parts.append(part)
    _check_symbols(options.symbols, available, tables)
    frame = pd.concat(parts, ignore_index=True)
    if frame.empty:
        raise DataError(f"{tables[0].name}: no rows left to use")
    order = list(options.symbols) if options.symbols else sorted(set(frame["symbol"]))
    check_symbols(order)
    frame["symbol"] = pd.Categorical(frame["symbol"], categories=order)
    rows.frame = frame
    return rows


def _join_parts_of_a_history(tables: list[Table]) -> None:
    """Gives files of one symbol its name: named alike but for a date at the end, and following one another in time."""
    groups: dict[str, list[Table]] = {}
    for table in tables:
        stem = _DATE_AT_THE_END.sub("", table.symbol)
        if stem and stem != table.symbol:
            groups.setdefault(stem, []).append(table)
    for stem, parts in groups.items():
        spans = [span for span in map(_span, parts) if span is not None]
        ordered = sorted(spans)
        apart = all(one[1] < other[0] for one, other in itertools.pairwise(ordered))
        if len(parts) > 1 and len(spans) == len(parts) and apart:
            for table in parts:
                table.symbol = stem


def _span(table: Table) -> tuple[int, int] | None:
    """First and last time of a table without a column of symbols; None where it has one, or its times are unclear."""
    found = _recognise(list(table.frame.columns))
    if "symbol" in found or "time" not in found:
        return None
    try:
        times, _ = parse_times(table.frame[found["time"]])
    except AmbiguousDates:
        return None
    times = times[times != NOT_A_TIME]
    return (int(times.min()), int(times.max())) if len(times) else None


def _check_symbols(wanted: tuple[str, ...] | None, available: set[str], tables: list[Table]) -> None:
    for symbol in wanted or ():
        if symbol not in available:
            names = sorted(available, key=lambda name: (name.lower() != symbol.lower(), name))
            listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
            where = tables[0].name if len(tables) == 1 else f"{len(tables)} files"
            raise DataError(f"{where}: no symbol {symbol!r}; there is {listed}")


def _read_table(index: int, table: Table, rows: Rows, options: LoadOptions) -> tuple[pd.DataFrame, set[str]]:
    """Parses one table; returns its canonical rows and its symbols, selected or not."""
    found = _recognise(list(table.frame.columns))
    if "time" not in found and table.unnamed is not None:
        found["time"] = table.unnamed
    _require_columns(found, table)
    find_rates(found, table, options)
    raw = _without_repeated_columns(found, table)
    keep = _rows_of_symbols(raw, found, table, rows, options)
    if "symbol" in found:
        symbols = _symbol_names(raw[found["symbol"]], table)
        names = set(symbols[keep].unique())
    else:
        name = table.symbol or (options.symbols[0] if options.symbols and len(options.symbols) == 1 else "asset")
        symbols, names = pd.Series(name, index=raw.index, dtype=object), {name}
    if options.symbols and names - set(options.symbols):
        keep = keep & symbols.isin(options.symbols).to_numpy()
    row = table.rows
    if not keep.all():
        raw, symbols, row = raw[keep], symbols[keep], row[keep]
    choose_volume(found, list(raw.columns), symbols, options)
    table.columns = {name: str(label) for name, label in found.items()}
    part = pd.DataFrame({"symbol": symbols.to_numpy(), "table": index, "row": row})
    part["utc"], part["written"] = _times(table, raw, found, part, options)
    rates = tuple(rate_columns(options))
    texts = {name: raw[found[name]] for name in (*NUMBERS, *rates, *_QUOTE_BARS) if name in found}
    numbers = _numbers(table, texts, raw[found["time"]])
    for name, values in numbers.items():
        _check_text(name, texts[name], values, part, table, options)
    _quote_bars(numbers)
    for name in (*NUMBERS, *rates):
        part[name] = numbers.get(name, np.nan) if name not in PRICES else numbers[name] * table.price_scale
    part["crossed"] = numbers.get("crossed", False)
    own = own_columns.read_columns(raw, part, table, options) | payments.read_payments(raw, part, table, options)
    part = pd.concat([part, pd.DataFrame(own, part.index)], axis=1)
    table.own = own_columns.labels(raw, table, options)
    used = {*map(str, found.values()), *table.own, *payments.named(options).values()}
    left = [label for label in raw.columns if str(label) not in used and column_key(label) not in _KNOWN]
    table.unused = tuple(map(str, left))
    unread = part["utc"].to_numpy() == NOT_A_TIME
    check_identity(part[~unread], raw[~unread], set(map(str, used)), table)
    if table.closes_only:
        check_spacing(part[~unread], table)
    rows.count("dropped: unreadable time", unread.sum())
    return part[~unread], names


def unused_line(tables: Sequence[Table]) -> str | None:
    """Names the columns that nothing reads; None where all are read.

    Args:
      tables: after their rows were read.
    """
    unused = list(dict.fromkeys(name for table in tables for name in table.unused))
    if not unused:
        return None
    shown = ", ".join(unused[:8]) + (f" and {len(unused) - 8} more" if len(unused) > 8 else "")
    return f"columns that nothing reads: {shown}; name those that features should read in features.columns"


def _without_repeated_columns(found: Labels, table: Table) -> pd.DataFrame:
    """Drops columns that repeat a used one; columns of one name and different values are refused."""
    # Readers of CSV number labels that repeat: `close, close.1`.
    labels = [str(label) for label in table.frame.columns]
    stems = [re.sub(r"\.\d+$", "", label) for label in labels]
    known = set(labels)
    labels = [stem if stem in known else label for stem, label in zip(stems, labels, strict=True)]
    keys = [column_key(label) for label in labels]
    used = {column_key(label) for label in found.values()}
    repeats = [at for at, key in enumerate(keys) if key in used and keys.index(key) < at]
    for at in repeats:
        first = keys.index(keys[at])
        one, other = (table.frame.iloc[:, i].astype(str).to_numpy() for i in (first, at))
        if not np.array_equal(one, other):
            both = f"{labels[first]!r} and {labels[at]!r} (columns {first + 1} and {at + 1})"
            raise DataError(f"{table.name}: {both} have one meaning and different values; rename or remove one of them")
    return table.frame.drop(columns=table.frame.columns[repeats]) if repeats else table.frame


def _symbol_names(column: pd.Series, table: Table) -> pd.Series:
    """Converts symbols to stripped text; empty where there is none."""
    if column.dtype == object:
        strange = next(
            (value for value in column if isinstance(value, Collection) and not isinstance(value, str)), None
        )
        if strange is not None:
            shown = repr(strange)[:60]
            raise DataError(f"{table.name}: the column {column.name} holds {shown}; a symbol is text or a number")
    codes, unique = pd.factorize(column)
    return pd.Series(np.array([*(str(name).strip() for name in unique), ""], object)[codes], index=column.index)


def _rows_of_symbols(raw: pd.DataFrame, found: Labels, table: Table, rows: Rows, options: LoadOptions) -> np.ndarray:
    """Marks rows that name a symbol and do not repeat the header, as joined files do: `[N]` bool."""
    keep = ~np.all([_repeats_label(raw[found[name]]) for name in ("time", "close") if name in found], axis=0)
    _drop_or_raise(table, ~keep, "repeated header", lambda row: "the header line is repeated", rows, options)
    if "symbol" not in found:
        return keep

    def describe(row: pd.Series) -> str:
        cells = [str(cell) for cell in row if pd.notna(cell) and str(cell).strip()]
        return f"the column {found['symbol']} is empty" + (f" (the row begins with {cells[0]!r})" if cells else "")

    empty = keep & (_symbol_names(raw[found["symbol"]], table) == "").to_numpy()
    _drop_or_raise(table, empty, "no symbol", describe, rows, options)
    return keep & ~empty


def _repeats_label(column: pd.Series) -> np.ndarray:
    """Marks cells that hold the label of their column: `[N]` bool."""
    if is_number_column(column) or pd.api.types.is_datetime64_any_dtype(column.dtype):
        return np.zeros(len(column), bool)
    return (column.astype(object).astype(str).str.strip() == str(column.name).strip()).to_numpy()


def _drop_or_raise(
    table: Table, bad: np.ndarray, reason: str, describe: Callable[[pd.Series], str], rows: Rows, options: LoadOptions
) -> None:
    """Counts bad rows of unknown symbol as dropped, or raises the error for the first one."""
    if bad.any() and options.on_bad_rows == "error":
        at = int(np.flatnonzero(bad)[0])
        raise table.error("", table.rows[at], describe(table.frame.iloc[at]), DROP_ROWS, int(bad.sum()))
    rows.count(f"dropped: {reason}", bad.sum())


def _require_columns(found: Labels, table: Table) -> None:
    listed = ", ".join(map(str, table.frame.columns[:12]))
    if "time" not in found:
        raise DataError(f"{table.name}: no column of times; found {listed}; {_renamed(['time'], found, table)}")
    quoted = all(name in found for name in _QUOTE_BARS)
    missing = [name for name in PRICES if name not in found]
    if missing and not quoted:
        if missing != [name for name in PRICES if name != "close"]:
            hint = _renamed(missing, found, table)
            raise DataError(f"{table.name}: no column for {', '.join(missing)}; found {listed}; {hint}")
        table.closes_only = True
        found |= dict.fromkeys(missing, found["close"])


def _renamed(missing: list[str], found: Labels, table: Table) -> str:
    """Says which column to rename where its name has a spelling of what is missing within it, else all spellings."""
    hints = []
    for name in missing:
        spellings = [spelling for spelling in SPELLINGS[name] if len(spelling) >= SHORTEST_WITHIN]
        labels = [label for label in table.frame.columns if label not in found.values()]
        near = next((label for label in labels if any(one in column_key(label) for one in spellings)), None)
        read = ", ".join(SPELLINGS[name])
        hints.append(f"names of {name}: {read}" if near is None else f"rename {near} to {name} if it is that")
    return "; ".join(hints)


def _times(
    table: Table, raw: pd.DataFrame, found: Labels, part: pd.DataFrame, options: LoadOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Parses the times of a table; raises the error for the first unreadable one unless bad rows are dropped."""
    values, next_day = raw[found["time"]], np.zeros(len(raw), np.int64)
    if "clock" in found:
        values, next_day = _with_clock(values, raw[found["clock"]])
    try:
        utc, written = parse_times(values, timezone=options.timezone, day_first=options.day_first)
    except AmbiguousDates as error:
        finding = f"dates such as {error} read day first and month first"
        raise DataError(f"{table.name}: {finding}; pass day_first=True or day_first=False") from None
    utc, written = (np.where(times == NOT_A_TIME, times, times + next_day) for times in (utc, written))
    latest = min(LATEST, pd.Timestamp.now("UTC").value + 2 * DAY)  # the date of a bar may be ahead of UTC
    implausible = (utc != NOT_A_TIME) & ((utc < EARLIEST) | (utc > latest))
    bad = np.flatnonzero((utc == NOT_A_TIME) | implausible)
    missing = values.isna().to_numpy() | values.astype("string").str.strip().isin(NO_TIME).to_numpy(bool)
    misread = (~missing[bad]).sum() > max(MOST_BAD_SHARE * len(utc), MOST_BAD_ROWS)
    if len(bad) and (options.on_bad_rows == "error" or misread):
        at = bad[0]
        text, remedy = str(values.iloc[at]), f"write times as {EXAMPLE}" if misread else DROP_ROWS
        finding = "the time is missing" if missing[at] else f"{text!r} is not a time"
        if implausible[at]:
            finding = f"{text!r} reads as {time_text(utc[at])}, after today or before {FIRST_YEAR}"
        elif written[at] != NOT_A_TIME:
            finding = f"{text!r} falls in the hour that {options.timezone} skips or repeats when clocks change"
            remedy = f"{DROP_ROWS}, or write times in UTC"
        raise table.error(part["symbol"].iloc[at], part["row"].iloc[at], finding, remedy, len(bad))
    return np.where(implausible, NOT_A_TIME, utc), written


def _with_clock(dates: pd.Series, clocks: pd.Series) -> tuple[pd.Series, np.ndarray]:
    """Joins columns of dates and clock times to one of times; and `[N]` ns to be added where a clock shows 24:00."""
    alone = pd.to_numeric(clocks, errors="coerce")
    if (alone >= 1e13).all():  # the column of clock times has the date as well
        return clocks, np.zeros(len(clocks), np.int64)
    days, texts = dates.astype(str).str.strip(), clocks.astype(str).str.strip()
    since_midnight = clock_times(clocks)
    if since_midnight is None:
        ends = texts.str.fullmatch(r"24:00(:00)?").to_numpy()
        return days + " " + texts.str.replace(r"^24:", "00:", regex=True), ends * DAY
    on_day = pd.to_datetime(np.maximum(since_midnight, 0) % DAY)
    written = pd.Series(on_day.strftime("%H:%M:%S.%f"), index=texts.index)
    return days + " " + written.where(since_midnight >= 0, texts), (since_midnight == DAY) * DAY


def _numbers(table: Table, texts: dict[str, pd.Series], times: pd.Series) -> dict[str, np.ndarray]:
    """Parses columns to float64; with semicolons between cells, commas may mark decimals and dots thousands."""
    prices = [texts[name] for name in (*PRICES, *_QUOTE_BARS) if name in texts and not is_number_column(texts[name])]
    decimal_comma = table.separator == ";" and has_decimal_comma(prices)
    if table.separator == ";" and not decimal_comma and prices:
        unclear = dots_may_group_thousands(prices)
        continental = times.astype("string").str.match(r"\s*\d{1,2}\.\d{1,2}\.\d{2}").fillna(False).mean() > 0.5
        if unclear is not None and continental:
            remedy = "write them with a decimal comma (2006,0), or without a separator of thousands (2006)"
            raise DataError(f"{table.name}: prices such as {unclear} read as a fraction and as thousands; {remedy}")
    return {name: parse_numbers(column, decimal_comma=decimal_comma) for name, column in texts.items()}


def _check_text(
    name: str, column: pd.Series, values: np.ndarray, part: pd.DataFrame, table: Table, options: LoadOptions
) -> None:
    """Checks that text in a column of numbers was read: it is an error, not a missing value."""
    if is_number_column(column) or name in ("split", "dividend"):
        return
    given = column.notna().to_numpy() & (column.astype("string").str.strip().fillna("").to_numpy() != "")
    bad = np.flatnonzero(given & np.isnan(values) & (part["utc"].to_numpy() != NOT_A_TIME))
    if len(bad) and options.on_bad_rows == "error":
        at = bad[0]
        finding = f"{name} {str(column.iloc[at])!r} is not a number"
        raise table.error(part["symbol"].iloc[at], part["row"].iloc[at], finding, DROP_ROWS, len(bad))


def _quote_bars(numbers: dict[str, np.ndarray]) -> None:
    """Converts bars of bids and asks: prices become mids, closing quotes stay, bars with a bid above its ask marked."""
    if not all(name in numbers for name in _QUOTE_BARS):
        return
    crossed = np.zeros(len(numbers["bidclose"]), bool)
    for price in PRICES:
        bid, ask = numbers["bid" + price], numbers["ask" + price]
        crossed = crossed | (bid > ask)
        if price not in numbers:
            numbers[price] = (bid + ask) / 2
    numbers["crossed"] = crossed
    numbers["bid"], numbers["ask"] = numbers["bidclose"], numbers["askclose"]
