"""Tables of DuckDB files: `duckdb:FILE:TABLE`, or a SELECT in the place of the table."""

from __future__ import annotations

import pathlib
import re

import pandas as pd

from jaxppo.envs.data.sources.asking import extra
from jaxppo.errors import DataError

FORM = "duckdb:FILE:TABLE, or duckdb:FILE:SELECT ..."
_NAME = re.compile(r"(?:[A-Za-z]:[\\/])?[^:]+")
_TABLE = re.compile(r"\w+(\.\w+){0,2}")


def split_name(source: str) -> tuple[str, str]:
    """File, and table or SELECT, of the name of a table; empty where it has none.

    Args:
      source: as in `FORM`.
    """
    rest = source.partition(":")[2]
    name = _NAME.match(rest)
    return (name[0], rest[name.end() :].removeprefix(":").strip()) if name else ("", "")


def query_of(source: str) -> tuple[pathlib.Path, str]:
    """File and SELECT that the name of a table means.

    Args:
      source: as in `FORM`.

    Raises:
      DataError: it is not written so, or there is no such file.
    """
    name, what = split_name(source)
    if not what:
        raise DataError(f"{source[:80]}: a table is written {FORM}")
    path = pathlib.Path(name).expanduser()
    if not path.is_file():
        raise DataError(f"{source[:80]}: no such file: {path}")
    quoted = ".".join(f'"{part}"' for part in what.split("."))
    return path, f"SELECT * FROM {quoted}" if _TABLE.fullmatch(what) else what


def table_of(source: str) -> pd.DataFrame:
    """Rows of a table or of a SELECT; the database is opened for reading only.

    Args:
      source: as in `FORM`.

    Raises:
      DataError: see `query_of`; or duckdb is missing, something else than one SELECT, no such table.
    """
    duckdb = extra("duckdb", "duckdb", source[:80])
    path, query = query_of(source)
    try:
        with duckdb.connect(str(path), read_only=True) as database:
            statements = database.extract_statements(query)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise DataError(f"{source[:80]}: must be the name of a table, or one SELECT")
            return database.execute(statements[0]).df()
    except duckdb.Error as error:
        raise DataError(f"{source[:80]}: {' '.join(str(error).split())[:200]}") from None
