"""A sweep: agents trained as one program, one of them chosen by validation and tested once."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import pathlib
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from jaxppo.backtest.selection import configuration_hash, record_trials, trial_of
from jaxppo.config import Config
from jaxppo.envs.data.load import format_report
from jaxppo.envs.market.market_data import MarketData
from jaxppo.errors import ConfigError
from jaxppo.policy.networks.actor_critic import Params
from jaxppo.run import folder as run_folder
from jaxppo.run.build import build, on_one_device
from jaxppo.run.checkpoints import Checkpoints
from jaxppo.run.data import GIVEN_IN_PYTHON, given_data, load_data, recorded_path
from jaxppo.run.devices import select_devices
from jaxppo.run.files import write_json, write_text
from jaxppo.run.lock import owned
from jaxppo.run.objectives import constraint_summary
from jaxppo.run.processes import check_alone
from jaxppo.run.resuming import resume_command
from jaxppo.run.setup import Setup, first_policy
from jaxppo.run.start import check_start
from jaxppo.run.trials import Trial
from jaxppo.sweep.halving import DROPPED, train_by_halving
from jaxppo.sweep.members import check, combinations, member_config
from jaxppo.sweep.pbt import train_by_exchange
from jaxppo.sweep.results import Chosen, choose, member_table
from jaxppo.sweep.search import BATCH_KEY, Search, import_optuna
from jaxppo.sweep.section import section, sentence
from jaxppo.tracking import LoggedRun, Logger, Loggers, make_loggers
from jaxppo.training.evaluator import backtest_evaluator
from jaxppo.training.experiment import learned_from
from jaxppo.training.interrupts import stop_requested
from jaxppo.walk_forward.job import Agent, FoldParams, Job
from jaxppo.walk_forward.prepare import restarted
from jaxppo.walk_forward.programs import Programs, compile_job
from jaxppo.walk_forward.training import Record, train_agents


@dataclasses.dataclass(frozen=True, repr=False)
class Sweep:
    """Outcome of `sweep`.

    Attributes:
      folder: of the sweep, which is the run folder of the chosen agent.
      members: a row for each agent, see `jaxppo.sweep.results.member_table`.
      summary: content of summary.json; None if it was stopped early by a signal, which leaves the table empty.
      text: the results in a few lines; empty without a summary.
      signal: number of the signal that stopped it early; None for a finished one.
    """

    folder: pathlib.Path
    members: pd.DataFrame
    summary: dict[str, Any] | None
    text: str
    signal: int | None = None

    def __repr__(self) -> str:
        """The folder and the headline figures."""
        return f"Sweep({str(self.folder)!r})\n{self.text or 'stopped early; continue it with resume=True'}"


def sweep(
    config: Config,
    *,
    output: str | pathlib.Path | None = None,
    name: str = "sweep",
    resume: bool = False,
    market: MarketData | None = None,
    progress: bool = True,
    loggers: Sequence[Logger] = (),
) -> Sweep:
    """Trains agents that differ in hyper-parameters and seeds, and tests the one that validation chooses, once.

    `config.sweep` says what is tried. All agents are trained in one compiled program, spread over the devices, or in as
    few batches as fit the memory, each for the budget of `config.training`; with Optuna each combination of values is a
    program of its own. An agent is what `jaxppo.train` makes of
    its values and its seed, up to rounding. Every evaluation on validation is recorded in the register of trials beside
    the folder. The values with the best mean score over seeds are chosen, and of their agents the best. The folder then
    is the run folder of that agent, with a row for every agent in `sweep.csv`.

    Args:
      config: the run.
      output: folder; default `runs/NAME`, numbered so that nothing is overwritten.
      name: NAME of the default folder.
      resume: go on with the sweep in `output`, to the same numbers as without the interruption.
      market: prices to use instead of `config.data.path`.
      progress: report progress on stderr.
      loggers: where its results are recorded beside its folder, after those that `config.tracking` names.

    Raises:
      ConfigError: the configuration cannot be run, `output` does not allow it, or every agent diverges.
      envs.DataError: the prices cannot be used.
    """
    if market is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"path": GIVEN_IN_PYTHON})})
    check_alone("a sweep")
    check(config)
    if config.sweep.method == "optuna":
        import_optuna()
    resumed, begun = None, False
    if not resume:
        run_folder.check_output(output)
    elif output is None:
        raise ConfigError("--resume needs --output: the folder of the sweep to continue")
    else:
        resumed, saved = run_folder.open_folder(output, run_folder.SWEEP)
        config, begun = restarted(config, saved, "sweep"), not run_folder.just_begun(resumed)
    told, devices = make_loggers(config, loggers), select_devices(config)
    with jax.default_device(devices[0]), contextlib.ExitStack() as locks:
        market = load_data(config, resumed) if market is None else given_data(config, market)
        if resumed is not None and begun:
            run_folder.check_same_data(resumed, run_folder.data_report(market))
        setup = build(on_one_device(config), market)
        check_start(setup, setup.period_params("train"))
        if progress and not resume and market.info.report:
            print(format_report(market.info.report), file=sys.stderr)
        folder = run_folder.make_folder(output, name) if resumed is None else resumed
        locks.enter_context(owned(folder, empty=resumed is None))

        job_of = functools.partial(_job, market=market, folder=folder)
        train: Train
        if config.sweep.method == "optuna":
            found = Search(config, job_of, folder, devices)
            train, decided = functools.partial(_searched, found, config, job_of, progress), setup.config
        else:
            job = dataclasses.replace(_job(config, market, folder, setup), values=combinations(config))
            if progress:
                print(f"{len(job.values)} combinations x {len(job.seeds)} seeds are compiled", file=sys.stderr)
            programs = compile_job(job, devices, config.sweep.batch_size, exactly=resume, batch_key=BATCH_KEY)
            job = dataclasses.replace(job, setup=_settled(setup, config, programs.size))
            train, decided = functools.partial(_trained, job, programs, progress), job.setup.config
        if not begun:
            data = {**run_folder.data_report(market), "learned_from": learned_from(setup)}
            data["path"] = recorded_path(config)
            metadata = {"kind": run_folder.SWEEP, **run_folder.provenance(config, data, devices)}
            run_folder.write_config(folder, decided)
            run_folder.write_metadata(folder, metadata, finished=False)
        setup = dataclasses.replace(setup, config=decided)
        with told.opened(LoggedRun(folder, decided, run_folder.read_metadata(folder))):
            return _train_and_test(train, setup, folder, told)


def _job(config: Config, market: MarketData, folder: pathlib.Path, setup: Setup | None = None) -> Job:
    """The agents of a configuration, one of each seed, with its values; `setup` where it is built already."""
    setup = build(on_one_device(config), market) if setup is None else setup
    params, validation = setup.period_params("train"), setup.periods["validation"]
    seeds = tuple(range(config.seed, config.seed + config.sweep.seeds))
    return Job(setup, FoldParams.of([params]), (validation.first,), validation.n_bars, seeds, folder, tolerant=True)


def _settled(setup: Setup, config: Config, batch_size: int) -> Setup:
    """The setup with the given configuration, and with what data and memory have decided in it."""
    decided = {name: getattr(setup.config, name) for name in ("policy", "regimes")}
    decided["sweep"] = config.sweep.model_copy(update={"batch_size": batch_size})
    return dataclasses.replace(setup, config=config.model_copy(update=decided))


class Outcome(NamedTuple):
    """What was trained, and the agent that validation chooses.

    Attributes:
      agents: all.
      chosen: one of them.
      setup: that it was trained with; its `config` is that of the sweep, with the values that were not swept.
      net: its best parameters.
      combinations: of values that were tried.
      training: the `train` entry of the summary.
      rungs: what happened at the rungs of an exchange.
    """

    agents: list[Agent]
    chosen: Chosen
    setup: Setup
    net: Params
    combinations: int
    training: dict[str, Any]
    rungs: list[dict[str, Any]]


Train = Callable[[Record, Sequence[int]], Outcome | None]
"""`(record, stop) -> outcome`, None if it was interrupted."""


def _train_and_test(train: Train, setup: Setup, folder: pathlib.Path, loggers: Loggers) -> Sweep:
    """Trains the agents, unless a signal interrupts it, then chooses one, tests it and writes everything."""

    @functools.cache
    def content(values: tuple[tuple[str, Any], ...], seed: int) -> str:
        config = member_config(setup.config, dict(values), seed)
        return configuration_hash(dataclasses.replace(setup, config=config))

    def trial(agent: Agent, iteration: int, returns: np.ndarray) -> Trial:
        own = content(tuple(agent.values.items()), agent.seed)
        return trial_of(setup, folder, iteration, "validation", returns, own, seed=agent.seed)

    def record(iteration: int, evaluated: Sequence[tuple[Agent, np.ndarray]]) -> None:
        record_trials(folder, [(trial(agent, iteration, returns), returns) for agent, returns in evaluated])

    with stop_requested(b"stopping at the next checkpoint or evaluation on validation") as stop:
        found = train(record, stop)
    if found is None:
        print(f"stopped; continue with {resume_command(folder, run_folder.SWEEP)}", file=sys.stderr)
        return Sweep(folder, pd.DataFrame(), None, "", stop[0])
    return _finish(found, folder, loggers)


def _trained(job: Job, programs: Programs, progress: bool, record: Record, stop: Sequence[int]) -> Outcome | None:
    """Trains all agents in one program, by the method of the sweep."""
    method, rungs = job.setup.config.sweep.method, []
    if method == "pbt":
        exchanged = train_by_exchange(job, programs, record, stop, progress)
        trained, rungs = (None, []) if exchanged is None else exchanged
    elif method == "halving":
        trained = train_by_halving(job, programs, functools.partial(_compiled, programs), record, stop, progress)
    else:
        trained = train_agents(job, programs, record, stop, progress)
    if trained is None:
        return None
    chosen = choose(trained.agents, alone=method == "pbt")
    steps = sum(agent.iterations for agent in trained.agents) * job.steps
    training = _training(trained.agents, chosen, programs.size, steps, trained.seconds, programs.compile_seconds)
    net = jax.tree.map(lambda x: x[chosen.place], trained.best)
    return Outcome(trained.agents, chosen, job.setup, net, len(job.values), training, rungs)


def _searched(
    found: Search,
    config: Config,
    job_of: Callable[[Config], Job],
    progress: bool,
    record: Record,
    stop: Sequence[int],
) -> Outcome | None:
    """Trains one combination after the other, as Optuna draws them."""
    if not found.run(record, stop, progress):
        return None
    different = {str(one.values): number for number, one in reversed([*enumerate(found.tried)])}
    places = sorted(different.values())
    tried = [found.tried[number] for number in places]
    agents = [agent for one in tried for agent in one.agents]
    chosen = choose(agents)
    number = different[str(chosen.values)]
    setup = job_of(member_config(config, chosen.values, config.seed)).setup
    place = found.tried[number].agents.index(agents[chosen.place])
    net = jax.tree.map(lambda x: x[place], found.trained(number).best)
    steps = sum(agent.iterations * one.steps for one in tried for agent in one.agents)
    seconds, compiling = (sum(getattr(one, name) for one in tried) for name in ("seconds", "compile_seconds"))
    training = _training(agents, chosen, config.sweep.seeds, steps, seconds, compiling)
    return Outcome(agents, chosen, setup, net, len(tried), training, [])


def _compiled(first: Programs, part: Job) -> Programs:
    """Programs of a part of the agents, on the devices of those of all, at most as many at a time.

    The size of a batch does not depend on devices and memory: what was interrupted can go on elsewhere.
    """
    devices = list(first.population.sharding.mesh.devices.flat)
    return compile_job(part, devices, min(first.size, len(part.agents)), exactly=True, batch_key=BATCH_KEY)


def _finish(outcome: Outcome, folder: pathlib.Path, loggers: Loggers) -> Sweep:
    """Tests the chosen agent, and makes the folder a run folder of it."""
    agents, chosen = outcome.agents, outcome.chosen
    agent = agents[chosen.place]
    config = member_config(outcome.setup.config, chosen.values, agent.seed)
    setup = dataclasses.replace(outcome.setup, config=config)
    table, found = member_table(agents, chosen), _found(outcome)
    evaluator = backtest_evaluator(setup, first_policy(setup)[0], {"Sweep": section(table, found)})
    validation = {"best_iteration": agent.best_iteration, "best_sharpe": agent.score, "evaluations": agent.evaluations}
    summary: dict[str, Any] = {"train": outcome.training, "validation": validation, "sweep": found}
    limits = constraint_summary(config, agent.rows)
    summary |= {"constraints": limits} if limits else {}
    best = Checkpoints(folder / "checkpoints" / "best", 1)
    try:
        kept = {"iteration": agent.best_iteration, "sharpe": agent.score}
        best.save(agent.best_iteration, {"params": outcome.net}, kept)
    finally:
        best.close()
    summary |= evaluator.finish(outcome.net, summary, agent.rows, folder)
    curves = summary.pop("curves", None)
    table.to_csv(folder / "sweep.csv", index=False)
    rungs = {"rungs": outcome.rungs} if outcome.rungs else {}
    write_text(folder / "sweep.json", json.dumps({**found, **rungs, "members": _as_json(table)}, indent=2) + "\n")
    write_json(folder / "summary.json", summary)
    metadata = run_folder.read_metadata(folder)
    metadata.pop("kind", None)
    # Last the configuration: with both of the sweep it can still be finished, with both of the agent it is a run.
    run_folder.write_metadata(folder, {**metadata, "seed": agent.seed, "sweep": found}, finished=True)
    run_folder.write_config(folder, config)
    for left in (folder / "checkpoints").iterdir():
        if left.name != "best":
            shutil.rmtree(left)
    loggers.finish(summary, folder / "report.html", curves)
    return Sweep(folder, table, summary, f"{sentence(found)}\n{evaluator.describe(summary)}")


def _found(outcome: Outcome) -> dict[str, Any]:
    """The `sweep` entry of the summary."""
    config, agents, chosen = outcome.setup.config, outcome.agents, outcome.chosen
    return {
        "method": config.sweep.method,
        "keys": list(config.sweep.parameters or {}),
        "agents": len(agents),
        "combinations": outcome.combinations,
        "seeds": list(range(config.seed, config.seed + config.sweep.seeds)),
        "values": chosen.values,
        "seed": agents[chosen.place].seed,
        "member": chosen.place,
        "mean_validation_sharpe": chosen.mean_score if np.isfinite(chosen.mean_score) else None,
        "diverged": sum(_diverged(agent) for agent in agents),
    }


def _diverged(agent: Agent) -> bool:
    return agent.stopped is not None and "level" not in agent.stopped and agent.stopped["limit"] != DROPPED


def _training(
    agents: Sequence[Agent], chosen: Chosen, batch_size: int, steps: int, seconds: float, compile_seconds: float
) -> dict[str, Any]:
    """The `train` entry of the summary; `seconds` without compilation, of all agents, over all resumes."""
    return {
        "agents": len(agents),
        "batch_size": batch_size,
        "iterations": agents[chosen.place].iterations,
        "env_steps": steps,
        "seconds": seconds,
        "steps_per_second": steps / max(seconds, 1e-9),
        "compile_seconds": compile_seconds,
    }


def _as_json(table: pd.DataFrame) -> list[dict[str, Any]]:
    return json.loads(table.to_json(orient="records", double_precision=10))
