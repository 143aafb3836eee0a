"""Successive halving: many combinations for a part of the budget, of which the better ones are trained on.

Reference: Jamieson and Talwalkar (2016), Non-stochastic best arm identification and hyperparameter optimization.
https://arxiv.org/abs/1502.07943
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxppo.config.sweep import KEPT, RUNGS, SweepConfig
from jaxppo.errors import ConfigError
from jaxppo.sweep.results import mean_score
from jaxppo.walk_forward.job import Agent, Job
from jaxppo.walk_forward.programs import Programs
from jaxppo.walk_forward.training import Record, Trained, train_agents

DROPPED = "halving"
"""What ended the training of an agent whose values were not trained on."""


def make_rungs(keys: SweepConfig, n: int, n_iterations: int, every: int) -> list[tuple[int, int]]:
    """The rungs: iterations after which combinations are compared, and how many take part; the last one is the end.

    The budgets grow by `1 / keep` from rung to rung, in whole evaluations.

    Example:
      >>> make_rungs(SweepConfig(method="halving", rungs=3, keep=0.5), 8, 40, 5)
      [(10, 8), (20, 4), (40, 2)]

    Args:
      keys: `rungs` and `keep`.
      n: combinations.
      n_iterations: of the whole budget.
      every: iterations from one evaluation to the next.

    Raises:
      ConfigError: two rungs would end at the same evaluation.
    """
    n_rungs, keep = keys.rungs or RUNGS, keys.keep or KEPT
    n_evaluations = math.ceil(n_iterations / every)
    ends = [max(1, round(n_evaluations * keep ** (n_rungs - 1 - rung))) for rung in range(n_rungs)]
    if len(set(ends)) < n_rungs:
        raise ConfigError(
            f"sweep.rungs is {n_rungs} with sweep.keep {keep:g}, but training has {n_evaluations} evaluation(s): set "
            "fewer rungs, more training.steps or a smaller training.evaluate_every"
        )
    sizes = [n]
    for _ in ends[1:]:
        sizes.append(max(1, math.ceil(sizes[-1] * keep)))
    return [(min(end * every, n_iterations), size) for end, size in zip(ends, sizes, strict=True)]


def train_by_halving(
    job: Job,
    programs: Programs,
    compile_part: Callable[[Job], Programs],
    record: Record,
    stop: Sequence[int],
    progress: bool,
) -> Trained | None:
    """Trains all combinations to the first rung, the better part of them to the next, and so on to the end.

    States go on from rung to rung, so that what is trained to the end is what a run of its own would be.

    Args:
      job: of all combinations; `setup.config.sweep` has the rungs.
      programs: for the agents of the first rung.
      compile_part: makes the programs of the agents that go on.
      record: see `train_agents`.
      stop: see `train_agents`.
      progress: see `train_agents`.

    Returns:
      All agents: those that did not go on as they were at their last rung; None if interrupted.
    """
    n_seeds, alive = len(job.seeds), list(range(len(job.values)))
    every = job.setup.config.training.evaluate_every
    rungs = make_rungs(job.setup.config.sweep, len(alive), job.n_iterations, min(every, job.n_iterations))
    whole, begun = None, None
    for number, (until, size) in enumerate(rungs):
        alive = _best(alive, begun.agents if begun else [], n_seeds, size)
        places = [combination * n_seeds + seed for combination in alive for seed in range(n_seeds)]
        if begun is not None and whole is not None:
            for place in set(range(len(job.agents))) - set(places):
                whole.agents[place].stopped = whole.agents[place].stopped or _dropped(whole.agents[place])
            begun = whole.at(places)
        part = dataclasses.replace(job, values=tuple(job.values[i] for i in alive), until=until)
        used = programs if number == 0 else compile_part(part)
        trained = train_agents(part, used, record, stop, progress, begun=begun, name=f"rung-{number}")
        if trained is None:
            return None
        whole = trained if whole is None else _merged(whole, places, trained)
        begun = trained
    return whole


def _best(alive: list[int], agents: Sequence[Agent], n_seeds: int, n: int) -> list[int]:
    """The `n` best of the combinations, in their order; `agents` are theirs, all seeds of one side by side.

    Those with an agent that cannot be trained on come last.
    """
    if not agents:
        return alive
    scores = [mean_score(agents[i * n_seeds : (i + 1) * n_seeds]) for i in range(len(alive))]
    trains = [all(not agent.stopped for agent in agents[i * n_seeds : (i + 1) * n_seeds]) for i in range(len(alive))]
    ranked = sorted(range(len(alive)), key=lambda i: (trains[i], scores[i]), reverse=True)
    return [alive[i] for i in sorted(ranked[:n])]


def _dropped(agent: Agent) -> dict[str, Any]:
    return {"limit": DROPPED, "iteration": agent.iterations}


def _merged(whole: Trained, places: Sequence[int], part: Trained) -> Trained:
    """All agents, with those at some places as they are in a part."""
    agents, chosen = list(whole.agents), np.asarray(places)
    for place, agent in zip(places, part.agents, strict=True):
        agents[place] = agent

    def put(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        old = np.array(old)
        old[chosen] = new
        return old

    best, untrained, states = jax.tree.map(put, tuple(whole[1:4]), tuple(part[1:4]))
    return Trained(agents, best, untrained, states, whole.seconds + part.seconds)
