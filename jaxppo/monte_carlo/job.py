"""Monte Carlo jobs: batches of paths to parts, interrupted and resumed, split over machines and merged."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from jaxppo.errors import ConfigError
from jaxppo.monte_carlo.compute import compute_here, settings_of
from jaxppo.monte_carlo.engine import Paths
from jaxppo.monte_carlo.on_ray import PathsOnRay
from jaxppo.monte_carlo.parts import (
    PARTS,
    SETTINGS,
    Table,
    check_part,
    copy_parts,
    holds,
    make_job,
    open_job,
    part_name,
    read_settings,
    write_part,
)
from jaxppo.monte_carlo.report import write_paths_report
from jaxppo.monte_carlo.summary import distribution, summarise_paths, wilson_interval
from jaxppo.run.files import write_json
from jaxppo.run.lock import owned
from jaxppo.run.mirror import Mirror, is_url
from jaxppo.run.progress import Progress, announce

FILES = (SETTINGS, f"{PARTS}/part_*.parquet")
"""Files that a job goes on from."""
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
"""Settings in which two jobs agree whose paths are the same markets."""


@dataclasses.dataclass(frozen=True, repr=False)
class MonteCarlo:
    """A finished job.

    Attributes:
      table: figures of every path.
      summary: see `summarise_paths`.
      folder: where it is; None for a job in memory. Of a job with a URL its local copy, which ends with the process.
      url: where it is, if that is no local folder.
    """

    table: Table
    summary: dict[str, Any]
    folder: pathlib.Path | None = None
    url: str | None = None

    def __repr__(self) -> str:
        """The folder and the headline figures."""
        return f"MonteCarlo({str(self.folder) if self.folder else 'in memory'!r})\n{describe_paths(self)}"


def describe_paths(job: MonteCarlo) -> str:
    """Describes the summary of a job as a short table."""
    summary, settings = job.summary, job.table.settings
    percent = f"{summary['level']:.0%}"
    lines = [
        f"{settings['policy']}: {summary['n_paths']:,} paths of {settings['n_bars']:,} bars "
        f"({settings['generator']}, seed {settings['seed']})",
        *settings.get("notes", ()),
        f"{'':16}{'mean (' + percent + ' interval)':>30}{'5 %':>10}{'median':>10}{'95 %':>10}",
    ]
    for name in ("total_return", "sharpe", "max_drawdown", "turnover", "costs"):
        row = summary["figures"][name]
        if row["mean"] is None:
            lines.append(f"{name:16}{'undefined':>30}")
            continue
        mean = f"{row['mean']:.3f} ({row['mean_ci'][0]:.3f} .. {row['mean_ci'][1]:.3f})"
        quantiles = "".join(f"{row['quantiles'][q]:>10.3f}" for q in ("0.05", "0.5", "0.95"))
        lines.append(f"{name:16}{mean:>30}{quantiles}")
    chances = summary["probabilities"]
    found = {"ruin": chances["ruin"], "a loss": chances["loss"]}
    found |= {f"a drawdown of {float(at):.0%}": chances["drawdown"][at] for at in ("0.1", "0.2", "0.5")}
    for name, row in found.items():
        lines.append(f"probability of {name}: {row['estimate']:.2%} ({row['ci'][0]:.2%} .. {row['ci'][1]:.2%})")
    return "\n".join(lines)


def monte_carlo(
    paths: Paths | PathsOnRay,
    n_paths: int,
    *,
    output: str | pathlib.Path | None = None,
    batch: int | None = None,
    shard: tuple[int, int] = (0, 1),
    level: float = 0.95,
    progress: bool = True,
    warnings: Sequence[str] = (),
) -> MonteCarlo:
    """Trades `n_paths` random markets, paths 0 to `n_paths - 1`, in batches of bounded memory.

    The numbers of a path are those of `paths.replay(path)`, whatever the batch, the shard and the number of devices.

    Args:
      paths: what is traded on what, here or on the workers of a Ray cluster.
      n_paths: number of paths of all shards together, in [1, 2^32].
      output: folder for `job.json`, `parts/*.parquet` (a row a path), `summary.json` and `report.html`, or a URL that
        fsspec knows, such as `s3://bucket/job`. An interrupted job goes on from the parts that are there. None keeps
        the table in memory.
      batch: paths in a part, rounded up to whole batches of `paths.batch_size`; default: a 64th of the job, 65,536 at
        most.
      shard: `(i, n)`: only the i-th of n interleaved sets of batches, 0 <= i < n; see `merge`.
      level: of the intervals in the summary.
      progress: whether to show a bar.
      warnings: what a reader of the report must know before anything else.

    Raises:
      ValueError: an argument outside its range.
      ConfigError: the folder is that of another job or of merged shards, is written by another process, or cannot be
        used; or Ray cannot be used, or has lost too many workers.
    """
    mirror = Mirror(output, "--output", FILES)
    folder = mirror.local
    if folder is not None and (folder / SETTINGS).exists():
        saved = read_settings(folder)["part_size"]
        if saved is None:
            raise ConfigError(f"{folder} holds the merged shards of a finished job; give another --output")
        batch = saved if batch is None else batch
    settings = settings_of(paths.here if isinstance(paths, PathsOnRay) else paths, n_paths, batch, shard)
    with _job_folder(mirror, settings):
        table = _table(paths, settings, mirror, progress)
        return _finish(table, mirror, level, warnings)


@contextlib.contextmanager
def _job_folder(mirror: Mirror, settings: dict[str, Any]) -> Iterator[None]:
    """Owns the folder of a job until the block ends, which it starts or goes on with; nothing for a job in memory."""
    folder = mirror.local
    if folder is None:
        yield
        return
    make_job(folder)
    with owned(folder):
        open_job(folder, settings)
        mirror.send(folder / SETTINGS)
        yield


def _table(paths: Paths | PathsOnRay, settings: dict[str, Any], mirror: Mirror, progress: bool) -> Table:
    """Computes the parts of a job that are not there yet."""
    folder = mirror.local
    n_paths, (index, n_shards) = settings["n_paths"], settings["shard"]
    here, size = paths.here if isinstance(paths, PathsOnRay) else paths, settings["batch_size"]
    n_batches, per_part = -(-n_paths // size), settings["part_size"] // size
    batches = range(index, n_batches, n_shards)
    parts = {number: batches[start : start + per_part] for number, start in enumerate(range(0, len(batches), per_part))}
    files = [] if folder is None else [folder / PARTS / part_name(number) for number in parts]
    counts = {number: len(here.numbers(part, n_paths)) for number, part in parts.items()}
    there = {number for number, file in enumerate(files) if holds(file, here.numbers(parts[number], n_paths))}
    missing = {number: part for number, part in parts.items() if number not in there}
    tables = {}
    with contextlib.closing(Progress(sum(counts.values()), None, progress, unit="path")) as bar:
        bar.announce("compiling")
        done = sum(counts[number] for number in there)
        bar.update(done, 0.0)
        computed = (
            paths.compute(missing, settings, bar, done)
            if isinstance(paths, PathsOnRay)
            else compute_here(paths, missing, n_paths, bar, done)
        )
        for number, table in computed:
            if folder is None:
                tables[number] = table
            else:
                mirror.send(write_part(folder, part_name(number), table))
    return Table(settings, tuple(files), None if folder is not None else pa.concat_tables(tables.values()))


def merge(
    folders: Sequence[str | pathlib.Path], output: str | pathlib.Path | None = None, *, level: float = 0.95
) -> MonteCarlo:
    """Puts the shards of a job together, to the numbers of the job in one piece, bit for bit.

    Args:
      folders: of all shards, finished, in any order; or their URLs.
      output: folder or URL for the whole job; None writes nothing.
      level: of the intervals in the summary.

    Raises:
      ConfigError: the folders are not all shards of one job, or a part is missing.
    """
    if not folders:
        raise ConfigError("nothing to merge; give the folders of all shards")
    opened = [local for folder in folders if (local := Mirror(folder, "--merge", FILES).local) is not None]
    found = [(folder, read_settings(folder)) for folder in opened]
    first, reference = found[0]
    for folder, settings in found[1:]:
        for key in {**reference, **settings}:
            if key not in ("shard", "part_size") and settings.get(key) != reference.get(key):
                raise ConfigError(
                    f"{folder} is not of the same job as {first}: its {key} is {settings.get(key)!r}, not "
                    f"{reference.get(key)!r}"
                )
    n = reference["shard"][1]
    numbers = [settings["shard"][0] for _, settings in found]
    if sorted(numbers) != list(range(n)) or any(settings["shard"][1] != n for _, settings in found):
        raise ConfigError(f"shards {sorted(numbers)} were given; all of 0 to {n - 1} are needed, each once")
    files = [file for folder, _ in found for file in sorted((folder / PARTS).glob("part_*.parquet"))]
    for file in files:
        check_part(file)
    settings = reference | {"shard": [0, 1], "part_size": None}
    table = Table(settings, tuple(files))
    there = np.sort(table.column("path")) if files else np.empty(0, np.int64)
    if len(there) != settings["n_paths"] or (there != np.arange(len(there))).any():
        raise ConfigError(f"{len(there)} of {settings['n_paths']} paths are there; finish every shard first")
    mirror = Mirror(output, "--output", FILES)
    with _job_folder(mirror, settings):
        if mirror.local is not None:
            copies = copy_parts(mirror.local, files)
            mirror.send(*copies)
            table = Table(settings, copies)
        return _finish(table, mirror, level)


def compare(one: MonteCarlo, other: MonteCarlo, *, level: float = 0.95) -> dict[str, Any]:
    """Compares two policies on the same markets under the same perturbation, path by path: what is common cancels.

    Args:
      one: job of the first policy.
      other: job of the second one, with the same `SAME_MARKETS`.
      level: of the intervals, in (0, 1).

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


def _finish(table: Table, mirror: Mirror, level: float, warnings: Sequence[str] = ()) -> MonteCarlo:
    announce("figures and report")
    summary = summarise_paths(table, level=level)
    summary |= {"warnings": list(warnings)} if warnings else {}
    folder = mirror.local
    if folder is not None:
        write_json(folder / "summary.json", summary)
        write_paths_report(folder / "report.html", table, summary)
        mirror.send(folder / "summary.json", folder / "report.html")
    return MonteCarlo(table, summary, folder, str(mirror.place) if is_url(mirror.place) else None)
