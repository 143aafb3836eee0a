"""Population based training: at every rung the worst agents go on from states of the best, with other values.

Reference: Jaderberg et al. (2017), Population based training of neural networks. https://arxiv.org/abs/1711.09846
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxppo.config.sweep import LEFT_ALONE, RUNGS, RangeConfig, SweepConfig
from jaxppo.errors import ConfigError
from jaxppo.walk_forward.job import Agent, Job
from jaxppo.walk_forward.programs import Programs
from jaxppo.walk_forward.training import Record, Trained, train_agents

FACTOR = 1.25
"""By which the value of a key with a logarithmic range is multiplied or divided."""
SHARE = 0.1
"""Of a linear range, by which a value moves up or down."""


def even_rungs(keys: SweepConfig, n_iterations: int, every: int) -> list[int]:
    """Iterations after which agents are compared, at equal distances in whole evaluations; the last one is the end.

    Args:
      keys: `rungs`.
      n_iterations: of the whole budget.
      every: iterations from one evaluation to the next.

    Raises:
      ConfigError: two rungs would end at the same evaluation.
    """
    n_rungs, n_evaluations = keys.rungs or RUNGS, math.ceil(n_iterations / every)
    if n_rungs > n_evaluations:
        raise ConfigError(
            f"sweep.rungs is {n_rungs}, but training has {n_evaluations} evaluation(s): set fewer rungs, more "
            "training.steps or a smaller training.evaluate_every"
        )
    ends = [math.ceil(n_evaluations * (rung + 1) / n_rungs) for rung in range(n_rungs)]
    return [min(end * every, n_iterations) for end in ends]


def moved(of_key: RangeConfig, value: float, up: bool) -> float:
    """The next value of a key that is tried; it stays within its range.

    Args:
      of_key: the range or list of the key.
      value: that the agent has.
      up: whether it grows.
    """
    if of_key.values is not None:
        known = sorted(of_key.numbers)
        place = min(range(len(known)), key=lambda i: abs(known[i] - value))
        return known[min(max(place + (1 if up else -1), 0), len(known) - 1)]
    if of_key.log is not None:
        low, high = of_key.log
        value = value * FACTOR if up else value / FACTOR
    else:
        assert of_key.linear is not None, "`RangeConfig` has one of the three"
        low, high = of_key.linear
        value += SHARE * (high - low) * (1 if up else -1)
    return float(f"{min(max(value, low), high):.6g}")


def exchange(scores: Sequence[float], keep: float, draws: np.random.Generator) -> dict[int, int]:
    """Which agents go on from the state of which others.

    Args:
      scores: of all agents, higher is better; minus infinity for one that is lost.
      keep: share of the agents that is left alone, in [0.5, 1).
      draws: what chooses among the best.

    Returns:
      The place of each agent that is replaced -> that of the agent whose state it takes. Replaced are the worst
      `1 - keep` of the agents, to the nearest number, at least one, and all that are lost; taken are states of as many
      of the best.
    """
    ranked = sorted(range(len(scores)), key=lambda place: scores[place])
    n = min(max(1, round(len(scores) * (1.0 - keep))), len(scores) // 2)
    lost = sum(score == -math.inf for score in scores)
    best = [place for place in ranked[-n:] if scores[place] > -math.inf]
    worst = [place for place in ranked[: max(n, lost)] if place not in best]
    return {place: int(draws.choice(best)) for place in worst} if best else {}


def train_by_exchange(
    job: Job, programs: Programs, record: Record, stop: Sequence[int], progress: bool
) -> tuple[Trained, list[dict[str, Any]]] | None:
    """Trains agents that take over states of each other at every rung.

    An agent that is replaced takes state and values of one of the best, and moves each value up or down; its seed stays
    its own. Draws are those of `seed` and the number of the rung.

    Args:
      job: of all agents; `setup.config.sweep` has the rungs.
      programs: for its agents.
      record: see `train_agents`.
      stop: see `train_agents`.
      progress: see `train_agents`.

    Returns:
      All agents, with the values of their best checkpoints, and for each rung its end as `until`, the `values` of the
      agents up to it, and which agents went on from which as `replaced`; None if interrupted.
    """
    keys, every = job.setup.config.sweep, job.setup.config.training.evaluate_every
    ends = even_rungs(keys, job.n_iterations, min(every, job.n_iterations))
    seeds = np.array([agent.seed for agent in job.agents], np.uint32)
    at_best = [agent.values for agent in job.agents]
    begun, trained, seconds = None, None, 0.0
    rungs: list[dict[str, Any]] = []
    for number, until in enumerate(ends):
        part = dataclasses.replace(job, until=until)
        trained = train_agents(part, programs, record, stop, progress, begun=begun, name=f"rung-{number}")
        if trained is None:
            return None
        seconds += trained.seconds
        since = 0 if number == 0 else ends[number - 1]
        for place, agent in enumerate(trained.agents):
            at_best[place] = dict(agent.values) if agent.best_iteration > since else at_best[place]
        rungs.append({"until": until, "values": [dict(agent.values) for agent in trained.agents], "replaced": {}})
        if until == ends[-1]:
            break
        draws = np.random.default_rng([job.setup.config.seed, number + 1])
        replaced = exchange([_last_score(agent) for agent in trained.agents], keys.keep or LEFT_ALONE, draws)
        rungs[-1]["replaced"] = {str(place): source for place, source in replaced.items()}
        begun = _exchanged(trained, replaced, seeds, keys.parameters or {}, draws)
    assert trained is not None, "there are at least two rungs"
    agents = [dataclasses.replace(agent, values=values) for agent, values in zip(trained.agents, at_best, strict=True)]
    return trained._replace(agents=agents, seconds=seconds), rungs


def _last_score(agent: Agent) -> float:
    """Score of the last evaluation; minus infinity for an agent that was stopped."""
    return -math.inf if agent.stopped or not agent.rows else agent.rows[-1]["validation_sharpe"]


def _exchanged(
    trained: Trained,
    replaced: Mapping[int, int],
    seeds: np.ndarray,
    ranges: Mapping[str, RangeConfig],
    draws: np.random.Generator,
) -> Trained:
    """The agents after an exchange; their best checkpoints stay theirs."""
    source = np.array([replaced.get(place, place) for place in range(len(seeds))])
    states = jax.tree.map(lambda x: x[source], trained.states).replace(seed=seeds)
    agents = list(trained.agents)
    for place in sorted(replaced):
        taken = trained.agents[replaced[place]].values
        values = {key: moved(of_key, taken[key], bool(draws.integers(2))) for key, of_key in ranges.items()}
        agents[place] = dataclasses.replace(agents[place], values=values, stopped=None)
    return trained._replace(agents=agents, states=states)
