"""Walk-forward and combinatorial purged cross-validation of a run: train on each fold, select, test, put together."""

from __future__ import annotations

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

from jaxppo.backtest.evaluation import Evaluation, describe, judged, report
from jaxppo.backtest.selection import adjust_for_selection, configuration_hash, record_evaluation
from jaxppo.backtest.simulate import Ledger
from jaxppo.config import Config, ConfigError, dump_config
from jaxppo.envs.data.load import format_report
from jaxppo.envs.market.market_data import MarketData
from jaxppo.policy.networks.actor_critic import Params
from jaxppo.report.selection import one_line
from jaxppo.run import folder as run_folder
from jaxppo.run.checkpoints import Checkpoints
from jaxppo.run.devices import select_devices
from jaxppo.run.objectives import constraint_summary
from jaxppo.run.setup import GIVEN_IN_PYTHON, Setup, load_data
from jaxppo.training.interrupts import stop_requested
from jaxppo.walk_forward import results
from jaxppo.walk_forward.concatenated import concatenated_ledgers
from jaxppo.walk_forward.plan import Plan
from jaxppo.walk_forward.prepare import check, prepare, restarted, seeds_of, settled
from jaxppo.walk_forward.section import SCHEMES, section
from jaxppo.walk_forward.training import Agent, Job, Programs, compile_job, stopped_text, train_agents


@dataclasses.dataclass(frozen=True)
class WalkForward:
    """Outcome of `walk_forward`.

    Attributes:
      folder: of the walk-forward.
      plan: folds and paths.
      folds: a row for each test of each agent, see `fold_table`.
      returns: out-of-sample returns of every path, see `returns_table`.
      summary: content of summary.json; None if it was stopped early by a signal, which leaves the tables empty.
      text: the results in a few lines; empty without a summary.
    """

    folder: pathlib.Path
    plan: Plan
    folds: pd.DataFrame
    returns: pd.DataFrame
    summary: dict[str, Any] | None
    text: str


def walk_forward(
    config: Config,
    *,
    output: str | pathlib.Path | None = None,
    name: str = "walk_forward",
    resume: bool = False,
    market: MarketData | None = None,
    progress: bool = True,
) -> WalkForward:
    """Trains agents on every fold of the bars and trades what follows with them, in one account from the first test on.

    `config.walk_forward` says how the bars are split; the periods of `config.data` have no meaning here. All folds and
    seeds are trained in one compiled program, or in as few batches as fit the memory, for `training.steps` (or
    `.episodes`) each. In each fold the checkpoint that was best on the fold's validation is traded in its test, and of
    several seeds the best of those: nothing else is selected. Each look at a validation, each agent's test and each
    path as a whole is recorded in the register of trials beside the folder.

    Args:
      config: the run.
      output: folder; default `runs/NAME`, numbered so that nothing is overwritten.
      name: NAME of the default folder.
      resume: go on with the walk-forward in `output`, to the same numbers as without the interruption.
      market: prices to use instead of `config.data.path`.
      progress: report progress on stderr.

    Raises:
      ConfigError: the configuration cannot be run, `output` does not allow it, or training diverges.
      envs.DataError: the prices cannot be used.

    References:
      Pardo, "The Evaluation and Optimization of Trading Strategies", 2008, chapter 11; Lopez de Prado, "Advances in
      Financial Machine Learning", 2018, chapter 12.
    """
    if market is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"path": GIVEN_IN_PYTHON})})
    check(config)
    if not resume:
        run_folder.check_output(output)
    elif output is None:
        raise ConfigError("--resume needs --output: the folder of the walk-forward to continue")
    else:
        config = restarted(config, run_folder.open_folder(output, run_folder.WALK_FORWARD)[1])
    devices = select_devices(config)
    with jax.default_device(devices[0]):
        market = load_data(config) if market is None else market
        if resume:
            run_folder.check_same_data(pathlib.Path(output), run_folder.data_report(market))
        plan, setup, params = prepare(config, market)
        if progress and not resume and market.info.report:
            print(format_report(market.info.report), file=sys.stderr)
        folder = pathlib.Path(output) if resume else run_folder.make_folder(output, name)
        keys = config.walk_forward
        first = tuple(fold.validation.first for fold in plan.folds)
        job = Job(setup, params, first, plan.folds[0].validation.n_bars, seeds_of(config), folder)
        if progress:
            print(f"{_scheme(setup.config, plan)} {len(job.agents)} agents are compiled", file=sys.stderr)
        programs = compile_job(job, devices, keys.agents_at_once, exactly=resume)
        setup = settled(setup, config, programs.size)
        if not resume:
            metadata = run_folder.provenance(config, run_folder.data_report(market), devices)
            run_folder.write_json(folder / "metadata.json", {"kind": run_folder.WALK_FORWARD, **metadata})
            run_folder.write_config(folder, setup.config)
        content = _content(setup)

        def look(agent: Agent, iteration: int, returns: np.ndarray) -> None:
            where = plan.folds[agent.fold].validation
            own = {"seed": agent.seed, "fold": agent.fold, "where": where}
            record_evaluation(setup, folder, iteration, "validation", returns, content, **own)

        with stop_requested(b"stopping after the next look at validation") as stop:
            trained = train_agents(job, programs, look, stop, progress)
        if trained is None:
            print(f"stopped; continue with --resume --output {folder}", file=sys.stderr)
            return WalkForward(folder, plan, pd.DataFrame(), pd.DataFrame(), None, "")
        agents, nets, seconds = trained
        for agent in agents:
            if agent.stopped:
                print(f"fold {agent.fold}, seed {agent.seed}: {stopped_text(agent.stopped)}", file=sys.stderr)
        training = _training(job, programs, agents, seconds)
        return _finish(dataclasses.replace(job, setup=setup), programs, plan, agents, nets, training, content)


