"""The host loop: iterate, log, evaluate on validation, checkpoint, stop; then evaluate once on the test period."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import sys
import time
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.config import Config
from jaxppo.envs.data.load import format_report
from jaxppo.envs.market.check import check_market
from jaxppo.envs.market.market_data import MarketData
from jaxppo.errors import ConfigError
from jaxppo.policy.networks.actor_critic import Params
from jaxppo.ppo.learner import Learner, TrainState, data_mesh, make_learner
from jaxppo.run import folder as run_folder
from jaxppo.run.build import build
from jaxppo.run.checkpoints import Checkpoints
from jaxppo.run.data import GIVEN_IN_PYTHON, load_data
from jaxppo.run.devices import select_devices
from jaxppo.run.files import write_json
from jaxppo.run.lock import owned
from jaxppo.run.objectives import constraint_summary, describe_constraints
from jaxppo.run.setup import TRADING, as_started, step_budget
from jaxppo.training.evaluator import backtest_evaluator
from jaxppo.training.experiment import Experiment, MakeEvaluator, trading_experiment
from jaxppo.training.gymnax_experiment import episode_evaluator, gymnax_experiment
from jaxppo.training.interrupts import stop_requested
from jaxppo.training.loggers import MetricsLog, Progress, check_metrics
from jaxppo.training.monitor import divergence, not_finite, still_stops, stop_in, stop_message


@dataclasses.dataclass(frozen=True, repr=False)
class TrainResult:
    """Outcome of `train`.

    Attributes:
      folder: the run folder.
      params: network parameters of the checkpoint that was best on validation.
      last_params: network parameters after the last iteration.
      summary: content of summary.json; None if training was stopped early by a signal.
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


@dataclasses.dataclass
class _Done:
    """What is done so far, saved on the host side of every checkpoint.

    Attributes:
      iteration: iterations done.
      seconds: wall time in iterations alone, without compilation and evaluation.
      compile_seconds: wall time of compiling the iteration.
      elapsed: whole wall time since `train` was called, over all resumes; what a budget in minutes counts.
      best_score: highest validation score so far, None before the first evaluation.
      best_iteration: iteration of that score.
      evaluations: evaluations on validation.
      stopped: the limit whose breach ended training: its name, what it allows, the level and the iteration.
    """

    iteration: int = 0
    seconds: float = 0.0
    compile_seconds: float = 0.0
    elapsed: float = 0.0
    best_score: float | None = None
    best_iteration: int = 0
    evaluations: int = 0
    stopped: dict[str, Any] | None = None

    @classmethod
    def restored(cls, host: dict[str, Any]) -> _Done:
        """From a checkpoint; older ones call the evaluations looks.

        Raises:
          ConfigError: it is not what a checkpoint of this version holds.
        """
        try:
            done = cls(**{"evaluations" if name == "looks" else name: value for name, value in host.items()})
            counts = (done.iteration, done.best_iteration, done.evaluations)
            times = (done.seconds, done.compile_seconds, done.elapsed)
            sound = all(type(count) is int and count >= 0 for count in counts) and done.iteration > 0
            sound &= all(isinstance(time, (int, float)) and 0 <= time < math.inf for time in times)
            sound &= done.best_iteration <= done.iteration
            sound &= done.best_score is None or math.isfinite(done.best_score)
            sound &= done.stopped is None or {"limit", "allowed", "level", "iteration"} <= done.stopped.keys()
        except (TypeError, AttributeError) as error:
            raise ConfigError(f"the state of the last checkpoint is damaged, or of a newer version: {error}") from None
        if not sound:
            raise ConfigError(f"the state of the last checkpoint is damaged: {str(host)[:200]}")
        return done


@dataclasses.dataclass(frozen=True)
class _Run:
    """What stays the same from the first iteration to the last.

    Attributes:
      experiment: what is trained.
      learner: the compiled iteration.
      folder: the run folder.
      last: checkpoints of the whole state.
      best: parameters that were best on validation.
      started: clock at the start of the run, as if it had never been interrupted, seconds.
    """

    experiment: Experiment
    learner: Learner
    folder: pathlib.Path
    last: Checkpoints
    best: Checkpoints
    started: float

    @property
    def elapsed(self) -> float:
        """Wall time of the run so far, seconds."""
        return time.monotonic() - self.started

    def spent(self, done: _Done) -> float:
        """Share of the budget that is used up."""
        minutes, steps = self.experiment.config.training.minutes, step_budget(self.experiment.config)
        if steps is not None:
            return done.iteration * self.learner.steps_per_iteration / steps
        assert minutes is not None, "a configuration has a budget"
        return done.elapsed / (60.0 * minutes)

    def finished(self, done: _Done) -> bool:
        """Whether nothing is left to train: a policy was selected, and the budget is spent or a limit has ended it."""
        return done.evaluations > 0 and (done.stopped is not None or self.spent(done) >= 1.0)


