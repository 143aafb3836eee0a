"""The iterations of a run: call the program, log, evaluate on validation, save checkpoints, stop."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import jax

from jaxppo.ppo.iteration import TrainState
from jaxppo.run.memory import check_fits, memory_needed
from jaxppo.run.profile import profiled
from jaxppo.run.progress import Progress, announce
from jaxppo.training.calls import arguments, next_call
from jaxppo.training.fitting import SMALLER
from jaxppo.training.loggers import MetricsLog
from jaxppo.training.monitor import stop_in
from jaxppo.training.recovery import check_iteration
from jaxppo.training.run_state import Done, Run
from jaxppo.training.validation import report_infeasible, validate


def train_until_spent(
    run: Run, state: TrainState, done: Done, stop: list[int], bar: Progress
) -> tuple[TrainState, Done]:
    """Iterates until the budget is spent, or a signal or a limit says stop; leaves a checkpoint of its last state.

    Args:
      run: what is trained.
      state: of training.
      done: what is done so far, which is changed.
      stop: numbers of the signals that came.
      bar: of the progress.

    Raises:
      LostIteration: nothing can be learned from one.
    """
    params = run.learner.replicate(run.experiment.params)
    log = MetricsLog(run.folder, done.iteration)
    announce("compiling")
    if run.traced is not None:
        run.group.tell("compile", halvings=done.halvings, micro_batch=run.experiment.ppo.micro_batch)
    compiled = _compile(run, done)
    iterate = profiled(compiled, run.folder)
    shown: dict[str, str] = {}
    infeasible: set[str] = set()
    took: float | None = None
    announce("training")
    try:
        while not stop and not run.finished(done):
            spent = next_call(run, done, took if iterate is compiled else None)  # a profile is of one at a time
            started = time.monotonic()
            run.group.tell("iterate", spent=spent)
            state, rows, number = iterate(state, params, *arguments(spent))
            rows = jax.device_get(rows)[: int(number)]
            took = (time.monotonic() - started) / len(rows)
            for number, row in enumerate(rows, 1):
                figures = dict(zip(run.metrics, row.tolist(), strict=True))
                shown |= _after_iteration(run, state if number == len(rows) else None, done, figures, took, log)
                report_infeasible(figures, infeasible)
                steps = done.iteration * run.learner.steps_per_iteration
                bar.update(steps, done.seconds, **{name: text for name, text in shown.items() if text})
        if done.iteration and run.last.latest != done.iteration:
            _save(run, state, done, log)
    finally:
        log.close()
    done.elapsed = run.elapsed
    return state, done


def _after_iteration(
    run: Run, state: TrainState | None, done: Done, row: dict[str, float], took: float, log: MetricsLog
) -> dict[str, str]:
    """Logs an iteration; after the last one of a call, evaluates and saves where that is due.

    Args:
      run: what is trained.
      state: after the iteration; None within a call, which may use up a budget in minutes before it ends.
      done: what is done so far, which is changed.
      row: figures of the iteration, to which others are added.
      took: seconds of it.
      log: where it is written.

    Returns:
      Texts for the bar.
    """
    experiment, cadence, shown = run.experiment, run.experiment.config.training, {}
    done.iteration, done.seconds, done.elapsed = done.iteration + 1, done.seconds + took, run.elapsed
    row |= experiment.derive(row)
    if skipped := row.pop("skipped_updates"):
        done.skipped_updates += int(skipped)
        row["skipped_updates"], shown["skipped"] = skipped, f"{done.skipped_updates:,}"
    finite = all(map(math.isfinite, row.values()))
    found = stop_in(experiment.monitor, row)
    done.stopped = {**found, "iteration": done.iteration} if found else None
    # A limit may stop the run before the first evaluation is due: without one there is nothing to return.
    due = done.iteration % cadence.evaluate_every == 0 or (found and done.evaluations == 0)
    if finite and state is not None and (due or run.spent(done) >= 1.0):
        announce("evaluating")
        row |= validate(run, state, done)
        announce("training")
        done.elapsed = run.elapsed
    speed = run.learner.steps_per_iteration / max(took, 1e-9)
    steps = done.iteration * run.learner.steps_per_iteration
    entry = {"iteration": done.iteration, "env_steps": steps, "steps_per_second": speed, **row}
    log.write(entry)
    run.loggers.write(entry)
    check_iteration(done.iteration, row, skipped, experiment.ppo)
    if state is not None and (done.iteration % cadence.checkpoint_every == 0 or done.iteration == done.best_iteration):
        _save(run, state, done, log)
    return shown | {"steps/s": f"{speed:,.0f}", **experiment.show(row)}


def _save(run: Run, state: TrainState, done: Done, log: MetricsLog) -> None:
    """Saves a checkpoint of the whole state; the rows of the log up to it are on the disk before it is."""
    run.group.tell("save")
    run.last.save(done.iteration, run.group.gather(state), {**dataclasses.asdict(done), "metrics": log.sync()})


def _compile(run: Run, done: Done) -> Any:
    """Compiles the iteration ahead of time, so that its cost is known, unless there is nothing left to train."""
    if run.traced is None:
        return run.learner.iterate
    started = time.monotonic()
    compiled = run.traced.lower().compile()
    check_fits(memory_needed(compiled), "an iteration", SMALLER, run.experiment.devices)
    done.compile_seconds += time.monotonic() - started
    return compiled
