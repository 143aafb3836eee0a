"""What a sweep found: a row for each agent, and the one that validation chooses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from jaxppo.errors import ConfigError
from jaxppo.walk_forward.job import Agent


class Chosen(NamedTuple):
    """The agent that validation chooses.

    Attributes:
      place: of the agent among all.
      values: its hyper-parameters.
      mean_score: mean of the best annual Sharpe ratios of the agents with these values, one of each seed.
    """

    place: int
    values: dict[str, Any]
    mean_score: float


def choose(agents: Sequence[Agent], *, alone: bool = False) -> Chosen:
    """The best seed of the values whose agents have the best mean score on validation.

    A mean over seeds says more of the values than their luckiest seed. Values of which an agent diverged before it was
    ever evaluated come last.

    Args:
      agents: all of a sweep.
      alone: whether every agent stands for itself, as where values change while it is trained.

    Raises:
      ConfigError: every agent diverged before it was evaluated.
    """
    if all(agent.best_score is None for agent in agents):
        found = next(agent.stopped for agent in agents if agent.stopped)
        raise ConfigError(
            f"training diverged for every agent of the sweep, the first in iteration {found['iteration']}: "
            f"{found['limit']}; try a smaller ppo.learning_rate"
        )
    groups: dict[Any, list[int]] = {}
    for place, agent in enumerate(agents):
        groups.setdefault(place if alone else tuple(agent.values.items()), []).append(place)
    places = max(groups.values(), key=lambda places: mean_score([agents[place] for place in places]))
    place = max(places, key=lambda place: _score(agents[place]))
    return Chosen(place, dict(agents[place].values), mean_score([agents[place] for place in places])[0])


def mean_score(agents: Sequence[Agent]) -> tuple[float, float]:
    """What agents with the same values are ranked by: their mean best score on validation, then the highest of them.

    Args:
      agents: one of each seed; without a score an agent counts as minus infinity.
    """
    each = [_score(agent) for agent in agents]
    return sum(each) / len(each), max(each)


def _score(agent: Agent) -> float:
    return -math.inf if agent.best_score is None else agent.best_score


def member_table(agents: Sequence[Agent], chosen: Chosen) -> pd.DataFrame:
    """A row for each agent: its values and seed, how it scored, and the metrics of its last evaluation.

    Args:
      agents: all of a sweep.
      chosen: from `choose`.

    Returns:
      Columns `member`, the dotted keys, `seed`, `validation_sharpe` (annual, of the best checkpoint; missing for an
      agent that was never evaluated), `best_iteration`, `iterations`, `evaluations`, `skipped_updates`, `stopped` (what
      ended its training, else empty), `chosen`, and the metrics as `last_NAME`.
    """
    return pd.DataFrame([_row(place, agent, place == chosen.place) for place, agent in enumerate(agents)])


def _row(place: int, agent: Agent, chosen: bool) -> dict[str, Any]:
    last = agent.rows[-1] if agent.rows else {}
    return {
        "member": place,
        **agent.values,
        "seed": agent.seed,
        "validation_sharpe": agent.best_score,
        "best_iteration": agent.best_iteration,
        "iterations": agent.iterations,
        "evaluations": agent.evaluations,
        "skipped_updates": agent.skipped_updates,
        "stopped": agent.stopped["limit"] if agent.stopped else "",
        "chosen": chosen,
        **{f"last_{name}": value for name, value in last.items() if name != "iteration"},
    }
