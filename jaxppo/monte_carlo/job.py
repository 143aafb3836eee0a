"""Monte Carlo jobs: batches of paths to parts, interrupted and resumed, split over machines and merged."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from jaxppo.config import ConfigError
from jaxppo.monte_carlo.engine import NUMBERS, Paths
from jaxppo.monte_carlo.identity import digest, function_name
from jaxppo.monte_carlo.parts import (
    PARTS,
    SETTINGS,
    Table,
    as_table,
    holds,
    open_job,
    part_name,
    read_settings,
    write_part,
)
from jaxppo.monte_carlo.report import write_paths_report
from jaxppo.monte_carlo.stress import stress_of
from jaxppo.monte_carlo.summary import distribution, summarise_paths, wilson_interval
from jaxppo.run.folder import write_json

MOST_IN_A_BATCH = 65536
PARTS_OF_A_JOB = 64
"""Parts that a job has where its batches are not given, unless they would be too large."""
SAME_MARKETS = (
    "seed",
    "generator",
    "generator_digest",
    "perturbation",
    "n_paths",
    "n_bars",
    "history",
    "spare",
    "shard",
)
"""Settings that two jobs have in common whose paths are the same."""


@dataclasses.dataclass(frozen=True)
class MonteCarlo:
    """A finished job.

    Attributes:
      table: figures of every path.
      summary: see `summarise_paths`.
      folder: where it is; None for a job in memory.
    """

    table: Table
    summary: dict[str, Any]
    folder: pathlib.Path | None = None


def monte_carlo(
    paths: Paths,
    n_paths: int,
    *,
    output: str | pathlib.Path | None = None,
    batch: int | None = None,
    shard: tuple[int, int] = (0, 1),
    level: float = 0.95,
    progress: bool = True,
) -> MonteCarlo:
    """Trades `n_paths` random markets, paths 0 to `n_paths - 1`, in batches of bounded memory.

    The numbers of a path are those of `paths.replay(path)`, whatever the batch, the shard and the number of devices.

    Args:
      paths: what is traded on what.
      n_paths: number of paths of all shards together, in [1, 2^32].
      output: folder for `job.json`, `parts/*.parquet` (a row a path), `summary.json` and `report.html`. An interrupted
        job goes on from the parts that are there. None keeps the table in memory.
      batch: paths in a part, rounded up to whole units of `paths.lanes`; default: a 64th of the job, 65,536 at most.
      shard: `(i, n)`: only the i-th of n interleaved sets of units, 0 <= i < n; see `merge`.
      level: of the intervals in the summary.
      progress: whether to show a bar.

    Raises:
      ValueError: an argument outside its range.
      ConfigError: the folder is that of another job or of merged shards, or cannot be used.
    """
    folder = None if output is None else pathlib.Path(output)
    if folder is not None and (folder / SETTINGS).exists():
        saved = read_settings(folder)["batch"]
        if saved is None:
            raise ConfigError(f"{folder} holds the merged shards of a finished job; give another --output")
        batch = saved if batch is None else batch
    settings = _settings(paths, n_paths, batch, shard)
    n_units, per_part = -(-n_paths // paths.lanes), settings["batch"] // paths.lanes
    units = range(shard[0], n_units, shard[1])
    if folder is not None:
        open_job(folder, settings)
    files, tables = [], []
    with tqdm(total=_number(units, paths, n_paths), unit="path", disable=not progress) as bar:
        for number, start in enumerate(range(0, len(units), per_part)):
            own = units[start : start + per_part]
            expected = paths.numbers(own, n_paths)
            if folder is not None and holds(folder / PARTS / part_name(number), expected):
                files.append(folder / PARTS / part_name(number))
                bar.update(len(expected))
                continue
            table = _batch(paths, own, n_paths, bar)
            if folder is None:
                tables.append(table)
            else:
                files.append(write_part(folder, part_name(number), table))
    memory = None if folder is not None else pa.concat_tables(tables)
    return _finish(Table(settings, tuple(files), memory), folder, level)


def merge(
    folders: Sequence[str | pathlib.Path], output: str | pathlib.Path | None = None, *, level: float = 0.95
) -> MonteCarlo:
    """Puts the shards of a job together: the numbers of the job in one piece, bit for bit.

    Args:
      folders: of all shards, finished, in any order.
      output: folder for the whole job; None writes nothing.
      level: of the intervals in the summary.

    Raises:
      ConfigError: the folders are not all shards of one job, or a part is missing.
    """
    if not folders:
        raise ConfigError("nothing to merge; give the folders of all shards")
    found = [(pathlib.Path(folder), read_settings(pathlib.Path(folder))) for folder in folders]
    first, reference = found[0]
    for folder, settings in found[1:]:
        for key in {**reference, **settings}:
            if key not in ("shard", "batch") and settings.get(key) != reference.get(key):
                raise ConfigError(
                    f"{folder} is not of the same job as {first}: its {key} is {settings.get(key)!r}, not "
                    f"{reference.get(key)!r}"
                )
    n = reference["shard"][1]
    numbers = [settings["shard"][0] for _, settings in found]
    if sorted(numbers) != list(range(n)) or any(settings["shard"][1] != n for _, settings in found):
        raise ConfigError(f"shards {sorted(numbers)} were given; all of 0 to {n - 1} are needed, each once")
    files = [file for folder, _ in found for file in sorted((folder / PARTS).glob("part_*.parquet"))]
    settings = reference | {"shard": [0, 1], "batch": None}
    table = Table(settings, tuple(files))
    there = np.sort(table.column("path")) if files else np.empty(0, np.int64)
    if len(there) != settings["n_paths"] or (there != np.arange(len(there))).any():
        raise ConfigError(f"{len(there)} of {settings['n_paths']} paths are there; finish every shard first")
    folder = None if output is None else pathlib.Path(output)
    if folder is not None:
        open_job(folder, settings)
        copies = []
        for number, file in enumerate(files):
            copies.append(folder / PARTS / part_name(number))
            draft = copies[-1].with_name(copies[-1].name + ".part")
            shutil.copyfile(file, draft)
            draft.replace(copies[-1])
        for file in {*(folder / PARTS).glob("part_*.parquet")} - {*copies}:  # of shards in other batches
            file.unlink()
        table = Table(settings, tuple(copies))
    return _finish(table, folder, level)


def compare(one: MonteCarlo, other: MonteCarlo, *, level: float = 0.95) -> dict[str, Any]:
    """Two traders on the same markets under the same perturbation, path by path: what they have in common cancels.

    Returns:
      `n_paths`, and figure -> `difference`, the distribution of `one - other` (see `distribution`), and `higher`, the
      probability that `one` is above `other`, with Wilson's interval.

    Raises:
      ValueError: the paths are not the same markets.
    """
    for key in SAME_MARKETS:
        before, after = one.table.settings[key], other.table.settings[key]
        if before != after:
            raise ValueError(f"{key} is {before!r} and {after!r}; a paired comparison needs the same markets")
    found: dict[str, Any] = {"n_paths": len(one.table.column("path"))}
    for name in one.summary["figures"]:
        first, second = (job.table.column(name).astype(np.float64) for job in (one, other))
        known = np.isfinite(first) & np.isfinite(second)
        hits, n = int((first[known] > second[known]).sum()), int(known.sum())
        found[name] = {
            "difference": distribution(first - second, level),
            "higher": None if n == 0 else {"estimate": hits / n, "ci": list(wilson_interval(hits, n, level))},
        }
    return found


def _settings(paths: Paths, n_paths: int, batch: int | None, shard: tuple[int, int]) -> dict[str, Any]:
    """What makes two jobs the same."""
    index, n_shards = shard
    if not 1 <= n_paths <= NUMBERS or (batch is not None and batch < 1):
        raise ValueError(f"n_paths ({n_paths}) must be from 1 to {NUMBERS}, and batch ({batch}) >= 1")
    if not 0 <= index < n_shards:
        raise ValueError(f"shard is {index}/{n_shards}; the first number must be from 0 to {max(n_shards - 1, 0)}")
    n_units = -(-n_paths // paths.lanes)
    if n_shards > n_units:
        raise ValueError(
            f"shard is {index}/{n_shards}; {n_paths} paths in units of {paths.lanes} make at most {n_units} shards"
        )
    unit = paths.lanes * (len(paths.devices) if batch is None else 1)
    wanted = min(-(-n_paths // PARTS_OF_A_JOB), MOST_IN_A_BATCH) if batch is None else batch
    trader, generator = paths.trader, paths.generator
    return {
        "trader": trader.name,
        "trader_identity": trader.identity,
        "trader_digest": digest(trader.data),
        "generator": generator.name,
        "generator_digest": digest(generator.data),
        "perturbation": function_name(paths.perturb),
        "stress": stress_of(paths.perturb),
        "n_paths": n_paths,
        "n_bars": paths.n_bars,
        "seed": paths.seed,
        "shard": [index, n_shards],
        "batch": -(-wanted // unit) * unit,
        "lanes": paths.lanes,
        "points": [int(point) for point in paths.points],
        "history": trader.history,
        "spare": paths.spare,
        "ruin": paths.ruin,
        "periods_per_year": trader.periods,
    }


def _batch(paths: Paths, units: Sequence[int], n_paths: int, bar: tqdm) -> pa.Table:
    """Computes units; while the host writes what is there, the devices compute the next."""
    n_devices = len(paths.devices)
    groups = [units[start : start + n_devices] for start in range(0, len(units), n_devices)]
    found, waiting = [], None
    for group in [*groups, None]:
        started = None if group is None else (group, paths.compute(group))
        if waiting is not None:
            numbers, figures, curves = paths.fetch(waiting[1], waiting[0])
            wanted = numbers < n_paths
            figures = {name: x[wanted] for name, x in figures.items()}
            found.append(as_table(numbers[wanted], figures, curves[wanted], paths.points))
            bar.update(int(wanted.sum()))
        waiting = started
    return pa.concat_tables(found).combine_chunks()


def _number(units: Sequence[int], paths: Paths, n_paths: int) -> int:
    """Paths of units that are numbered below `n_paths`."""
    return sum(min(paths.lanes, n_paths - unit * paths.lanes) for unit in units)


def _finish(table: Table, folder: pathlib.Path | None, level: float) -> MonteCarlo:
    summary = summarise_paths(table, level=level)
    if folder is not None:
        write_json(folder / "summary.json", summary)
        write_paths_report(folder / "report.html", table, summary)
    return MonteCarlo(table, summary, folder)
