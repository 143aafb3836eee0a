"""The Monte Carlo backtest of a saved run."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

import jax

from jaxppo.backtest.conditions import conditions_of
from jaxppo.backtest.shipping import decided, ship_notes, shipped_of
from jaxppo.errors import ConfigError
from jaxppo.monte_carlo.engine import MOST_ELEMENTS, NUMBERS, Paths, history_of
from jaxppo.monte_carlo.job import MonteCarlo, monte_carlo
from jaxppo.monte_carlo.on_ray import PathsOnRay
from jaxppo.monte_carlo.sources import draws_of
from jaxppo.monte_carlo.stress import UNSTRESSED, Stress
from jaxppo.run.build import unfinished_note
from jaxppo.run.saved import SavedRun, load_run

GENERATOR = "stationary_bootstrap"


class PathOptions(TypedDict, total=False):
    """What `run_monte_carlo` takes beside its own options: those of `run_paths`, and who computes them.

    Attributes:
      generator: see `run_paths`.
      n_bars: see `run_paths`.
      seed: see `run_paths`.
      stress: fields of `Stress`.
      ray: "local", or the address of the Ray cluster whose workers compute the paths; see `PathsOnRay`.
    """

    generator: str
    n_bars: int | None
    seed: int | None
    stress: Mapping[str, Any] | None
    ray: str | None


def run_paths(
    run: SavedRun,
    *,
    generator: str = GENERATOR,
    n_bars: int | None = None,
    seed: int | None = None,
    stress: Stress = UNSTRESSED,
    devices: Sequence[jax.Device] | None = None,
) -> Paths:
    """Puts a run on markets drawn from its test period, which it was neither trained nor selected on.

    What trades is what the evaluation of the run trades: its agent, or with `evaluation.ship` base_unless what its gate
    lets trade by what came before the test.

    Args:
      run: from `jaxppo.backtest.load_run`; opened on other prices, its test period is all of them.
      generator: one of `jaxppo.envs.simulators.generators.GENERATORS`; see `draws_of`.
      n_bars: decisions on each path; default: as many as the test period has.
      seed: of the paths, in [0, 2^32); default: that of the run.
      stress: on each path, beside its market.
      devices: default: all of the kind that the run is on.

    Raises:
      ConfigError: an argument outside its range, or masks that a drawn market does not allow.
    """
    run, setup = decided(run), run.setup
    policy, conditions = shipped_of(run)._replace(name=run.title), conditions_of(run)
    history = history_of(policy, conditions)
    n_bars = setup.periods["test"].n_bars if n_bars is None else n_bars
    n_assets = setup.market.n_assets
    most = MOST_ELEMENTS // n_assets - history - stress.delay - 1
    if not 1 <= n_bars <= most:
        raise ConfigError(f"--bars is {n_bars}; with {n_assets} assets it must be from 1 to {most}")
    if stress.latency is not None and stress.latency[1] != setup.env.fill_rule.latency_bars:
        most = stress.latency[1]
        raise ConfigError(f"--latency goes up to {most}; the run must be opened with --env.latency_bars {most}")
    seed = setup.config.seed if seed is None else seed
    if not 0 <= seed < NUMBERS:
        raise ConfigError(f"--seed is {seed}; it must be from 0 to {NUMBERS - 1}")
    devices = jax.devices(setup.devices[0].platform) if devices is None else devices
    try:
        draws = draws_of(run, generator, history + n_bars + 1 + stress.delay)
        jax.eval_shape(lambda key: conditions.prepare(conditions.costs, draws.draw(draws.data, key)), jax.random.key(0))
        symbols = setup.market.info.symbols or None
        return Paths(
            policy, conditions, draws, n_bars,
            seed=seed, perturb=stress.perturbation(), spare=stress.delay, symbols=symbols, devices=devices,
            notes=ship_notes(run), check=False,
        )  # fmt: skip
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{run.folder}: cannot be run on drawn markets: {error}") from None


def paths_of(folder: str | pathlib.Path, overrides: Sequence[str], options: PathOptions) -> Paths:
    """Opens a run and puts it on random markets.

    Args:
      folder: the run.
      overrides: dotted keys.
      options: see `PathOptions`; `ray` is not read.

    Raises:
      ConfigError: not a run, or a setting that does not fit it.
    """
    try:
        stress = Stress(**(options.get("stress") or {}))
    except ValueError as error:
        raise ConfigError(f"--{str(error).replace('_', '-')}") from None
    latency = [] if stress.latency is None else ["--env.latency_bars", str(stress.latency[1])]
    run = load_run(folder, overrides=[*overrides, *latency])
    if latency:  # a stress of the paths, with which the gate has nothing to do
        run = dataclasses.replace(run, ship=decided(load_run(folder, overrides=overrides)).ship)
    generator, n_bars, seed = options.get("generator", GENERATOR), options.get("n_bars"), options.get("seed")
    return run_paths(run, generator=generator, n_bars=n_bars, seed=seed, stress=stress)


def run_monte_carlo(
    folder: str | pathlib.Path,
    n_paths: int,
    *,
    batch: int | None = None,
    shard: tuple[int, int] = (0, 1),
    output: str | pathlib.Path | None = None,
    overrides: Sequence[str] = (),
    progress: bool = True,
    **options: Unpack[PathOptions],
) -> MonteCarlo:
    """Trades a saved run on random markets, see `run_paths` and `monte_carlo`.

    Args:
      folder: the run.
      n_paths: number of paths, in [1, 2^32].
      batch: paths in a part, see `monte_carlo`.
      shard: `(i, n)`, see `monte_carlo`.
      output: folder of the job; default: `monte_carlo`, with the number of the shard, in that of the run.
      overrides: dotted keys, for example other costs.
      progress: whether to show a bar.
      options: `generator`, `n_bars`, `seed`, `stress` and `ray`, see `PathOptions`.

    Raises:
      ConfigError: not a run, a setting that does not fit it, or the folder of another job.
    """
    if not 1 <= n_paths <= NUMBERS:
        raise ConfigError(f"--paths is {n_paths}; it must be at least 1 and at most {NUMBERS}")
    if batch is not None and batch < 1:
        raise ConfigError(f"--batch is {batch}; it must be at least 1")
    index, n_shards = shard
    if not 0 <= index < n_shards:
        raise ConfigError(f"--shard is {index}/{n_shards}; the first number must be from 0 to {max(n_shards - 1, 0)}")
    paths: Paths | PathsOnRay
    address = options.pop("ray", None)
    if address is None:
        paths = paths_of(folder, overrides, options)
    else:
        paths = PathsOnRay(functools.partial(paths_of, pathlib.Path(folder).absolute(), overrides, options), address)
    if output is None:
        name = "monte_carlo" if n_shards == 1 else f"monte_carlo-{index}-of-{n_shards}"
        output = pathlib.Path(folder) / name
        if output.is_symlink():
            raise ConfigError(f"{output}: is a link to another place; give --output")
    note = unfinished_note(pathlib.Path(folder))
    warnings = [note] if note else []
    try:
        return monte_carlo(
            paths, n_paths, output=output, batch=batch, shard=shard, progress=progress, warnings=warnings
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None
