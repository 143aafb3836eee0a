"""The folder of a Monte Carlo job: its settings, and Parquet parts, each of which is there whole or not at all."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxppo.errors import ConfigError
from jaxppo.run.folder import write_json

SETTINGS, PARTS = "job.json", "parts"
KEYS = (
    "policy",
    "policy_identity",
    "policy_digest",
    "generator",
    "generator_digest",
    "perturbation",
    "stress",
    "n_paths",
    "n_bars",
    "seed",
    "shard",
    "part_size",
    "batch_size",
    "points",
    "history",
    "spare",
    "ruin",
    "periods_per_year",
)
"""Settings of every job."""
MOST_VALUES = 2**24
"""Values that are read from the files of a table at once, in as many columns as that allows: opening files is slow."""
EQUITY = "equity_"
"""Prefix of the columns of the curve; the number of bars follows."""


@dataclasses.dataclass(frozen=True, repr=False)
class Table:
    """Figures of paths, one row a path in order of their numbers, in memory or in files.

    Attributes:
      settings: of the job.
      files: Parquet parts; empty for a table in memory.
      memory: the table, if it has no files.
    """

    settings: dict[str, Any]
    files: tuple[pathlib.Path, ...] = ()
    memory: pa.Table | None = None

    def __repr__(self) -> str:
        """Where the paths are."""
        if self.memory is not None:
            return f"Table({self.memory.num_rows:,} paths in memory)"
        return f"Table({len(self.files)} files in {str(self.files[0].parent)!r})"

    @functools.cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self._read("path"), kind="stable")

    @property
    def names(self) -> tuple[str, ...]:
        """Columns but `path`, figures first."""
        names = self.memory.column_names if self.memory is not None else _read(self.files[0], pq.read_schema).names
        return tuple(name for name in names if name != "path")

    def column(self, name: str) -> np.ndarray:
        """`[n_paths]` values of a column, in order of the paths; of a large table only a few are in memory."""
        return self._read(name)[self._order]

    def frame(self) -> Any:
        """Everything as a pandas frame, indexed by `path`."""
        table = self.memory
        if table is None:
            table = pa.concat_tables(_read(file, read_part) for file in self.files)
        return table.to_pandas().set_index("path").sort_index()

    def _read(self, name: str) -> np.ndarray:
        if self.memory is not None:
            return self.memory.column(name).to_numpy()
        if name not in self._held:
            names = list(_read(self.files[0], pq.read_schema).names)
            size = max(MOST_VALUES // self.settings["n_paths"], 1)
            start = names.index(name) // size * size
            read = functools.partial(read_part, columns=names[start : start + size])
            table = pa.concat_tables(_read(file, read) for file in self.files)
            self._held.clear()
            self._held.update({found: table.column(found).to_numpy() for found in table.column_names})
        return self._held[name]

    @functools.cached_property
    def _held(self) -> dict[str, np.ndarray]:
        """The columns that were read last."""
        return {}


def _read(file: pathlib.Path, read: Callable[[pathlib.Path], Any]) -> Any:
    try:
        return read(file)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise ConfigError(f"{file} cannot be read ({str(error).splitlines()[0]}); run its job again") from None


def as_table(paths: np.ndarray, figures: dict[str, np.ndarray], curves: np.ndarray, bars: Sequence[int]) -> pa.Table:
    """Makes a table with a row for each of n paths, and the curves as a column per time.

    Args:
      paths: `[n]` numbers of the paths.
      figures: `[n]` each, by name.
      curves: `[n, points]` equity as a fraction of the capital.
      bars: bars after the start of each of the points.
    """
    columns = {"path": paths, **figures}
    columns |= {f"{EQUITY}{bar}": np.ascontiguousarray(curves[:, i]) for i, bar in enumerate(bars)}
    return pa.table(columns)


def write_part(folder: pathlib.Path, name: str, table: pa.Table) -> pathlib.Path:
    """Writes a part in one move, so that an interrupted job never leaves half of one.

    Args:
      folder: of the job.
      name: of the file, see `part_name`.
      table: from `as_table`.

    Returns:
      Where it is.
    """
    return _in_one_move(folder / PARTS / name, lambda draft: pq.write_table(table, draft, write_page_checksum=True))


def copy_parts(folder: pathlib.Path, files: Sequence[pathlib.Path]) -> tuple[pathlib.Path, ...]:
    """Copies parts into the folder of a job, numbered anew, and removes all others that are there.

    Args:
      folder: of the job.
      files: the parts.

    Returns:
      The copies.
    """
    copies = []
    for number, file in enumerate(files):
        copy = functools.partial(shutil.copyfile, file)
        copies.append(_in_one_move(folder / PARTS / part_name(number), copy))
    for file in {*(folder / PARTS).glob("part_*.parquet")} - {*copies}:  # left by shards with parts of another size
        file.unlink()
    return tuple(copies)


def _in_one_move(path: pathlib.Path, write: Callable[[pathlib.Path], Any]) -> pathlib.Path:
    draft = path.with_name(path.name + ".part")
    write(draft)
    draft.replace(path)
    return path


def read_part(path: pathlib.Path, columns: list[str] | None = None) -> pa.Table:
    """Reads a part.

    Args:
      path: of the file.
      columns: names of those to read; default: all.

    Raises:
      OSError: there is none, or it is damaged.
      pyarrow.ArrowException: likewise.
    """
    return pq.read_table(path, columns=columns, page_checksum_verification=True)


def holds(path: pathlib.Path, numbers: np.ndarray) -> bool:
    """Whether a part is there, readable, and of exactly the given paths.

    Args:
      path: of the file.
      numbers: `[n]` numbers of the paths, in order.
    """
    try:
        return np.array_equal(read_part(path).column("path").to_numpy(), numbers)
    except (OSError, KeyError, pa.ArrowException):
        return False


def part_name(number: int) -> str:
    """File name of the part of a batch."""
    return f"part_{number:06d}.parquet"


def open_job(folder: pathlib.Path, settings: dict[str, Any]) -> None:
    """Starts a job in a folder, or goes on with the one that is there.

    Args:
      folder: of the job.
      settings: of the job; those of one that is there must be equal.

    Raises:
      ConfigError: the folder is that of another job, holds something else, or cannot be used.
    """
    path = folder / SETTINGS
    try:
        if path.exists():
            saved = read_settings(folder)
            for key in {**settings, **saved}:
                if saved.get(key) != settings.get(key):
                    raise ConfigError(
                        f"{folder} is the folder of another job: its {key} is {saved.get(key)!r}, not "
                        f"{settings.get(key)!r}; give another --output, or the same settings to go on with it"
                    )
        elif folder.exists() and not _just_begun(folder):
            raise ConfigError(f"--output {folder} is not empty and not the folder of a Monte Carlo job; give another")
        (folder / PARTS).mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_json(path, settings)
    except OSError as error:
        raise ConfigError(f"--output {folder} cannot be used: {error.strerror}") from None


def _just_begun(folder: pathlib.Path) -> bool:
    """Whether a folder holds nothing, or what a job leaves that is interrupted before it has written its settings."""
    found = {file.name for file in folder.iterdir()} - {SETTINGS + ".part"}
    return not found or (found == {PARTS} and not any((folder / PARTS).iterdir()))


def read_settings(folder: pathlib.Path) -> dict[str, Any]:
    """Reads the settings of the job in a folder.

    Raises:
      ConfigError: there is none, or it lacks a setting.
    """
    path = folder / SETTINGS
    try:
        settings = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise ConfigError(f"{folder}: not the folder of a Monte Carlo job (no readable {SETTINGS})") from None
    for key in KEYS:
        if key not in settings:
            raise ConfigError(
                f"{folder}: not the folder of a Monte Carlo job of this version ({SETTINGS} has no {key})"
            )
    return settings