def train(
    config: Config,
    *,
    output: str | pathlib.Path | None = None,
    name: str = "run",
    resume: bool = False,
    market: MarketData | None = None,
    progress: bool = True,
    evaluator: MakeEvaluator | None = None,
) -> TrainResult:
    """Trains, validates, and evaluates once on the test period.

    At least one iteration is trained, whatever the budget. The first Ctrl-C or SIGTERM saves after the running one. A
    monitored limit that says `stop` ends training after the iteration in which an account breached it; the best policy
    so far is then evaluated.

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

    Raises:
      ConfigError: the configuration cannot be run, `output` does not allow it, or training diverges.
      envs.DataError: the prices cannot be used.
    """
    began = time.monotonic()
    if market is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"path": GIVEN_IN_PYTHON})})
    resumed = None
    if not resume:
        run_folder.check_output(output)
    elif output is None:
        raise ConfigError("--resume needs --output: the folder of the run to continue")
    else:
        resumed, saved = run_folder.open_folder(output)
        config = as_started(config, saved)
        run_folder.check_same_run(saved, config)
    with jax.default_device(select_devices(config)[0]):
        if config.env.name == TRADING:
            market = load_data(config, resumed) if market is None else check_market(market)
            experiment = trading_experiment(build(config, market), evaluator or backtest_evaluator)
        else:
            market, experiment = None, gymnax_experiment(config, evaluator or episode_evaluator)
        if resumed is not None and not run_folder.just_begun(resumed):
            run_folder.check_same_data(resumed, experiment.data)
        folder = run_folder.make_folder(output, name) if resumed is None else resumed
        with owned(folder, empty=resumed is None):
            run, state, done = _start(experiment, folder, resumed is not None, began)
            try:
                return _train(run, state, done, market, progress)
            finally:
                run.last.close()
                run.best.close()


def _start(experiment: Experiment, folder: pathlib.Path, resumed: bool, began: float) -> tuple[_Run, TrainState, _Done]:
    """Builds the state, or restores that of the folder, which is not touched before that has worked."""
    learner = make_learner(experiment.task, experiment.ppo, data_mesh(experiment.devices), experiment.risk)
    state, done = learner.init(experiment.net, experiment.config.seed, experiment.params), _Done()
    last, best = Checkpoints(folder / "checkpoints" / "last", 2), Checkpoints(folder / "checkpoints" / "best", 2)
    run_folder.read_metrics(folder)
    if resumed and last.latest is not None:
        arrays, host = last.restore_newest(state)
        digest = host.pop("metrics", None)
        state, done = learner.place(arrays), _Done.restored(host)
        check_metrics(folder, done.iteration, digest)
        if best.holds(done.best_iteration):
            best.restore({"params": experiment.net}, done.best_iteration)
        if done.stopped and not still_stops(experiment.monitor, done.stopped):
            done.stopped = None
    # What was saved as best after the last checkpoint belongs to iterations that are done again.
    best.discard_after(done.best_iteration)
    run_folder.write_config(folder, experiment.config)
    return _Run(experiment, learner, folder, last, best, began - done.elapsed), state, done


def _train(run: _Run, state: TrainState, done: _Done, market: MarketData | None, progress: bool) -> TrainResult:
    """Runs the loop, then evaluates once on what was never trained or selected on."""
    experiment, folder = run.experiment, run.folder
    metadata = run_folder.provenance(experiment.config, experiment.data, experiment.devices)
    run_folder.write_metadata(folder, {**metadata, "wall_seconds": done.elapsed}, finished=False)
    if progress and market is not None and market.info.report:
        print(format_report(market.info.report), file=sys.stderr)
    with stop_requested() as stop:
        state, done = _loop(run, state, done, stop, progress)
    metadata["wall_seconds"] = done.elapsed
    run_folder.write_metadata(folder, metadata, finished=False)
    if stop:
        print(f"stopped after iteration {done.iteration}; continue with --resume --output {folder}", file=sys.stderr)
        return TrainResult(folder, state.params, state.params, None, "", stop[0])
    if done.stopped:
        print(f"{stop_message(done.stopped)}; evaluating iteration {done.best_iteration}", file=sys.stderr)
    net = run.best.restore({"params": experiment.net}, done.best_iteration)[0]["params"]
    summary = _finish(run, net, done)
    run_folder.write_metadata(folder, metadata, finished=True)
    limits = describe_constraints(summary.get("constraints", {}))
    text = "\n".join(part for part in (experiment.evaluator.describe(summary), limits) if part)
    return TrainResult(folder, net, state.params, summary, text)


def _finish(run: _Run, net: Params, done: _Done) -> dict[str, Any]:
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
    if done.stopped:
        training["stopped"] = done.stopped
    best = {"best_iteration": done.best_iteration, f"best_{evaluator.criterion}": done.best_score}
    summary: dict[str, Any] = {"train": training, "validation": {**best, "evaluations": done.evaluations}}
    rows = run_folder.read_metrics(run.folder)
    limits = constraint_summary(experiment.config, rows)
    summary |= {"constraints": limits} if limits else {}
    summary |= evaluator.finish(net, summary, rows, run.folder)
    write_json(run.folder / "summary.json", summary)
    return summary