def _content(setup: Setup) -> str:
    """`configuration_hash`, and how the bars are split; how many agents are trained at once does not matter."""
    keys = setup.config.walk_forward.model_dump(mode="json", exclude={"agents_at_once", "seeds"})
    text = json.dumps([configuration_hash(setup), keys, setup.config.training.steps, setup.config.training.episodes])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _scheme(config: Config, plan: Plan) -> str:
    """How the bars are split, as a sentence."""
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
        "agents_at_once": programs.size,
        "iterations": job.n_iterations,
        "env_steps": steps,
        "seconds": seconds,
        "steps_per_second": steps / max(seconds, 1e-9),
        "compile_seconds": programs.compile_seconds,
    }


def _finish(
    job: Job,
    programs: Programs,
    plan: Plan,
    agents: Sequence[Agent],
    nets: Params,
    training: dict[str, Any],
    content: str,
) -> WalkForward:
    """Trades the tests, records the looks, and writes everything."""
    setup, folder = job.setup, job.folder
    market, annual, level = setup.market, setup.periods_per_year, setup.config.evaluation.level
    ways = results.ways_to_choose(agents, len(plan.folds))
    ledgers = concatenated_ledgers(setup, programs.policy, job.params, nets, plan, list(ways.values()))
    folds = results.fold_table(plan, agents, ways, ledgers, market, annual, level)
    result = judged(setup, ledgers[0][0], plan.test, None)
    worth = _record(job, plan, agents, ways, ledgers, content, result.baselines)
    found = {
        "kind": setup.config.walk_forward.kind,
        "n_folds": len(plan.folds),
        "seeds": list(job.seeds),
        "paths": results.path_figures(ways, ledgers, plan.test.n_bars, annual, level),
        "selection": results.adjust_folds_for_selection(
            folds, overlapping=setup.config.walk_forward.kind == "combinatorial"
        )
        | results.tests_won(plan, ledgers[0]),
        "stopped": [
            {"fold": agent.fold, "seed": agent.seed, **agent.stopped} for agent in agents if agent.stopped is not None
        ],
        "constraints": _constraints(setup.config, agents),
        "folds": json.loads(folds.to_json(orient="records", double_precision=10)),
    }
    summary = {"train": training, "walk_forward": found, "out_of_sample": result.summary, "selection": worth}
    returns = results.returns_table(ways, ledgers, plan, market)
    best = Checkpoints(folder / "checkpoints" / "best", 1)
    try:
        best.save(0, {"params": nets}, {"scores": [agent.best_score for agent in agents]})
    finally:
        best.close()
    folds.to_csv(folder / "folds.csv", index=False)
    returns.to_parquet(folder / "returns.parquet", index=False)
    rows = [{"fold": agent.fold, "seed": agent.seed, **row} for agent in agents for row in agent.rows]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run_folder.write_json(folder / "summary.json", summary)
    _write_report(job, plan, result, summary, folds, _averaged(rows), ways, ledgers)
    return WalkForward(folder, plan, folds, returns, summary, _text(summary))


