"""What the host loop carries: what is done so far, and what stays the same from the first iteration to the last."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from typing import Any

from jaxppo.errors import ConfigError
from jaxppo.ppo.learner import Learner
from jaxppo.run.checkpoints import Checkpoints
from jaxppo.run.processes import Group
from jaxppo.run.setup import step_budget
from jaxppo.tracking import Loggers
from jaxppo.training.experiment import Experiment

FEWEST_ITERATIONS = 10
"""A run of fewer iterations was hardly trained, and so was one of fewer than two intervals between evaluations."""


@dataclasses.dataclass
class Done:
    """What is done so far, saved on the host side of every checkpoint.

    Attributes:
      iteration: iterations done.
      seconds: wall time in iterations alone, without compilation and evaluation; what a budget in minutes counts.
      compile_seconds: wall time of compiling the iteration.
      elapsed: whole wall time since `train` was called, over all resumes.
      best_score: highest validation score so far, None before the first evaluation.
      best_iteration: iteration of that score.
      evaluations: evaluations on validation.
      stopped: the limit whose breach ended training: its name, what it allows, the level and the iteration.
      skipped_updates: updates that were left out, since their loss or gradient was not finite.
      halvings: how often training went back to a checkpoint with half the step.
    """

    iteration: int = 0
    seconds: float = 0.0
    compile_seconds: float = 0.0
    elapsed: float = 0.0
    best_score: float | None = None
    best_iteration: int = 0
    evaluations: int = 0
    stopped: dict[str, Any] | None = None
    skipped_updates: int = 0
    halvings: int = 0

    @classmethod
    def restored(cls, host: dict[str, Any]) -> Done:
        """From a checkpoint; older ones call the evaluations looks.

        Raises:
          ConfigError: it is not what a checkpoint of this version holds.
        """
        try:
            done = cls(**{"evaluations" if name == "looks" else name: value for name, value in host.items()})
            counts = (done.iteration, done.best_iteration, done.evaluations, done.skipped_updates, done.halvings)
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
class Run:
    """What stays the same from the first iteration to the last.

    Attributes:
      experiment: what is trained.
      learner: the compiled iteration.
      folder: the run folder.
      last: checkpoints of the whole state.
      best: parameters that were best on validation.
      started: clock at the start of the run, as if it had never been interrupted, seconds.
      traced: program of iterations, to be compiled, see `jaxppo.training.calls`; None where nothing is left to train.
      metrics: names of the figures of an iteration.
      loggers: where it is recorded beside its folder.
      group: the processes that train it.
    """

    experiment: Experiment
    learner: Learner
    folder: pathlib.Path
    last: Checkpoints
    best: Checkpoints
    started: float
    traced: Any = None
    metrics: tuple[str, ...] = ()
    loggers: Loggers = dataclasses.field(default_factory=Loggers)
    group: Group = dataclasses.field(default_factory=Group)

    @property
    def elapsed(self) -> float:
        """Wall time of the run so far, seconds."""
        return time.monotonic() - self.started

    def spent(self, done: Done, more: int = 0, seconds: float = 0.0) -> float:
        """Share of the budget that is used up; of two budgets, of the one that ends first.

        Args:
          done: what is done so far.
          more: iterations after that.
          seconds: that each of them takes.
        """
        minutes, steps = self.experiment.config.training.minutes, step_budget(self.experiment.config)
        by_steps = 0.0 if steps is None else (done.iteration + more) * self.learner.steps_per_iteration / steps
        return by_steps if minutes is None else max(by_steps, (done.seconds + more * seconds) / (60.0 * minutes))

    def hardly_trained(self, done: Done) -> bool:
        """Whether too few iterations were trained to choose among policies, or to judge the one that was."""
        return done.iteration < max(FEWEST_ITERATIONS, 2 * self.experiment.config.training.evaluate_every)

    def finished(self, done: Done) -> bool:
        """Whether nothing is left to train: a policy was selected, and the budget is spent or a limit has ended it."""
        return done.evaluations > 0 and (done.stopped is not None or self.spent(done) >= 1.0)