def _loop(run: _Run, state: TrainState, done: _Done, stop: list[int], show: bool) -> tuple[TrainState, _Done]:
    """Iterates until the budget is spent, or a signal or a limit says stop; leaves a checkpoint of its last state."""
    experiment, cadence = run.experiment, run.experiment.config.training
    params = run.learner.replicate(experiment.params)
    log = MetricsLog(run.folder, done.iteration)
    bar = Progress(step_budget(experiment.config), cadence.minutes, show)
    iterate = _compile(run, state, params, done)
    shown: dict[str, str] = {}
    infeasible: set[str] = set()
    try:
        while not stop and not run.finished(done):
            spent = run.spent(done) if done.iteration else 0.0
            started = time.monotonic()
            state, metrics = iterate(state, params, jnp.float32(spent))
            row = {name: float(value) for name, value in jax.device_get(metrics).items()}
            took = time.monotonic() - started
            done.iteration, done.seconds, done.elapsed = done.iteration + 1, done.seconds + took, run.elapsed
            row |= experiment.derive(row)
            finite = all(map(math.isfinite, row.values()))
            found = stop_in(experiment.monitor, row)
            done.stopped = {**found, "iteration": done.iteration} if found else None
            # A limit may stop the run before the first evaluation is due: without one there is nothing to return.
            due = done.iteration % cadence.evaluate_every == 0 or (found and done.evaluations == 0)
            if finite and (due or run.spent(done) >= 1.0):
                row |= _validate(run, state, done)
                done.elapsed = run.elapsed
            env_steps = done.iteration * run.learner.steps_per_iteration
            speed = run.learner.steps_per_iteration / max(took, 1e-9)
            log.write({"iteration": done.iteration, "env_steps": env_steps, "steps_per_second": speed, **row})
            _check_finite(run, done, row)
            if done.iteration % cadence.checkpoint_every == 0 or done.iteration == done.best_iteration:
                run.last.save(done.iteration, state, _host(done, log))
            _report_infeasible(row, infeasible)
            shown |= {"steps/s": f"{speed:,.0f}", **experiment.show(row)}
            bar.update(env_steps, done.elapsed, **{name: text for name, text in shown.items() if text})
        if done.iteration and run.last.latest != done.iteration:
            run.last.save(done.iteration, state, _host(done, log))
    finally:
        bar.close()
        log.close()
    done.elapsed = run.elapsed
    return state, done


def _host(done: _Done, log: MetricsLog) -> dict[str, Any]:
    """What a checkpoint keeps beside the arrays; the rows of the log up to it are on the disk before it is."""
    return {**dataclasses.asdict(done), "metrics": log.sync()}


def _compile(run: _Run, state: TrainState, params: Any, done: _Done) -> Any:
    """Compiles the iteration ahead of time, so that its cost is known, unless there is nothing left to train."""
    if run.finished(done):
        return run.learner.iterate
    started, iterate = time.monotonic(), cast(Any, run.learner.iterate)
    compiled = iterate.lower(state, params, jnp.float32(0.0)).compile()
    done.compile_seconds += time.monotonic() - started
    return compiled


def _validate(run: _Run, state: TrainState, done: _Done) -> dict[str, float]:
    """Scores the current policy on validation and keeps it if it is the best so far."""
    evaluator, net = run.experiment.evaluator, jax.device_get(state.params)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(net)):
        return {f"validation_{evaluator.criterion}": math.nan}
    score = evaluator.score(net, run.folder, done.iteration)
    reached = score[evaluator.criterion]
    done.evaluations += 1
    # A tie goes to the later network: it has trained longer, and accounts that never trade all score 0.
    if done.best_score is None or reached >= done.best_score:
        done.best_score, done.best_iteration = reached, done.iteration
        run.best.save(done.iteration, {"params": net}, {"iteration": done.iteration, **score})
    return {f"validation_{name}": value for name, value in score.items()}


def _report_infeasible(row: dict[str, float], known: set[str]) -> None:
    """Reports on stderr every constraint that has become infeasible, once: `known` holds those that were reported."""
    found = {name for name, value in row.items() if name.endswith("_infeasible") and value}
    for name in sorted(found - known):
        constraint = name.removesuffix("_infeasible")
        print(
            f"{constraint.replace('_', ' ', 1)} is infeasible so far: {row[constraint]:.4g}, above its limit with the "
            "multiplier at its maximum",
            file=sys.stderr,
        )
    known |= found


def _check_finite(run: _Run, done: _Done, row: dict[str, float]) -> None:
    """Ends a diverged run; its checkpoints are from before that.

    Raises:
      ConfigError: one of this iteration's metrics, or the network, is not finite.
    """
    found = not_finite(row)
    if found:
        raise divergence(f"iteration {done.iteration}", found, run.experiment.ppo.learning_rate)
