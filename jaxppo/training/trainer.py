"""The host loop: iterate, log, evaluate on validation, checkpoint, stop; then the one look at the test period."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from envs.market import MarketData
from jaxppo.config import Config
from jaxppo.networks.policy import Params, Policy, make_policy
from jaxppo.ppo.learner import Learner, TrainState, data_mesh, make_learner
from jaxppo.training import run_folder
from jaxppo.training.checkpoints import Checkpoints
from jaxppo.backtest.evaluation import evaluate, quick_score, report
from jaxppo.training.loggers import MetricsLog, Progress
from jaxppo.training.setup import Setup, build, load_data, step_budget


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """Outcome of `train`.

    Attributes:
      folder: the run folder.
      params: network parameters of the checkpoint that was best on validation.
      last_params: network parameters after the last iteration.
      summary: content of summary.json; None if training was stopped early by a signal.
    """

    folder: pathlib.Path
    params: Params
    last_params: Params
    summary: dict[str, Any] | None


@dataclasses.dataclass
class _Progressed:
    """Host-side progress, saved with every checkpoint.

    `seconds` excludes compilation, `elapsed` is the whole wall time and what a budget in minutes counts.
    """

    iteration: int = 0
    seconds: float = 0.0
    compile_seconds: float = 0.0
    elapsed: float = 0.0
    best_score: float | None = None
    best_iteration: int = 0
    looks: int = 0


def train(
    config: Config,
    *,
    output: str | pathlib.Path | None = None,
    name: str = "run",
    resume: bool = False,
    market: MarketData | None = None,
    progress: bool = True,
) -> TrainResult:
    """Trains, validates, and evaluates once on the test period.

    Args:
      config: the run.
      output: run folder; default `runs/NAME`, numbered so that nothing is overwritten.
      name: NAME of the default folder.
      resume: continue the run in `output` from its last checkpoint, to the same parameters as an uninterrupted run.
      market: prices to use instead of `config.data.path`.
      progress: show a progress bar on stderr.

    Raises:
      ConfigError: the configuration cannot be run, or `output` does not allow it.
      envs.DataError: the prices cannot be used.
    """
    if resume:
        if output is None:
            raise run_folder.ConfigError("--resume needs --output: the folder of the run to continue")
        folder, saved = run_folder.open_folder(output)
        run_folder.check_same_run(saved, config)
    market = load_data(config) if market is None else market
    setup = build(config, market)
    if not resume:
        folder = run_folder.choose_folder(output, name)
    run_folder.write_config(folder, config)
    metadata = run_folder.provenance(config, market.info.report, setup.devices)
    run_folder.write_json(folder / "metadata.json", metadata)

    policy, net = make_policy(setup.encoder, setup.action, jax.random.key(config.seed))
    learner = make_learner(policy, setup.env, setup.ppo, data_mesh(setup.devices))
    state = learner.init(net, config.seed, setup.period_params("train"))
    last, best = Checkpoints(folder / "checkpoints" / "last", 2), Checkpoints(folder / "checkpoints" / "best", 1)
    done = _Progressed()
    if resume and last.latest is not None:
        arrays, host = last.restore(state)
        state, done = learner.place(arrays), _Progressed(**host)
    try:
        with _stop_requested() as stop:
            state, done = _loop(setup, policy, learner, state, done, folder, last, best, stop, progress)
        if stop:
            print(f"stopped after iteration {done.iteration}; continue with --resume --output {folder}", file=sys.stderr)
            return TrainResult(folder, state.params, state.params, None)
        net, _ = best.restore({"params": state.params})
        summary = finish(setup, policy, net["params"], learner, done, folder)
        run_folder.write_json(folder / "metadata.json", {**metadata, "wall_seconds": done.elapsed})
        return TrainResult(folder, net["params"], state.params, summary)
    finally:
        last.close()
        best.close()


def finish(
    setup: Setup, policy: Policy, net: Params, learner: Learner, done: _Progressed, folder: pathlib.Path
) -> dict[str, Any]:
    """Evaluates on the test period; writes summary.json and report.html."""
    result = evaluate(setup, policy, net)
    steps = done.iteration * learner.steps_per_iteration
    training = {
        "env_steps": steps,
        "market_bars": done.iteration * setup.ppo.paths * setup.ppo.chunk,
        "seconds": done.seconds,
        "steps_per_second": steps / max(done.seconds, 1e-9),
        "compile_seconds": done.compile_seconds,
        "iterations": done.iteration,
    }
    validation = {"best_iteration": done.best_iteration, "best_sharpe": done.best_score, "looks": done.looks}
    summary = {"train": training, "validation": validation, "out_of_sample": result.summary}
    run_folder.write_json(folder / "summary.json", summary)
    rows = run_folder.read_metrics(folder)
    report(setup, result, rows, run_folder.read_yaml_text(folder), folder / "report.html")
    return summary


def _loop(
    setup: Setup,
    policy: Policy,
    learner: Learner,
    state: TrainState,
    done: _Progressed,
    folder: pathlib.Path,
    last: Checkpoints,
    best: Checkpoints,
    stop: list[int],
    show: bool,
) -> tuple[TrainState, _Progressed]:
    """Iterates until the budget is spent or a signal asks to stop; leaves a checkpoint of its last state either way."""
    cadence, minutes, steps = setup.config.training, setup.config.training.minutes, step_budget(setup.config)
    params = learner.replicate(setup.period_params("train"))
    log, bar = MetricsLog(folder, done.iteration), Progress(steps, minutes, show)
    began, shown, compiled = time.monotonic() - done.elapsed, {}, False
    try:
        while not stop and (spent := _spent(done, learner, steps, minutes)) < 1.0:
            started = time.monotonic()
            state, metrics = learner.iterate(state, params, jnp.float32(spent))
            row = {name: float(value) for name, value in jax.device_get(metrics).items()}
            took = time.monotonic() - started
            done.iteration += 1
            if compiled:
                done.seconds += took
            else:
                done.compile_seconds, compiled = done.compile_seconds + took, True
            annual = setup.periods_per_year
            row["sharpe"] = row["reward"] / max(row["reward_std"], 1e-12) * annual**0.5
            finished = _spent(done, learner, steps, minutes) >= 1.0
            if done.iteration % cadence.evaluate_every == 0 or finished or stop:
                row |= _validate(setup, policy, state, done, best)
            done.elapsed = time.monotonic() - began
            if done.iteration % cadence.checkpoint_every == 0 or finished or stop:
                last.save(done.iteration, state, dataclasses.asdict(done))
            env_steps = done.iteration * learner.steps_per_iteration
            speed = learner.steps_per_iteration / took
            log.write({"iteration": done.iteration, "env_steps": env_steps, "steps_per_second": speed, **row})
            shown |= {"steps/s": f"{speed:,.0f}", "return": f"{row['reward'] * annual:+.1%}/y"}
            shown |= {"sharpe": f"{row['sharpe']:+.2f}"}
            if "validation_sharpe" in row:
                shown["validation"] = f"{row['validation_sharpe']:+.2f}"
            bar.update(env_steps, done.elapsed, **shown)
        done.elapsed = time.monotonic() - began
        if done.iteration and last.latest != done.iteration:
            last.save(done.iteration, state, dataclasses.asdict(done))
    finally:
        bar.close()
        log.close()
    return state, done


def _validate(
    setup: Setup, policy: Policy, state: TrainState, done: _Progressed, best: Checkpoints
) -> dict[str, float]:
    """Scores the current policy on the validation period and keeps it if it is the best so far."""
    net = jax.device_get(state.params)
    score = quick_score(setup, policy, net, "validation")
    done.looks += 1
    if done.best_score is None or score["sharpe"] > done.best_score:
        done.best_score, done.best_iteration = score["sharpe"], done.iteration
        best.save(done.iteration, {"params": net}, {"iteration": done.iteration, **score})
    return {f"validation_{name}": value for name, value in score.items()}


def _spent(done: _Progressed, learner: Learner, steps: int | None, minutes: float | None) -> float:
    """Share of the budget that is used up."""
    if steps is not None:
        return done.iteration * learner.steps_per_iteration / steps
    return done.elapsed / (60.0 * minutes)


@contextlib.contextmanager
def _stop_requested() -> Iterator[list[int]]:
    """A list that gets the signal's number on the first SIGINT or SIGTERM; the second one acts as usual."""
    received: list[int] = []
    previous: dict[int, Any] = {}

    def handle(number: int, frame: Any) -> None:
        received.append(number)
        for known, handler in previous.items():
            signal.signal(known, handler)

    with contextlib.suppress(ValueError):  # only the main thread can catch signals
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, handle)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
