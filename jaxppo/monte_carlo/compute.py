"""Parts of a Monte Carlo job: what identifies the job, how many paths a part has, and their computation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from jaxppo.monte_carlo.engine import NUMBERS, Paths
from jaxppo.monte_carlo.identity import digest, function_name, identity_of
from jaxppo.monte_carlo.parts import as_table
from jaxppo.monte_carlo.stress import stress_of
from jaxppo.run.progress import Progress

MOST_IN_A_BATCH = 65536
PARTS_OF_A_JOB = 64
"""Parts that a job has where its batches are not given, unless they would be too large."""


def settings_of(paths: Paths, n_paths: int, batch: int | None, shard: tuple[int, int]) -> dict[str, Any]:
    """Settings in which two jobs must agree to be the same.

    Args:
      paths: what is traded on what.
      n_paths: number of paths of all shards together.
      batch: paths in a part, see `monte_carlo`.
      shard: `(i, n)`, see `monte_carlo`.

    Raises:
      ValueError: an argument outside its range.
    """
    index, n_shards = shard
    if not 1 <= n_paths <= NUMBERS or (batch is not None and batch < 1):
        raise ValueError(f"n_paths ({n_paths}) must be from 1 to {NUMBERS}, and batch ({batch}) >= 1")
    if not 0 <= index < n_shards:
        raise ValueError(f"shard is {index}/{n_shards}; the first number must be from 0 to {max(n_shards - 1, 0)}")
    n_batches = -(-n_paths // paths.batch_size)
    if n_shards > n_batches:
        raise ValueError(
            f"shard is {index}/{n_shards}; {n_paths} paths in batches of {paths.batch_size} make at most {n_batches} "
            "shards"
        )
    # Parts hold whole batches; by default as many as there are devices, or a multiple, so that none of them waits.
    unit = paths.batch_size * (len(paths.devices) if batch is None else 1)
    wanted = min(-(-n_paths // PARTS_OF_A_JOB), MOST_IN_A_BATCH) if batch is None else batch
    policy, conditions, generator = paths.policy, paths.conditions, paths.generator
    noted = {"notes": list(paths.notes)} if paths.notes else {}
    return noted | {
        "policy": policy.name,
        "policy_identity": identity_of(policy, conditions),
        "policy_digest": digest({"costs": conditions.costs, "policy": policy.params}),
        "generator": generator.name,
        "generator_digest": digest(generator.data),
        "perturbation": function_name(paths.perturb),
        "stress": stress_of(paths.perturb),
        "n_paths": n_paths,
        "n_bars": paths.n_bars,
        "seed": paths.seed,
        "shard": [index, n_shards],
        "part_size": -(-wanted // unit) * unit,
        "batch_size": paths.batch_size,
        "points": [int(point) for point in paths.points],
        "history": paths.history,
        "spare": paths.spare,
        "ruin": paths.ruin,
        "periods_per_year": conditions.rules.periods,
    }


def compute_here(
    paths: Paths, parts: Mapping[int, Sequence[int]], n_paths: int, bar: Progress | None = None, done: int = 0
) -> Iterator[tuple[int, pa.Table]]:
    """Computes parts one after the other on the devices of this process.

    Args:
      paths: what is traded on what.
      parts: number of a part -> numbers of its batches.
      n_paths: of the job.
      bar: shows the paths that are done; None shows nothing.
      done: paths that are done already.

    Yields:
      Number and table of each part.
    """
    for number, batches in parts.items():
        table = _compute(paths, batches, n_paths, bar, done)
        done += len(table)
        yield number, table


def _compute(paths: Paths, batches: Sequence[int], n_paths: int, bar: Progress | None, done: int) -> pa.Table:
    """Computes batches after `done` paths; while the host writes what is there, the devices compute the next."""
    n_devices = len(paths.devices)
    groups = [batches[start : start + n_devices] for start in range(0, len(batches), n_devices)]
    found, waiting = [], None
    for group in [*groups, None]:
        started = None if group is None else (group, paths.compute(group))
        if waiting is not None:
            numbers, figures, curves = paths.fetch(waiting[1], waiting[0])
            wanted = numbers < n_paths
            figures = {name: x[wanted] for name, x in figures.items()}
            found.append(as_table(numbers[wanted], figures, curves[wanted], [int(point) for point in paths.points]))
            done += int(wanted.sum())
            if bar is not None:
                bar.announce("trading")
                bar.update(done, 0.0)
        waiting = started
    return pa.concat_tables(found).combine_chunks()
