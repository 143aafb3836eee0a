"""Walk-forward and combinatorial purged cross-validation of a run: train on each fold, select, test, put together."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import pandas as pd

from jaxppo.backtest.beside import UNGATED, UNTRAINED
from jaxppo.backtest.evaluation import Evaluation, ReportExtras, describe, evaluate_ledger, report
from jaxppo.backtest.ledger import Ledger
from jaxppo.backtest.selection import (
    adjust_for_selection,
    configuration_hash,
    record_evaluation,
    record_trials,
    trial_of,
)
from jaxppo.backtest.shipping import gated
from jaxppo.config import Config, digest_tree
from jaxppo.envs.data.load import format_report
from jaxppo.envs.market.market_data import MarketData
from jaxppo.errors import ConfigError
from jaxppo.report.selection import one_line
from jaxppo.run import folder as run_folder
from jaxppo.run.checkpoints import Checkpoints
from jaxppo.run.data import GIVEN_IN_PYTHON, given_data, load_data, recorded_path
from jaxppo.run.devices import select_devices
from jaxppo.run.files import write_json, write_text
from jaxppo.run.lock import owned
from jaxppo.run.objectives import constraint_summary
from jaxppo.run.processes import check_alone
from jaxppo.run.progress import announce
from jaxppo.run.resuming import resume_command
from jaxppo.run.setup import Setup
from jaxppo.run.trials import Trial
from jaxppo.tracking import Curves, LoggedRun, Logger, Loggers, make_loggers
from jaxppo.training.interrupts import stop_requested
from jaxppo.walk_forward import results
from jaxppo.walk_forward.concatenated import Lineup, concatenated_ledgers
from jaxppo.walk_forward.gate import fold_ships, gate_figures
from jaxppo.walk_forward.job import Agent, Job
from jaxppo.walk_forward.plan import Plan
from jaxppo.walk_forward.prepare import check, prepare, restarted, seeds_of, settled
from jaxppo.walk_forward.programs import Programs, compile_job
from jaxppo.walk_forward.section import SCHEMES, gate_line, gate_section, section
from jaxppo.walk_forward.training import stopped_text, train_agents

MOST_LINES = 20
"""Lines of results that `repr` shows."""


@dataclasses.dataclass(frozen=True, repr=False)
class WalkForward:
    """Outcome of `walk_forward`.

    Attributes:
      folder: of the walk-forward.
      plan: folds and paths.
      folds: a row for each test of each agent, see `fold_table`.
      returns: out-of-sample returns of every account, see `returns_table`.
      summary: content of summary.json; None if it was stopped early by a signal, which leaves the tables empty.
      text: the results in a few lines; empty without a summary.
      signal: number of the signal that stopped it early; None for a finished one.
    """

    folder: pathlib.Path
    plan: Plan
    folds: pd.DataFrame
    returns: pd.DataFrame
    summary: dict[str, Any] | None
    text: str
    signal: int | None = None

    def __repr__(self) -> str:
        """The folder, the folds and the headline figures."""
        lines = (self.text or "stopped early; continue it with resume=True").splitlines()
        if len(lines) > MOST_LINES:
            lines = [*lines[: MOST_LINES - 1], f"... {len(lines) - MOST_LINES + 1} more lines in .text"]
        return "\n".join([f"WalkForward({str(self.folder)!r}, {len(self.plan.folds)} folds)", *lines])


def walk_forward(
    config: Config,
    *,
    output: str | pathlib.Path | None = None,
    name: str = "walk_forward",
    resume: bool = False,
    market: MarketData | None = None,
    progress: bool = True,
    loggers: Sequence[Logger] = (),
) -> WalkForward:
    """Trains agents on every fold of the bars and trades the bars that follow, in one account from the first test on.

    `config.walk_forward` says how the bars are split; the periods of `config.data` have no meaning here. All folds and
    seeds are trained in one compiled program, or in as few batches as fit the memory, for `training.steps` (or
    `.episodes`) each. In each fold the checkpoint that was best on the fold's validation is traded in its test: nothing
    else is selected. Of several seeds the mean of their targets is traded, or the best of them, see
    `walk_forward.combine`. Each evaluation on a validation, each agent's test and each path as a whole is recorded in
    the register of trials beside the folder.

    Args:
      config: the run.
      output: folder; default `runs/NAME`, numbered so that nothing is overwritten.
      name: NAME of the default folder.
      resume: go on with the walk-forward in `output`, to the same numbers as without the interruption.
      market: prices to use instead of `config.data.path`.
      progress: report progress on stderr.
      loggers: where it is recorded beside its folder, after those that `config.tracking` names. They get the mean of
        the agents' metrics at each evaluation and the results, all at the end.

    Raises:
      ConfigError: the configuration cannot be run, `output` does not allow it, or training diverges.
      envs.DataError: the prices cannot be used.

    References:
      Pardo, "The Evaluation and Optimization of Trading Strategies", 2008, chapter 11; Lopez de Prado, "Advances in
      Financial Machine Learning", 2018, chapter 12.
    """
    if market is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"path": GIVEN_IN_PYTHON})})
    check_alone("a walk-forward")
    check(config)
    resumed, begun = None, False
    if not resume:
        run_folder.check_output(output)
    elif output is None:
        raise ConfigError("--resume needs --output: the folder of the walk-forward to continue")
    else:
        resumed, saved = run_folder.open_folder(output, run_folder.WALK_FORWARD)
        config, begun = restarted(config, saved), not run_folder.just_begun(resumed)
    told = make_loggers(config, loggers)
    devices = select_devices(config)
    with jax.default_device(devices[0]), contextlib.ExitStack() as locks:
        market = load_data(config, resumed) if market is None else given_data(config, market)
        if resumed is not None and begun:
            run_folder.check_same_data(resumed, run_folder.data_report(market))
        plan, setup, params = prepare(config, market)
        if progress and not resume and market.info.report:
            print(format_report(market.info.report), file=sys.stderr)
        folder = run_folder.make_folder(output, name) if resumed is None else resumed
        locks.enter_context(owned(folder, empty=resumed is None))
        first = tuple(fold.validation.first for fold in plan.folds)
        job = Job(setup, params, first, plan.folds[0].validation.n_bars, seeds_of(config), folder)
        if progress:
            print(f"{_scheme(setup.config, plan)} {len(job.agents)} agents are compiled", file=sys.stderr)
        announce("compiling")
        programs = compile_job(job, devices, config.walk_forward.batch_size, exactly=resume)
        job = dataclasses.replace(job, setup=settled(setup, config, programs.size))
        if not begun:
            data = {**run_folder.data_report(market), "path": recorded_path(config)}
            metadata = {"kind": run_folder.WALK_FORWARD, **run_folder.provenance(config, data, devices)}
            run_folder.write_config(folder, job.setup.config)
            run_folder.write_metadata(folder, metadata, finished=False)
        written = job.n_iterations if (folder / "metrics.jsonl").exists() else 0
        with told.opened(LoggedRun(folder, job.setup.config, run_folder.read_metadata(folder), 0, written)):
            return _train_and_test(job, programs, plan, told, progress)


def _train_and_test(job: Job, programs: Programs, plan: Plan, loggers: Loggers, progress: bool) -> WalkForward:
    """Trains the agents, unless a signal interrupts it, then trades and writes everything."""
    folder, content = job.folder, _content(job.setup)

    def record(iteration: int, evaluated: Sequence[tuple[Agent, np.ndarray]]) -> None:
        def one(agent: Agent, returns: np.ndarray) -> Trial:
            where, own = plan.folds[agent.fold].validation, {"seed": agent.seed, "fold": agent.fold}
            return trial_of(job.setup, folder, iteration, "validation", returns, content, where=where, **own)

        record_trials(folder, [(one(agent, returns), returns) for agent, returns in evaluated])

    with stop_requested(b"stopping at the next checkpoint or evaluation on validation") as stop:
        trained = train_agents(job, programs, record, stop, progress)
    if trained is None:
        print(f"stopped; continue with {resume_command(folder, run_folder.WALK_FORWARD)}", file=sys.stderr)
        return WalkForward(folder, plan, pd.DataFrame(), pd.DataFrame(), None, "", stop[0])
    agents, nets, untrained, _, seconds = trained
    for agent in agents:
        if agent.stopped:
            print(f"fold {agent.fold}, seed {agent.seed}: {stopped_text(agent.stopped)}", file=sys.stderr)
        if agent.skipped_updates:
            left_out = f"{agent.skipped_updates} updates were left out, since their loss or gradient was not finite"
            print(f"fold {agent.fold}, seed {agent.seed}: {left_out}", file=sys.stderr)
    announce("trading the tests")
    lineups, beside = _lineups(job, agents, plan)
    every = jax.tree.map(lambda *x: np.concatenate(x), nets, untrained)
    who = [*lineups.values(), *beside.values()]
    ledgers = concatenated_ledgers(job.setup, programs.network, job.params, every, plan, who)
    others = {name: each[0] for name, each in zip(beside, ledgers[len(lineups) :], strict=True)}
    ledgers, ships = ledgers[: len(lineups)], None
    if gated(job.setup):
        first, ungated = next(iter(lineups.values())), ledgers[0][0]
        ships = fold_ships(job.setup, programs.network, job.params, nets, plan, first, ungated.returns)
        through = Lineup(first.members, [ship.share for ship in ships])
        lineups = {results.GATED: through, **lineups}
        ledgers = [*concatenated_ledgers(job.setup, programs.network, job.params, nets, plan, [through]), *ledgers]
        others |= {UNGATED: ungated} if any(ship.share == 0.0 for ship in ships) else {}
    market, periods, level = job.setup.market, job.setup.periods_per_year, job.setup.config.evaluation.level
    tested = results.OutOfSample(plan, agents, lineups, ledgers, market, periods, level, ships)
    best = Checkpoints(folder / "checkpoints" / "best", 1)
    try:
        best.save(0, {"params": nets}, {"scores": [agent.best_score for agent in agents]})
    finally:
        best.close()
    return _finish(job, tested, others, _training(job, programs, agents, seconds), content, loggers)


def _lineups(job: Job, agents: Sequence[Agent], plan: Plan) -> tuple[dict[str, Lineup], dict[str, Lineup]]:
    """The line-ups that are reported, and those that stand beside the first: the untrained agents of its seeds."""
    combine, n_folds = job.setup.config.walk_forward.combine, len(plan.folds)
    lineups = results.make_lineups(agents, n_folds, combine)
    n_first, n_seeds = len(job.seeds) if results.ENSEMBLE in lineups else 1, len(job.seeds)
    first = [[len(agents) + fold * n_seeds + place for place in range(n_first)] for fold in range(n_folds)]
    return lineups, {UNTRAINED: Lineup(first)}


def _content(setup: Setup) -> str:
    """`configuration_hash`, and how the bars are split; the size of the batches of agents does not matter."""
    split = digest_tree(setup.config)["walk_forward"]
    keys = {name: value for name, value in split.items() if name not in ("batch_size", "seeds")}
    text = json.dumps([configuration_hash(setup), keys, setup.config.training.steps, setup.config.training.episodes])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _scheme(config: Config, plan: Plan) -> str:
    """Says how the bars are split, in a sentence."""
    keys, fold = config.walk_forward, plan.folds[0]
    train = fold.validation.last - fold.train[0].first
    sizes = {"train": f"{train:,}", "test_folds": len(fold.tests), "folds": len(plan.paths[0])}
    words = SCHEMES[keys.kind].format(**sizes)
    left = plan.left_out
    unused = f" The last {left:,} bars, too few for another test, are not traded." if left else ""
    trained = f"{len(plan.folds)} folds, validation on {fold.validation.n_bars:,} bars, {keys.seeds} seed(s) each."
    return f"{words}; {trained}{unused}"


def _training(job: Job, programs: Programs, agents: Sequence[Agent], seconds: float) -> dict[str, Any]:
    """The `train` entry of the summary; `seconds` without compilation, over all resumes."""
    steps = sum(agent.iterations for agent in agents) * job.steps
    return {
        "agents": len(agents),
        "batch_size": programs.size,
        "iterations": job.n_iterations,
        "env_steps": steps,
        "seconds": seconds,
        "steps_per_second": steps / max(seconds, 1e-9),
        "compile_seconds": programs.compile_seconds,
    }


def _finish(
    job: Job,
    tested: results.OutOfSample,
    beside: Mapping[str, Ledger],
    training: dict[str, Any],
    content: str,
    loggers: Loggers,
) -> WalkForward:
    """Evaluates the tests, records them as trials, and writes tables, summary and report."""
    setup, folder, plan = job.setup, job.folder, tested.plan
    kind = setup.config.walk_forward.kind
    folds, returns = results.fold_table(tested), results.returns_table(tested)
    result = evaluate_ledger(setup, tested.ledgers[0][0], plan.test, None, beside)
    adjusted = _record(job, tested, content, result.baselines)
    found: dict[str, Any] = {
        "kind": kind,
        "n_folds": len(plan.folds),
        "seeds": list(job.seeds),
        "paths": results.account_figures(tested),
        "selection": results.adjust_folds_for_selection(folds, overlapping=kind == "combinatorial")
        | results.tests_won(tested),
        "stopped": [
            {"fold": agent.fold, "seed": agent.seed, **agent.stopped}
            for agent in tested.agents
            if agent.stopped is not None
        ],
        "constraints": _constraints(setup.config, tested.agents),
        "folds": json.loads(folds.to_json(orient="records", double_precision=10)),
    }
    if tested.ships is not None:
        found["ship"] = gate_figures(tested.ships)
    summary = {"train": training, "walk_forward": found, "out_of_sample": result.summary, "selection": adjusted}
    folds.to_csv(folder / "folds.csv", index=False)
    returns.to_parquet(folder / "returns.parquet", index=False)
    rows = [{"fold": agent.fold, "seed": agent.seed, **row} for agent in tested.agents for row in agent.rows]
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write_json(folder / "summary.json", summary)
    averaged = _averaged(rows)
    _write_report(job, tested, result, summary, folds, averaged)
    run_folder.write_metadata(folder, run_folder.read_metadata(folder), finished=True)
    for row in averaged:
        loggers.write({**row, "env_steps": row["iteration"] * job.steps})
    equity = {name: np.asarray(ledger.equity) for name, ledger in result.ledgers.items()}
    loggers.finish(summary, folder / "report.html", Curves(result.times, equity))
    return WalkForward(folder, plan, folds, returns, summary, _text(summary))


def _record(job: Job, tested: results.OutOfSample, content: str, baselines: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Records every test of every agent and every path; adjusts the first path of the first line-up for selection."""
    setup, folder, plan = job.setup, job.folder, tested.plan
    of_agents, trials = {account.name for account in tested.of_agents}, []
    for account in tested.accounts:
        returns = account.ledger.returns
        for fold, position in plan.paths[account.path] if account.name in of_agents else ():
            agent, test = (
                tested.agents[tested.lineups[account.lineup].members[fold][0]],
                plan.folds[fold].tests[position],
            )
            part = returns[test.first - plan.test.first : test.last - plan.test.first]
            record_evaluation(
                setup, folder, agent.best_iteration, "fold", part, content, where=test, fold=fold, seed=agent.seed
            )
        name = f"{folder.resolve().name}, {account.name}"
        trials.append(record_evaluation(setup, folder, 0, "test", returns, content, where=plan.test, run=name))
    return adjust_for_selection(setup, folder, trials[0], tested.ledgers[0][0].returns, baselines)


