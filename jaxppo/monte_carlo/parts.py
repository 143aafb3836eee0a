"""The folder of a Monte Carlo job: its settings, and Parquet parts, each of which is there whole or not at all."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxppo.errors import ConfigError
from jaxppo.run.files import read_sealed, write_sealed
from jaxppo.run.lock import NAME

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
DIGEST = b"sha256"
"""Key of a part's metadata: the digest of its columns."""
_UNREADABLE = (OSError, KeyError, ValueError, MemoryError, pa.ArrowException)
"""Exceptions of pyarrow on a file that is missing or damaged."""
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
    except _UNREADABLE as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ConfigError(f"{file} cannot be read ({first}); run its job again") from None


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
    table = table.replace_schema_metadata({DIGEST: _digest(table)})
    # Statistics of a column would be bytes that nothing reads or checks.
    write = functools.partial(pq.write_table, table, write_page_checksum=True, write_statistics=False)
    return _in_one_move(folder / PARTS / name, write)


def _digest(table: pa.Table) -> str:
    """SHA-256 of names, types and values of all columns."""
    digest = hashlib.sha256()
    for name in table.column_names:
        column = np.ascontiguousarray(table.column(name).to_numpy())
        digest.update(f"{name} {column.dtype} {column.shape}\n".encode())
        digest.update(column.tobytes())
    return digest.hexdigest()


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


def check_part(path: pathlib.Path) -> pa.Table:
    """Reads a part, and refuses one that is damaged or was changed.

    Args:
      path: of the file.

    Raises:
      ConfigError: it cannot be read, or does not hold what was written.
    """
    table = _read(path, read_part)
    digest = (table.schema.metadata or {}).get(DIGEST)
    if digest is not None and digest.decode(errors="replace") != _digest(table):  # parts of earlier versions have none
        raise ConfigError(f"{path} cannot be read (it was changed after it was written); run its job again")
    return table


def holds(path: pathlib.Path, numbers: np.ndarray) -> bool:
    """Whether a part is there, readable, and of exactly the given paths.

    Args:
      path: of the file.
      numbers: `[n]` numbers of the paths, in order.
    """
    try:
        return np.array_equal(check_part(path).column("path").to_numpy(), numbers)
    except (ConfigError, KeyError):
        return False


def part_name(number: int) -> str:
    """File name of the part of a batch."""
    return f"part_{number:06d}.parquet"


def make_job(folder: pathlib.Path) -> None:
    """Makes the folder of a job, unless it is there.

    Args:
      folder: of the job.

    Raises:
      ConfigError: it holds something else, or cannot be made.
    """
    try:
        if folder.exists() and not (folder / SETTINGS).exists() and not _just_begun(folder):
            raise ConfigError(f"--output {folder} is not empty and not the folder of a Monte Carlo job; give another")
        (folder / PARTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output {folder} cannot be used: {error.strerror}") from None


def open_job(folder: pathlib.Path, settings: dict[str, Any]) -> None:
    """Writes the settings of a job into its folder, or compares them with those that are there.

    Args:
      folder: of the job, made by `make_job` and owned.
      settings: of the job; those of one that is there must be equal.

    Raises:
      ConfigError: the folder is that of another job.
    """
    path = folder / SETTINGS
    if not path.exists():
        write_sealed(path, settings)
        return
    saved = read_settings(folder)
    for key in {**settings, **saved}:
        if saved.get(key) != settings.get(key):
            raise ConfigError(
                f"{folder} is the folder of another job: its {key} is {saved.get(key)!r}, not "
                f"{settings.get(key)!r}; give another --output, or the same settings to go on with it"
            )


def _just_begun(folder: pathlib.Path) -> bool:
    """Whether a folder holds nothing, or what a job leaves that is interrupted before it has written its settings."""
    found = {file.name for file in folder.iterdir()} - {SETTINGS + ".part", NAME}
    return not found or (found == {PARTS} and not any((folder / PARTS).iterdir()))


def read_settings(folder: pathlib.Path) -> dict[str, Any]:
    """Reads the settings of the job in a folder.

    Raises:
      ConfigError: there is none, it lacks a setting, is damaged, or of a newer version.
    """
    try:
        settings = read_sealed(folder / SETTINGS, KEYS)
    except OSError:
        raise ConfigError(f"{folder}: not the folder of a Monte Carlo job (no readable {SETTINGS})") from None
    shard, counts = settings["shard"], [settings[name] for name in ("n_paths", "batch_size")]
    whole = [*counts, *(shard if isinstance(shard, list) and len(shard) == 2 else [None])]
    whole += [] if settings["part_size"] is None else [settings["part_size"]]
    if any(type(number) is not int for number in whole):
        raise ConfigError(f"{folder / SETTINGS}: damaged; shard, n_paths, batch_size and part_size are whole numbers")
    return settings
