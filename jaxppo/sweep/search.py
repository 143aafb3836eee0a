"""Search over keys that change the program: Optuna draws the values, and each combination is a program of its own.

Reference: Akiba et al. (2019), Optuna: A next-generation hyperparameter optimization framework.
https://arxiv.org/abs/1907.10902
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import pathlib
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxppo.config import Config
from jaxppo.config.sweep import DRAWN_MEMBERS, RangeConfig, Value
from jaxppo.errors import ConfigError
from jaxppo.run.files import write_json
from jaxppo.sweep.members import is_whole, member_config
from jaxppo.sweep.results import mean_score
from jaxppo.walk_forward.job import Agent, Job
from jaxppo.walk_forward.programs import Programs, compile_job
from jaxppo.walk_forward.training import Record, Trained, train_agents

BATCH_KEY = "sweep.batch_size"
DRAWN_AT_RANDOM = 5
"""Combinations that are drawn at random, before scores say where to look."""


class Tried(NamedTuple):
    """A combination of values that was tried, as it is kept in the folder.

    Attributes:
      values: by dotted key.
      agents: one of each seed; none where the values cannot be run.
      steps: environment steps of an iteration of an agent.
      seconds: of training.
      compile_seconds: of compiling.
      problem: why the values cannot be run; empty where they can.
    """

    values: dict[str, Value]
    agents: list[Agent]
    steps: int = 0
    seconds: float = 0.0
    compile_seconds: float = 0.0
    problem: str = ""

    @property
    def score(self) -> float:
        """Mean over seeds of the best score on validation; minus infinity where there is none."""
        return mean_score(self.agents)[0] if self.agents else -math.inf


def import_optuna() -> types.ModuleType:
    """Optuna, without what it says on stderr.

    Raises:
      ConfigError: it is not installed.
    """
    try:
        optuna = importlib.import_module("optuna")
    except ImportError:
        raise ConfigError("sweep.method is optuna, which needs: pip install 'jaxppo[optuna]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class Search:
    """A search in a folder: one combination of values after the other, each with all seeds in one program.

    What Optuna draws depends on the seed of the configuration and on what was tried before: an interrupted search goes
    on to the same values. `search/N.json` keeps what was tried, `checkpoints/combination-N-*` its agents.

    Args:
      config: of the sweep.
      job_of: makes the job of a configuration; raises `ConfigError` where it cannot be run.
      folder: of the sweep.
      devices: to train on.

    Attributes:
      tried: so far, in the order in which they were drawn.
    """

    def __init__(
        self, config: Config, job_of: Callable[[Config], Job], folder: pathlib.Path, devices: Sequence[jax.Device]
    ):
        self._optuna, self._config, self._job_of = import_optuna(), config, job_of
        self._folder, self._devices = folder, devices
        named = config.sweep.parameters or {}
        self._ranges = {key: _distribution(self._optuna, key, of_key) for key, of_key in named.items()}
        self._n = config.sweep.members or DRAWN_MEMBERS
        self._best: tuple[int, Trained] | None = None
        self.tried: list[Tried] = []

    def run(self, record: Record, stop: Sequence[int], progress: bool) -> bool:
        """Tries all combinations; whether it came to the end.

        Args:
          record: called at each evaluation, with agents that bear their values.
          stop: not empty once it is to be interrupted; what is done is kept.
          progress: report progress on stderr.

        Raises:
          ConfigError: nothing that was drawn can be run.
        """
        (self._folder / "search").mkdir(exist_ok=True)
        for number in range(len(self.tried), self._n):
            place, values = self._folder / "search" / f"{number}.json", self._ask(number)
            known = [one for one in self.tried if one.values == values]
            one = _read(place, values) if place.exists() else known[0] if known else None
            if one is None:
                if progress:
                    shown = ", ".join(f"{key} {value}" for key, value in values.items())
                    print(f"combination {number + 1} of {self._n}: {shown}", file=sys.stderr)
                one = self._try(number, values, record, stop, progress)
            if one is None:
                return False
            write_json(place, {**one._asdict(), "agents": [dataclasses.asdict(agent) for agent in one.agents]})
            self.tried.append(one)
        if all(one.problem for one in self.tried):
            raise ConfigError(f"none of the {self._n} combinations that were drawn can be run: {self.tried[0].problem}")
        return True

    def trained(self, number: int) -> Trained:
        """The agents of a combination, from its checkpoints where they were trained before an interruption.

        Args:
          number: of the combination; the first one with its values.
        """
        if self._best is None or self._best[0] != number:
            job, programs = self._compiled(self.tried[number].values)
            again = train_agents(job, programs, lambda *_: None, (), False, name=f"combination-{number}")
            assert again is not None, "nothing interrupts it"
            self._best = number, again
        return self._best[1]

    def _ask(self, number: int) -> dict[str, Value]:
        """The next values, from those that were tried and how they scored."""
        sampler = self._optuna.samplers.TPESampler(seed=self._config.seed + number, n_startup_trials=DRAWN_AT_RANDOM)
        study = self._optuna.create_study(direction="maximize", sampler=sampler)
        for one in self.tried:
            failed = not math.isfinite(one.score)
            told: dict[str, Any] = {"state": self._optuna.trial.TrialState.FAIL} if failed else {"value": one.score}
            trial = self._optuna.trial.create_trial(params=one.values, distributions=self._ranges, **told)
            study.add_trial(trial)
        return dict(study.ask(self._ranges).params)

    def _compiled(self, values: Mapping[str, Value]) -> tuple[Job, Programs]:
        job = self._job_of(member_config(self._config, values, self._config.seed))
        return job, compile_job(job, self._devices, self._config.sweep.batch_size, batch_key=BATCH_KEY)

    def _try(
        self, number: int, values: dict[str, Value], record: Record, stop: Sequence[int], progress: bool
    ) -> Tried | None:
        """Trains the agents of a combination; None if interrupted."""
        try:
            job, programs = self._compiled(values)
        except ConfigError as error:
            print(f"combination {number + 1} cannot be run: {error}", file=sys.stderr)
            return Tried(values, [], problem=str(error))

        def record_values(iteration: int, evaluated: Sequence[tuple[Agent, Any]]) -> None:
            record(iteration, [(_with_values(agent, values), returns) for agent, returns in evaluated])

        trained = train_agents(job, programs, record_values, stop, progress, name=f"combination-{number}")
        if trained is None:
            return None
        agents = [_with_values(agent, values) for agent in trained.agents]
        one = Tried(values, agents, job.steps, trained.seconds, programs.compile_seconds)
        if self._best is None or one.score > self.tried[self._best[0]].score:
            self._best = number, trained
        return one


def _with_values(agent: Agent, values: Mapping[str, Value]) -> Agent:
    return dataclasses.replace(agent, values=dict(values))


def _read(place: pathlib.Path, values: Mapping[str, Value]) -> Tried:
    """What was tried before an interruption.

    Raises:
      ConfigError: the file is damaged, or of other values.
    """
    try:
        content = json.loads(place.read_text(encoding="utf-8"))
        found = Tried(**{**content, "agents": [Agent.restored(fields) for fields in content["agents"]]})
        sound = found.values == values and all(agent.values == values for agent in found.agents)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{place} is damaged: {error}") from None
    if not sound:
        raise ConfigError(f"{place} is damaged, or of another sweep: its values are {found.values}, not {dict(values)}")
    return found


def _distribution(optuna: Any, key: str, of_key: RangeConfig) -> Any:
    """The range of a key in Optuna's terms."""
    kinds, whole = optuna.distributions, is_whole(key)
    if of_key.values is not None:
        return kinds.CategoricalDistribution([int(x) if whole else x for x in of_key.values])
    low, high = of_key.log or of_key.linear or (0.0, 0.0)
    if whole:
        return kinds.IntDistribution(math.ceil(low), math.floor(high), log=of_key.log is not None)
    return kinds.FloatDistribution(low, high, log=of_key.log is not None)
