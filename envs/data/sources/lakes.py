"""Files by pattern, such as `lake/**/*.parquet`, with what the names of their folders say of them."""

from __future__ import annotations

import glob
import pathlib
import re
from collections.abc import Sequence
from urllib.parse import unquote

from jaxppo.envs.data.rows import SYMBOL_SPELLINGS, Table, column_key
from jaxppo.errors import DataError

PATTERN = re.compile(r"[*?\[]")
_PARTITION = re.compile(r"(\w+)=(.*)")
NULL = "__HIVE_DEFAULT_PARTITION__"


def is_pattern(source: str) -> bool:
    """Whether a path is a pattern, and not the name of a file that is there."""
    return PATTERN.search(source) is not None and not pathlib.Path(source).exists()


def files_of(source: str, suffixes: Sequence[str], symbols: Sequence[str] | None = None) -> list[pathlib.Path]:
    """Price files that a pattern finds, sorted; hidden ones apart.

    Args:
      source: the pattern; `**` are any folders.
      suffixes: endings of price files.
      symbols: that are wanted: files whose folders name others are left out; None for all.

    Raises:
      DataError: there is none, or none of a symbol.
    """
    found = sorted(pathlib.Path(path) for path in glob.glob(str(pathlib.Path(source).expanduser()), recursive=True))
    files = [path for path in found if path.is_file() and path.name.lower().endswith(tuple(suffixes))]
    if not files:
        raise DataError(f"{source}: no price file ({', '.join(suffixes)}) has a path of that pattern")
    named = {file: named_by_folders(file).get("symbol") for file in files}
    if symbols and None not in named.values():
        absent = next((symbol for symbol in symbols if symbol not in named.values()), None)
        if absent is not None:
            there = sorted({str(symbol) for symbol in named.values()})
            listed = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "")
            raise DataError(f"{source}: no symbol {absent!r}; there is {listed}")
        files = [file for file in files if named[file] in symbols]
    return files


def named_by_folders(path: pathlib.Path) -> dict[str, str]:
    """What the folders of a file say of all its rows, as Hive writes it: `symbol=SPY/year=2020/part-0.parquet`.

    Args:
      path: of the file.

    Returns:
      `symbol` and `date`, where there are such folders.
    """
    known = {**dict.fromkeys(SYMBOL_SPELLINGS, "symbol"), "date": "date"}
    found = [one for one in map(_PARTITION.fullmatch, path.parts[:-1]) if one and one[2] != NULL]
    return {known[column_key(one[1])]: unquote(one[2]) for one in found if column_key(one[1]) in known}


def with_partitions(tables: list[Table], path: pathlib.Path) -> list[Table]:
    """Adds the columns that the names of folders are, where a table has none of that meaning.

    Args:
      tables: of a file.
      path: of the file.
    """
    for table in tables:
        keys = {column_key(label) for label in table.frame.columns}
        for name, value in named_by_folders(path).items():
            if not keys & ({*SYMBOL_SPELLINGS} if name == "symbol" else {name}):
                table.frame = table.frame.assign(**{name: value})
    return tables
