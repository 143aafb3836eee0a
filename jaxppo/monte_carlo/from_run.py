"""The Monte Carlo backtest of a saved run."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxppo.backtest.run import SavedRun, load_run
from jaxppo.backtest.traders import agent
from jaxppo.config import ConfigError
from jaxppo.monte_carlo.engine import NUMBERS, UNIT_ELEMENTS, Paths
from jaxppo.monte_carlo.job import MonteCarlo, monte_carlo
from jaxppo.monte_carlo.sources import draws_of
from jaxppo.monte_carlo.stress import UNSTRESSED, Stress

GENERATOR = "stationary_bootstrap"


def run_paths(
    run: SavedRun,
    *,
    generator: str = GENERATOR,
    n_bars: int | None = None,
    seed: int | None = None,
    stress: Stress = UNSTRESSED,
    devices: Sequence[jax.Device] | None = None,
) -> Paths:
    """The agent of a run on markets drawn from its test period, which it has neither learned nor been selected on.

    Args:
      run: from `jaxppo.backtest.load_run`; opened on other prices, its test period is all of them.
      generator: one of `jaxppo.envs.simulators.generators.GENERATORS`; see `draws_of`.
      n_bars: decisions on each path; default: as many as the test period has.
      seed: of the paths, in [0, 2^32); default: that of the run.
      stress: what is changed of each path beside its market.
      devices: default: all of the kind that the run is on.

    Raises:
      ConfigError: an argument outside its range, or masks that a drawn market does not allow.
    """
    setup = run.setup
    trader = agent(run)
    n_bars = setup.periods["test"].n_bars if n_bars is None else n_bars
    n_assets = setup.market.n_assets
    most = UNIT_ELEMENTS // n_assets - trader.history - stress.delay - 1
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
        draws = draws_of(run, generator, trader.history + n_bars + 1 + stress.delay)
        jax.eval_shape(lambda key: trader.params(trader.data, draws.draw(draws.data, key)), jax.random.key(0))
        own = {"symbols": setup.market.info.symbols or None, "devices": devices}
        return Paths(trader, draws, n_bars, seed=seed, perturb=stress.perturbation(), spare=stress.delay, **own)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{run.folder}: cannot be run on drawn markets: {error}") from None


def run_monte_carlo(
    folder: str | pathlib.Path,
    n_paths: int,
    *,
    generator: str = GENERATOR,
    n_bars: int | None = None,
    seed: int | None = None,
    stress: Mapping[str, Any] | None = None,
    batch: int | None = None,
    shard: tuple[int, int] = (0, 1),
    output: str | pathlib.Path | None = None,
    overrides: Sequence[str] = (),
    progress: bool = True,
) -> MonteCarlo:
    """`monte_carlo` of a saved run.

    Args:
      folder: the run.
      n_paths: number of paths, in [1, 2^32].
      generator: see `run_paths`.
      n_bars: see `run_paths`.
      seed: see `run_paths`.
      stress: keys of `Stress`.
      batch: see `monte_carlo`.
      shard: see `monte_carlo`.
      output: folder of the job; default: `monte_carlo`, with the number of the shard, in that of the run.
      overrides: dotted keys, for example other costs.
      progress: see `monte_carlo`.

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
    try:
        stressed = Stress(**(stress or {}))
    except ValueError as error:
        raise ConfigError(f"--{str(error).replace('_', '-')}") from None
    latency = [] if stressed.latency is None else ["--env.latency_bars", str(stressed.latency[1])]
    run = load_run(folder, overrides=[*overrides, *latency])
    paths = run_paths(run, generator=generator, n_bars=n_bars, seed=seed, stress=stressed)
    if output is None:
        name = "monte_carlo" if n_shards == 1 else f"monte_carlo-{index}-of-{n_shards}"
        output = pathlib.Path(folder) / name
    try:
        return monte_carlo(paths, n_paths, output=output, batch=batch, shard=shard, progress=progress)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def describe_paths(job: MonteCarlo) -> str:
    """The summary as a short table."""
    summary, settings = job.summary, job.table.settings
    percent = f"{summary['level']:.0%}"
    lines = [
        f"{settings['trader']}: {summary['n_paths']:,} paths of {settings['n_bars']:,} bars "
        f"({settings['generator']}, seed {settings['seed']})",
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
