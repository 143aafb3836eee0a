"""Reads files, folders and data frames into tables that know their origin."""

from __future__ import annotations

import functools
import gzip
import io
import os
import pathlib
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import pandas as pd
import pyarrow

from jaxppo.envs import datasets
from jaxppo.envs.data.options import LoadOptions
from jaxppo.envs.data.rows import PRICES, SYMBOL_SPELLINGS, Table, column_key
from jaxppo.envs.data.sources import databases, lakes
from jaxppo.envs.data.sources.downloads import download
from jaxppo.envs.data.sources.request import DATABASE, KINDS, kind_of, request_of
from jaxppo.errors import DataError

TEXT_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".txt", ".zip")
SUFFIXES = (*TEXT_SUFFIXES, ".parquet", ".pq")
MISSING = ["", "nan", "NaN", "NAN", "null", "NULL", "None", "NA", "N/A", "n/a", "#N/A", "-"]
LEAN_PRICE_UNIT = 1e-4
MOST_BYTES = 8 * 2**30
"""Text that a compressed file may hold, bytes."""
MOST_NAMED, MOST_FOLDERS = 5, 4
"""Files that a warning names, and parts of a path that a message shows."""


@runtime_checkable
class ArrowTable(Protocol):
    """A table of another library, handed over as a stream of Arrow: Polars, PyArrow, DuckDB, pandas too."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any: ...


Frame: TypeAlias = pd.DataFrame | ArrowTable
PriceSource: TypeAlias = str | os.PathLike | Frame | Sequence[str | os.PathLike] | Mapping[str, Frame]
_UNREADABLE = (
    OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, pyarrow.ArrowException, ValueError,
)  # fmt: skip
_QUOTE_BAR = ["date"] + [s + p for s in ("bid", "ask") for p in ("open", "high", "low", "close", "size")]


def read_tables(source: PriceSource, options: LoadOptions | None = None) -> list[Table]:
    """Reads path, folder, pattern, name of a source or shipped data set, data frame, list, or `{symbol: data frame}`.

    Args:
      source: of the prices.
      options: `symbols` spares files of others, `start`, `end` and `refresh` apply to downloads; None asks for all.

    Returns:
      At least one table.

    Raises:
      DataError: missing, empty, unreadable or unsupported file; folder without price files; source of another type.
    """
    if isinstance(source, ArrowTable):
        return _from_frame(source, "data frame", "")
    if isinstance(source, Mapping):
        tables = [table for symbol, frame in source.items() for table in _from_frame(frame, f"{symbol}", str(symbol))]
    elif isinstance(source, (list, tuple)):
        if any(isinstance(path, (list, tuple)) for path in source):
            raise DataError("a list of price files holds a list; give the paths in one list")
        tables = [table for path in source for table in read_tables(path, options)]
    elif isinstance(source, (str, os.PathLike)):
        tables = _from_path(source, options)
    else:
        raise DataError(f"prices must be a path, a list of paths or a data frame, not {type(source).__name__}")
    if not tables:
        raise DataError("an empty list of price files")
    return tables


def _from_path(source: str | os.PathLike, options: LoadOptions | None) -> list[Table]:
    if not str(source):
        raise DataError("the path of the price file is empty")
    kind = kind_of(str(source))
    if kind == DATABASE:
        return _from_frame(databases.table_of(str(source)), str(source), "")
    if kind is not None:
        return _from_download(str(source), options)
    if lakes.is_pattern(str(source)):
        return _from_lake(str(source), options)
    try:
        path = pathlib.Path(source).expanduser()
    except RuntimeError as error:  # ~name of nobody
        raise DataError(f"{source}: {error}") from None
    if str(source) in datasets.FILES and not path.exists():
        path = datasets.path(str(source))
    if not path.exists():
        shipped, sources = ", ".join(datasets.FILES), ", ".join(f"{kind}:" for kind in KINDS)
        raise DataError(f"{source}: no such file or folder (shipped data sets: {shipped}; sources: {sources})")
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if not file.name.startswith("."))
        files = [file for file in found if file.name.lower().endswith(SUFFIXES)]
        if not files:
            below = f"; those of folders below are {path}/**/*.parquet" if any(f.is_dir() for f in found) else ""
            raise DataError(f"{path}: the folder holds no price files ({', '.join(SUFFIXES)}){below}")
        others = [file.name for file in found if file not in files and file.is_file()]
        return _tables_of([(file.name, functools.partial(_from_file, file)) for file in files], others, path.name)
    return _from_file(path)


def _from_download(source: str, options: LoadOptions | None) -> list[Table]:
    """Reads what a source has, or had when it was asked first."""
    given = (None, None, False) if options is None else (options.start, options.end, options.refresh)
    found = download(request_of(source, *given[:2]), refresh=given[2])
    symbols = found.record["symbols"]
    [table] = _from_frame(pd.read_parquet(found.file), source, symbols[0] if len(symbols) == 1 else "")
    table.download = {**found.record, "file": str(found.file)}
    return [table]


def _from_lake(source: str, options: LoadOptions | None) -> list[Table]:
    """Reads the files that a pattern finds, less those whose folders name other symbols than those asked for."""
    tables = []
    for file in lakes.files_of(source, SUFFIXES, None if options is None else options.symbols):
        for table in _from_file(file):
            table.name = "/".join(file.parts[-MOST_FOLDERS:])
            tables.append(table)
    return tables


class _NoPrices(DataError):
    """A text file that holds no table of prices."""


def _tables_of(
    files: Sequence[tuple[str, Callable[[], list[Table]]]], others: Sequence[str], place: str
) -> list[Table]:
    """Reads the files of a folder or an archive; those that are no price files are left out with a warning.

    Args:
      files: name and reader of those that may be price files; a `.txt` may also be a note beside them.
      others: names of those that are none.
      place: name of the folder or archive.

    Raises:
      DataError: a price file cannot be read, or there is none.
    """
    tables: list[Table] = []
    left_out, first = list(others), None
    for name, read in files:
        try:
            tables += read()
        except _NoPrices as error:
            if not name.lower().endswith(".txt"):
                raise
            first = first or error
            left_out.append(name)
    if first is not None and not tables:
        raise first
    if left_out:
        names = ", ".join(sorted(left_out)[:MOST_NAMED]) + (" ..." if len(left_out) > MOST_NAMED else "")
        tables[0].notes = (f"{place}: left out what is no price file: {names}",)
    return tables


def _from_file(path: pathlib.Path) -> list[Table]:
    name = path.name.lower()
    if not path.is_file():  # a pipe would be waited for, a device read for ever
        raise DataError(f"{path.name}: is not a regular file")
    if not name.endswith(SUFFIXES):
        raise DataError(f"{path.name}: cannot read this kind of file, only {', '.join(SUFFIXES)}")
    try:
        if name.endswith((".parquet", ".pq")):
            # Its folders are read here, for all kinds of files alike.
            tables = _from_frame(pd.read_parquet(path, partitioning=None), path.name, _stem(path.name))
            return lakes.with_partitions(tables, path)
        data = path.read_bytes()
        if name.endswith(".zip"):
            return _from_archive(data, path.name)
        data = _decompressed(data, path.name) if name.endswith(".gz") else data
        return lakes.with_partitions(_from_text(data, path.name, _stem(path.name)), path)
    except DataError:
        raise
    except pd.errors.ParserWarning:
        raise DataError(f"{path.name}: cannot be read: rows have more cells than the header") from None
    except (*_UNREADABLE, KeyError, TypeError, AttributeError, IndexError, MemoryError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        reason = reason.removeprefix("Error tokenizing data. C error: ")
        raise DataError(f"{path.name}: cannot be read: {reason}") from None


def _from_archive(data: bytes, name: str) -> list[Table]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        inside = [m for m in archive.namelist() if "__MACOSX" not in m and not m.endswith("/")]
        members = sorted(m for m in inside if m.lower().endswith((".csv", ".txt", ".tsv")))
        if not members:
            raise DataError(f"{name}: the archive holds no .csv file")
        size = sum(archive.getinfo(member).file_size for member in members)
        if size > MOST_BYTES:
            raise DataError(f"{name}: expands to {size / 2**30:.1f} GiB, more than {MOST_BYTES / 2**30:.0f}; unpack it")
        contents = [archive.read(member) for member in members]
    files = [
        (member, functools.partial(_from_text, text, f"{name}/{member}", _stem(member)))
        for member, text in zip(members, contents, strict=True)
    ]
    return _tables_of(files, [member for member in inside if member not in members], name)


def _decompressed(data: bytes, name: str) -> bytes:
    """Content of a gzip file, up to `MOST_BYTES`."""
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise DataError(f"{name}: expands to more than {MOST_BYTES / 2**30:.0f} GiB; unpack it")
    return content


def _stem(name: str) -> str:
    stem = pathlib.PurePosixPath(name).name
    return re.sub(r"(\.(csv|tsv|txt|gz|zip|parquet|pq))+$", "", stem, flags=re.IGNORECASE)


def _from_frame(
    given: Frame, name: str, symbol: str, rows: np.ndarray | None = None, lines: bool = False
) -> list[Table]:
    """Makes one table of a data frame, or one per symbol of two-level columns (price x symbol, either order)."""
    frame = _as_pandas(given, name)
    rows = np.arange(len(frame)) if rows is None else rows
    if not len(frame):
        raise DataError(f"{name}: the table has no rows")
    if isinstance(frame.columns, pd.MultiIndex):
        if frame.columns.nlevels != 2:
            raise DataError(f"{name}: columns have {frame.columns.nlevels} levels; price and symbol are expected")
        level = max(range(frame.columns.nlevels), key=lambda i: _n_prices(frame.columns.get_level_values(i)))
        tables = []
        for key in dict.fromkeys(frame.columns.droplevel(level)):
            one = frame.xs(key, axis=1, level=1 - level)
            present = one.notna().any(axis=1).to_numpy()
            tables += _from_frame(one[present], name, str(key), rows[present], lines) if present.any() else []
        return tables
    unnamed = None
    if not isinstance(frame.index, pd.RangeIndex):
        has_names = any(n is not None for n in frame.index.names)
        unnamed = "index" if not has_names and not pd.api.types.is_numeric_dtype(frame.index.dtype) else None
        if (unnamed or has_names) and not set(frame.index.names) & set(frame.columns):
            frame = frame.reset_index(names=unnamed) if unnamed else frame.reset_index()
    return [Table(frame.reset_index(drop=True), name, rows, symbol, unnamed, lines)]


def _as_pandas(frame: Frame, name: str) -> pd.DataFrame:
    if isinstance(frame, pd.DataFrame):
        return frame
    try:
        return pyarrow.table(frame).to_pandas(date_as_object=False)
    except (TypeError, ValueError, pyarrow.ArrowException):  # no table, such as a column of one
        raise DataError(f"{name}: expected a data frame (pandas, Polars, Arrow), not {type(frame).__name__}") from None


def _n_prices(labels: pd.Index) -> int:
    return len({column_key(label) for label in labels} & set(PRICES))


def _decode(data: bytes, name: str) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16")
    if b"\x00" in data[:4096]:
        raise DataError(f"{name}: cannot be read as text; is it really a CSV file?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _from_text(data: bytes, name: str, symbol: str) -> list[Table]:
    text = _decode(data, name)
    if not text.strip():
        raise _NoPrices(f"{name}: the file is empty")
    head = text.split("\n", 12)[:12]
    header = next((i for i, line in enumerate(head) if _is_header(_cells(line, _separator(line)))), None)
    if header is None:
        return [_without_header(text, name, symbol, head)]
    separator = _separator(head[header])
    if header + 1 < len(head) and column_key(_cells(head[header + 1], separator)[0]) == "ticker":
        return _two_level_header(text, name, header)
    if header > 0 and column_key(_cells(head[header - 1], separator)[0]) == "ticker":
        return _two_level_header(text, name, header - 1)
    labels = _cells(head[header], separator)
    first = head[header + 1].rstrip("\r\n") if header + 1 < len(head) else ""
    if first.endswith(separator) and first.count(separator) == len(labels):
        labels.append("trailing separator")
    names = _unique(labels)
    missing = {label: MISSING for label in names if column_key(label) not in SYMBOL_SPELLINGS}
    kept_as_text = {label: str for label in names if label not in missing or separator == ";"}
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        frame = pd.read_csv(
            io.StringIO(text),
            sep=separator,
            header=0,
            names=names,
            skiprows=header,
            index_col=False,
            dtype=kept_as_text,
            keep_default_na=False,
            na_values=missing,
            skip_blank_lines=False,
            skipinitialspace=True,
            low_memory=False,
        )
    rows = np.arange(len(frame)) + header + 2
    written = _rows_written(frame)
    if not written.any():
        raise DataError(f"{name}: the file has a header but no rows")
    unnamed = "" if labels[0] == "" else None
    return [Table(frame[written].reset_index(drop=True), name, rows[written], symbol, unnamed, True, separator)]


def _rows_written(frame: pd.DataFrame) -> np.ndarray:
    """Marks rows with a cell that is not empty: `[N]` bool."""
    written = np.zeros(len(frame), bool)
    for _, column in frame.items():
        written |= (column.notna() & (column != "")).to_numpy(bool)
        if written.all():  # as a rule after one of, perhaps, thousands of columns
            break
    return written


def _unique(labels: list[str]) -> list[str]:
    """Numbers repeated labels, as data frames need."""
    first: dict[str, int] = {}
    for number, label in enumerate(labels):
        first.setdefault(label, number)
    return [label if first[label] == number else f"{label}.{number}" for number, label in enumerate(labels)]


def _separator(line: str) -> str:
    return max(",;\t|", key=line.count)


def _cells(line: str, separator: str) -> list[str]:
    return [cell.strip().strip('"').strip() for cell in line.strip("\r\n").split(separator)]


def _is_header(cells: list[str]) -> bool:
    keys = {column_key(cell) for cell in cells}
    prices = {"close", "price", "last", "closelast", "4close", "adjclose", "bidclose", "open", "high", "low"}
    named = bool(keys & prices) or {"o", "h", "l", "c"} <= keys
    return len(cells) > 1 and named and not any(re.fullmatch(r"-?\d+\.\d+", cell) for cell in cells)


def _two_level_header(text: str, name: str, header: int) -> list[Table]:
    """Reads a header of two lines, `Price,Close,High,...` and `Ticker,AAPL,AAPL,...`, in the orders yfinance writes."""
    frame = pd.read_csv(io.StringIO(text), header=[0, 1], index_col=0, skiprows=header, low_memory=False)
    rows = np.arange(len(frame)) + header + 3
    if frame.index.name is not None:
        rows = rows + 1
    frame.index.name = "date"
    return _from_frame(frame, name, "", rows, lines=True)


def _without_header(text: str, name: str, symbol: str, head: list[str]) -> Table:
    """Reads bars without a header: `time,open,high,low,close[,volume]`, `date,time,...`, QuantConnect Lean's files."""
    separator = _separator(head[0])
    cells = _cells(head[0], separator)
    numeric = [bool(re.fullmatch(r"-?\d+(\.\d+)?", cell)) for cell in cells]
    split_clock = len(cells) in (6, 7) and bool(re.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?", cells[1]))
    # Seven cells are one more than a bar with a volume has: the second is the clock, also where it is digits alone.
    split_clock = split_clock or (len(cells) == 7 and bool(re.fullmatch(r"\d{1,6}", cells[1])))
    names = ["date", *(["time"] if split_clock else []), *PRICES, "volume"]
    layouts = {len(names): names, len(names) - 1: names[:-1], len(_QUOTE_BAR): _QUOTE_BAR}
    if len(cells) not in layouts or not re.search(r"\d{4}", cells[0]) or not all(numeric[2 if split_clock else 1 :]):
        found = f"no header line with open, high, low, close in the first {len(head)} lines"
        wide = "a column for each asset has to become rows, one a bar and asset, with columns symbol and close"
        raise _NoPrices(f"{name}: {found}; the first is {head[0].strip()[:60]!r}; {wide}")
    frame = pd.read_csv(
        io.StringIO(text),
        sep=separator,
        header=None,
        names=layouts[len(cells)],
        skip_blank_lines=False,
        index_col=False,
        low_memory=False,
        na_values=MISSING,
        dtype={"date": str},
    )
    rows = np.arange(len(frame)) + 1
    written = frame.notna().any(axis=1).to_numpy()
    table = Table(frame[written].reset_index(drop=True), name, rows[written], symbol, in_lines=True)
    whole = len(cells) == 6 and all(pd.api.types.is_integer_dtype(table.frame[price].dtype) for price in PRICES)
    if whole and re.fullmatch(r"\d{8} \d{2}:\d{2}", cells[0]):
        table.price_scale = LEAN_PRICE_UNIT
    return table
