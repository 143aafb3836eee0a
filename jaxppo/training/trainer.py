"""A training from its configuration to its report: start or resume, train, evaluate once on the test period."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any, Unpack

import jax

from jaxppo.config import Config
from jaxppo.envs.data.load import format_report
from jaxppo.envs.market.market_data import MarketData
from jaxppo.policy.networks.actor_critic import Params
from jaxppo.ppo.iteration import TrainState
from jaxppo.ppo.learner import Learner, data_mesh, make_learner, own_device
from jaxppo.run import folder as run_folder
from jaxppo.run.build import build
from jaxppo.run.checkpoints import Checkpoints
from jaxppo.run.data import GIVEN_IN_PYTHON, given_data, load_data
from jaxppo.run.devices import select_devices, shared_devices
from jaxppo.run.files import write_json
from jaxppo.run.lock import owned
from jaxppo.run.objectives import constraint_summary, describe_constraints
from jaxppo.run.processes import Group
from jaxppo.run.progress import Progress, announce
from jaxppo.run.resuming import resume_command
from jaxppo.run.setup import TRADING, pathwise_of, step_budget
from jaxppo.tracking import LoggedRun, Logger, Loggers, TensorBoard, make_loggers
from jaxppo.training.check import state_shapes
from jaxppo.training.evaluator import backtest_evaluator
from jaxppo.training.experiment import Experiment, MakeEvaluator, hardly_trained, trading_experiment
from jaxppo.training.fitting import fitting_iteration
from jaxppo.training.following import follow
from jaxppo.training.gymnax_experiment import episode_evaluator, gymnax_experiment
from jaxppo.training.interrupts import stop_requested
from jaxppo.training.loggers import check_metrics
from jaxppo.training.loop import train_until_spent
from jaxppo.training.monitor import still_stops, stop_message
from jaxppo.training.opened import opened
from jaxppo.training.own import TrainParts, with_parts
from jaxppo.training.recovery import MOST_HALVINGS, LostIteration, divergence, with_smaller_steps
from jaxppo.training.run_state import Done, Run


@dataclasses.dataclass(frozen=True, repr=False)
class TrainResult:
    """Outcome of `train`.

    Attributes:
      folder: the run folder.
      params: network parameters of the checkpoint that was best on validation.
      last_params: network parameters after the last iteration.
      summary: content of summary.json; None if training was stopped early by a signal, or another process has it.
      text: the summary's results in a few lines; empty without a summary.
      signal: number of the signal that stopped training early; None for a finished run.
    """

    folder: pathlib.Path
    params: Params
    last_params: Params
    summary: dict[str, Any] | None
    text: str
    signal: int | None = None

    def __repr__(self) -> str:
        """The folder and the headline figures."""
        return f"TrainResult({str(self.folder)!r})\n{self.text or 'stopped early; continue it with resume=True'}"


def train(
    config: Config,
    *,
    output: str | pathlib.Path | None = None,
    name: str = "run",
    resume: bool = False,
    market: MarketData | None = None,
    progress: bool = True,
    evaluator: MakeEvaluator | None = None,
    loggers: Sequence[Logger] = (),
    **parts: Unpack[TrainParts],
) -> TrainResult:
    """Trains, validates, and evaluates once on the test period.

    At least one iteration is trained, whatever the budget. The first Ctrl-C or SIGTERM saves after the running ones. A
    monitored limit that says `stop` ends training after the iteration in which an account breached it; the best policy
    so far is then evaluated. Of several processes (`jax.distributed`) the first alone writes, evaluates and logs; the
    result of the others has no summary.

    Args:
      config: the run.
      output: run folder; default `runs/NAME`, numbered so that nothing is overwritten.
      name: NAME of the default folder.
      resume: continue the run in `output` from its last checkpoint, to the same parameters as an uninterrupted run
        (with a budget in steps; one in minutes depends on the clock). If the budget is spent, or a limit stopped the
        run and still would under the present `monitor`, only the evaluation is repeated.
      market: prices to use instead of `config.data.path`; the run then remembers that they were given in Python, and
        resuming or backtesting it takes them again.
      progress: report progress on stderr.
      evaluator: `(setup, network) -> Evaluator`, which selects the checkpoint and evaluates it; default: backtests, or
        whole episodes of another environment.
      loggers: where the run is recorded beside its folder, after those that `config.tracking` names; their errors are
        reported on stderr and end nothing.
      **parts: `features`, `masks`, `rewards`, `sizing` and `base` of your own as functions, beside those of `config`,
        see `jaxppo.config.OwnParts`; `callbacks`, functions of each iteration's row of metrics.

    Raises:
      ConfigError: the configuration cannot be run, `output` does not allow it, or training diverges.
      envs.DataError: the prices cannot be used.
    """
    began = time.monotonic()
    config, loggers = with_parts(config, loggers, parts)
    if market is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"path": GIVEN_IN_PYTHON})})
    group = Group()
    with group.together():
        config, resumed = opened(config, output, resume, group)
        told = make_loggers(config, loggers, [TensorBoard()]) if group.leads else Loggers()
        devices = select_devices(config) if group.count == 1 else shared_devices(config)
        with jax.default_device(own_device(devices)):
            spread: Any = {} if group.count == 1 else {"devices": devices}
            if config.env.name == TRADING:
                market = load_data(config, resumed) if market is None else given_data(config, market)
                experiment = trading_experiment(build(config, market, **spread), evaluator or backtest_evaluator)
            else:
                market, experiment = None, gymnax_experiment(config, evaluator or episode_evaluator, **spread)
            group.agree("data", {"fingerprint": experiment.data["fingerprint"]})
            if not group.leads:
                end = follow(experiment, group, _learner)
                return TrainResult(pathlib.Path(end.folder), end.params, end.last_params, None, "", end.signal)
            if resumed is not None and not run_folder.just_begun(resumed):
                run_folder.check_same_data(resumed, experiment.data)
            folder = run_folder.make_folder(output, name) if resumed is None else resumed
            with owned(folder, empty=resumed is None):
                run, state, done = _start(experiment, folder, told, resumed is not None, began, group)
                try:
                    return _train(run, state, done, market, progress)
                finally:
                    run.last.close()
                    run.best.close()


def _start(
    experiment: Experiment, folder: pathlib.Path, loggers: Loggers, resumed: bool, began: float, group: Group
) -> tuple[Run, TrainState, Done]:
    """Builds the state, or restores that of the folder, which is not touched before that has worked."""
    last, best = Checkpoints(folder / "checkpoints" / "last", 2), Checkpoints(folder / "checkpoints" / "best", 2)
    run_folder.read_metrics(folder)
    learner, state, done = _newest(experiment, folder, last if resumed else None, group)
    if best.holds(done.best_iteration):
        best.restore({"params": experiment.net}, done.best_iteration)
    if done.stopped and not still_stops(experiment.monitor, done.stopped):
        done.stopped = None
    # What was saved as best after the last checkpoint belongs to iterations that are done again.
    best.discard_after(done.best_iteration)
    run = Run(experiment, learner, folder, last, best, began - done.elapsed, loggers=loggers, group=group)
    run = _with_program(run, state, done)
    run_folder.write_config(folder, experiment.config)
    return run, state, done


def _with_program(run: Run, state: TrainState, done: Done) -> Run:
    """The run with the program of its iteration, which is not compiled yet, unless nothing is left to train.

    Raises:
      ConfigError: it cannot fit the devices, with the estimate.
    """
    if run.finished(done):
        return run
    found = fitting_iteration(run.experiment, run.learner, state, lambda smaller: _learner(smaller, done.halvings))
    changed: dict[str, Any] = {name: getattr(found, name) for name in ("experiment", "learner", "traced", "metrics")}
    return dataclasses.replace(run, **changed)


def _newest(
    experiment: Experiment, folder: pathlib.Path, last: Checkpoints | None, group: Group
) -> tuple[Learner, TrainState, Done]:
    """Learner and state of the newest checkpoint, or the first ones."""
    group.tell("begin")
    learner, done = _learner(experiment, 0), Done()
    state_shapes(experiment, learner)
    state = learner.init(experiment.net, experiment.config.seed, experiment.params)
    if last is not None and last.latest is not None:
        arrays, host = last.restore_newest(state)
        digest = host.pop("metrics", None)
        done = Done.restored(host)
        check_metrics(folder, done.iteration, digest)
        group.tell("restore")
        state = learner.place(group.share(arrays))
    return _learner(experiment, done.halvings) if done.halvings else learner, state, done


def _learner(experiment: Experiment, halvings: int) -> Learner:
    """The learner of an experiment whose step was halved some times."""
    ppo = with_smaller_steps(experiment.ppo, halvings)
    pathwise = pathwise_of(experiment.config)
    return make_learner(experiment.task, ppo, data_mesh(experiment.devices), experiment.risk, pathwise)


def _go_back(run: Run, done: Done, lost: LostIteration) -> tuple[Run, TrainState, Done]:
    """The run at its last checkpoint, or at its start, with half the step.

    Raises:
      ConfigError: it has gone back often enough, or that would not help.
    """
    rate = run.experiment.ppo.learning_rate
    halvings = done.halvings + 1
    if lost.by_environment or halvings > MOST_HALVINGS:
        raise divergence(f"iteration {lost.iteration}", lost, rate, done.halvings)
    _, state, before = _newest(run.experiment, run.folder, run.last, run.group)
    learner = _learner(run.experiment, halvings)
    run = _with_program(dataclasses.replace(run, learner=learner), state, dataclasses.replace(before, stopped=None))
    run.best.discard_after(before.best_iteration)
    print(
        f"iteration {lost.iteration} is lost, {lost.figure}: back to iteration {before.iteration} with a learning rate "
        f"of {rate * 0.5**halvings:g}",
        file=sys.stderr,
    )
    costs: dict[str, Any] = {
        "compile_seconds": done.compile_seconds,
        "elapsed": run.elapsed,
        "skipped_updates": done.skipped_updates,
    }
    return run, state, dataclasses.replace(before, halvings=halvings, **costs)


def _train(run: Run, state: TrainState, done: Done, market: MarketData | None, progress: bool) -> TrainResult:
    """Runs the loop, then evaluates once on what was never trained or selected on."""
    experiment, folder = run.experiment, run.folder
    metadata = run_folder.provenance(experiment.config, experiment.data, experiment.devices)
    run_folder.write_metadata(folder, {**metadata, "wall_seconds": done.elapsed}, finished=False)
    if progress and market is not None and market.info.report:
        print(format_report(market.info.report), file=sys.stderr)
    budget, steps = step_budget(experiment.config), done.iteration * run.learner.steps_per_iteration
    spent = done.seconds if budget is None else steps
    if progress and budget is not None and budget % run.learner.steps_per_iteration:
        print(_rounded_up(budget, run.learner.steps_per_iteration), file=sys.stderr)
    (folder / "tensorboard").mkdir(exist_ok=True)  # a file in its place is refused, not reported
    written = len(run_folder.read_metrics(folder))
    logged = run.loggers.opened(LoggedRun(folder, experiment.config, metadata, done.iteration, written))
    bar = Progress(budget, experiment.config.training.minutes, progress, spent)
    with contextlib.closing(bar), logged:
        with stop_requested() as stop:
            run.group.stop_with(stop, str(folder))
            while True:
                try:
                    state, done = train_until_spent(run, state, done, stop, bar)
                    break
                except LostIteration as lost:
                    run, state, done = _go_back(run, done, lost)
        result = _outcome(run, state, done, stop, metadata, bar)
        run.group.tell("end", folder=str(folder), signal=result.signal)
        return dataclasses.replace(result, params=run.group.share(result.params))


def _rounded_up(budget: int, of_iteration: int) -> str:
    """Says how many steps a budget is that ends within an iteration."""
    n = -(-budget // of_iteration)
    return f"{budget:,} steps are rounded up to {n * of_iteration:,}, whole iterations of {of_iteration:,} each"


def _outcome(
    run: Run, state: TrainState, done: Done, stop: list[int], metadata: dict[str, Any], bar: Progress
) -> TrainResult:
    """Evaluates, unless a signal came, and closes the bar."""
    experiment, folder = run.experiment, run.folder
    metadata["wall_seconds"] = done.elapsed
    run_folder.write_metadata(folder, metadata, finished=False)
    if stop:
        bar.close()
        print(f"stopped after iteration {done.iteration}; continue with {resume_command(folder)}", file=sys.stderr)
        return TrainResult(folder, state.params, state.params, None, "", stop[0])
    if done.stopped:
        print(f"{stop_message(done.stopped)}; evaluating iteration {done.best_iteration}", file=sys.stderr)
    net = run.best.restore({"params": experiment.net}, done.best_iteration)[0]["params"]
    bar.end()
    announce("evaluating")
    summary = _finish(run, net, done)
    run_folder.write_metadata(folder, metadata, finished=True)
    bar.close()
    limits = describe_constraints(summary.get("constraints", {}))
    few = hardly_trained(done.iteration) if run.hardly_trained(done) else ""
    text = "\n".join(part for part in (experiment.evaluator.describe(summary), limits, few) if part)
    return TrainResult(folder, net, state.params, summary, text)


def _finish(run: Run, net: Params, done: Done) -> dict[str, Any]:
    """Evaluates; writes summary.json and report.html."""
    experiment, evaluator = run.experiment, run.experiment.evaluator
    steps = done.iteration * run.learner.steps_per_iteration
    training: dict[str, Any] = {
        "env_steps": steps,
        "market_bars": done.iteration * experiment.ppo.paths * experiment.ppo.chunk,
        "seconds": done.seconds,
        "steps_per_second": steps / max(done.seconds, 1e-9),
        "compile_seconds": done.compile_seconds,
        "iterations": done.iteration,
    }
    training |= {
        name: getattr(done, name) for name in ("stopped", "skipped_updates", "halvings") if getattr(done, name)
    }
    if run.hardly_trained(done):
        training["hardly_trained"] = True
    best = {"best_iteration": done.best_iteration, f"best_{evaluator.criterion}": done.best_score}
    summary: dict[str, Any] = {"train": training, "validation": {**best, "evaluations": done.evaluations}}
    rows = run_folder.read_metrics(run.folder)
    limits = constraint_summary(experiment.config, rows)
    summary |= {"constraints": limits} if limits else {}
    summary |= evaluator.finish(net, summary, rows, run.folder)
    curves = summary.pop("curves", None)
    write_json(run.folder / "summary.json", summary)
    report = run.folder / "report.html"
    run.loggers.finish(summary, report if report.exists() else None, curves)
    return summary