def _constraints(config: Config, agents: Sequence[Agent]) -> list[dict[str, Any]]:
    """`constraint_summary` of every agent over the iterations that were evaluated; empty without constraints."""
    found = ((agent, constraint_summary(config, agent.rows)) for agent in agents)
    return [{"fold": agent.fold, "seed": agent.seed, **limits} for agent, limits in found if limits]


def _averaged(rows: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """Averages the metrics at each evaluation over the agents, without the counts of monitored metrics."""
    frame = pd.DataFrame(rows).drop(columns=["fold", "seed"])
    frame = frame.drop(columns=[name for name in frame if name.startswith("monitor_")])
    return frame.groupby("iteration", as_index=False).mean().to_dict("records")


def _write_report(
    job: Job,
    tested: results.OutOfSample,
    result: Evaluation,
    summary: dict[str, Any],
    folds: pd.DataFrame,
    rows: list[dict[str, float]],
) -> None:
    """Writes report.html: that of the first path of the first line-up, with a section on folds and paths."""
    setup, plan, found = job.setup, tested.plan, summary["walk_forward"]
    equity = {account.name: np.asarray(account.ledger.equity) for account in tested.accounts}
    if "buy_and_hold" in result.ledgers:
        equity |= {"buy and hold": np.asarray(result.ledgers["buy_and_hold"].equity)}
    starts = [plan.folds[fold].tests[position].first for fold, position in plan.paths[0]]
    edges = np.asarray(starts[1:], int) - plan.test.first
    points = result.times if len(result.times) else np.arange(plan.test.n_bars + 1)
    html = section(
        _scheme(setup.config, plan),
        folds,
        found["selection"],
        points,
        equity,
        edges,
        results.ENSEMBLE in tested.lineups,
    )
    warnings: tuple[str, ...] = ()
    if found["kind"] == "combinatorial":
        warnings = (
            "Combinatorial purged cross-validation: agents were also trained on bars after their tests. It says how "
            "robust a way to train is, not what it would have earned. The figures below are those of the first of "
            f"{len(plan.paths)} paths.",
        )
    sections = {"Walk-forward": html}
    if "ship" in found:
        sections["Who trades"] = gate_section(found["ship"], setup.config.evaluation.ship_t)
    extras = ReportExtras(summary["selection"], training=rows, sections=sections, warnings=warnings)
    report(setup, result, job.folder / "report.html", extras)


def _text(summary: dict[str, Any]) -> str:
    """Describes the results in a few lines."""
    found = summary["walk_forward"]
    lines = [describe(summary["out_of_sample"])]
    if "ship" in found:
        lines.append(gate_line(found["ship"]))
    for name, row in found["paths"].items():
        low, high = (("undefined" if end is None else f"{end:.2f}") for end in (row["sharpe_low"], row["sharpe_high"]))
        lines.append(f"{name:22} Sharpe {row['sharpe']:.2f} ({low} .. {high}), return {row['total_return']:.1%}")
    return "\n".join([*lines, one_line(summary["selection"])])