def _record(
    job: Job,
    plan: Plan,
    agents: Sequence[Agent],
    ways: dict[str, list[int]],
    ledgers: Sequence[Sequence[Ledger]],
    content: str,
    baselines: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """Records every test of every agent and every path; says what the first path of the selected agents is worth."""
    setup, folder, origin = job.setup, job.folder, plan.test.first
    name = folder.resolve().name
    for (way, chosen), own in zip(ways.items(), ledgers, strict=True):
        for path, (parts, ledger) in enumerate(zip(plan.paths, own, strict=True)):
            for fold, position in parts if way != results.SELECTED or len(ways) == 1 else ():
                agent, test = agents[chosen[fold]], plan.folds[fold].tests[position]
                span = {"where": test, "fold": fold, "seed": agent.seed}
                returns = ledger.returns[test.first - origin : test.last - origin]
                record_evaluation(setup, folder, agent.best_iteration, "fold", returns, content, **span)
            of = {"where": plan.test, "name": f"{name}, {results.path_name(way, path, len(own))}"}
            trial = record_evaluation(setup, folder, 0, "test", ledger.returns, content, **of)
            if way == results.SELECTED and path == 0:
                first = trial
    return adjust_for_selection(setup, folder, first, ledgers[0][0].returns, baselines)


def _constraints(config: Config, agents: Sequence[Agent]) -> list[dict[str, Any]]:
    """`constraint_summary` of every agent over the iterations that were looked at; empty without constraints."""
    found = ((agent, constraint_summary(config, agent.rows)) for agent in agents)
    return [{"fold": agent.fold, "seed": agent.seed, **limits} for agent, limits in found if limits]


def _averaged(rows: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """Metrics at each look, averaged over the agents; without what is counted of watched limits."""
    frame = pd.DataFrame(rows).drop(columns=["fold", "seed"])
    frame = frame.drop(columns=[name for name in frame if name.startswith("monitor_")])
    return frame.groupby("iteration", as_index=False).mean().to_dict("records")


def _write_report(
    job: Job,
    plan: Plan,
    result: Evaluation,
    summary: dict[str, Any],
    folds: pd.DataFrame,
    rows: list[dict[str, float]],
    ways: dict[str, list[int]],
    ledgers: Sequence[Sequence[Ledger]],
) -> None:
    """Writes report.html: that of an evaluation, of the first path of the selected agents, and a section more."""
    setup, found = job.setup, summary["walk_forward"]
    names = list(found["paths"])
    equity = dict(zip(names, (ledger.equity for own in ledgers for ledger in own), strict=True))
    equity |= {"buy and hold": result.ledgers["buy_and_hold"].equity}
    starts = [plan.folds[fold].tests[position].first for fold, position in plan.paths[0]]
    edges = np.asarray(starts[1:], int) - plan.test.first
    points = result.times if len(result.times) else np.arange(plan.test.n_bars + 1)
    html = section(_scheme(setup.config, plan), folds, found["selection"], points, equity, edges)
    warnings = ()
    if found["kind"] == "combinatorial":
        warnings = (
            "Combinatorial purged cross-validation: agents were also trained on bars after their tests. It says how "
            "robust a way to train is, not what it would have earned. The figures below are those of the first of "
            f"{len(plan.paths)} paths.",
        )
    path = job.folder / "report.html"
    text, worth = dump_config(setup.config), summary["selection"]
    more = {"selection": worth, "sections": {"Walk-forward": html}, "warnings": warnings}
    report(setup, result, None, rows, text, path, **more)


def _text(summary: dict[str, Any]) -> str:
    """The results in a few lines."""
    found = summary["walk_forward"]
    lines = [describe(summary["out_of_sample"])]
    for name, row in found["paths"].items():
        low, high = (("undefined" if end is None else f"{end:.2f}") for end in (row["sharpe_low"], row["sharpe_high"]))
        lines.append(f"{name:22} Sharpe {row['sharpe']:.2f} ({low} .. {high}), return {row['total_return']:.1%}")
    return "\n".join([*lines, one_line(summary["selection"])])
