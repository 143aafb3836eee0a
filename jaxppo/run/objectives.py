"""Objective and constraints of a run: built from its configuration, and summarised after training."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxppo.config import Config
from jaxppo.config.items import OwnFunction
from jaxppo.config.risk import UTILITIES, ConstraintConfig, ObjectiveConfig
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.errors import ConfigError
from jaxppo.risk import constraints
from jaxppo.risk.lagrangian import Gains
from jaxppo.risk.objectives import EpisodeUtility
from jaxppo.risk.shaping import SLACK, PenalisedConstraint, RewardShaping, shape_rewards
from jaxppo.run.own import own_part


def make_reward_shaping(config: Config, periods_per_year: float | None = None) -> RewardShaping | None:
    """Builds the configured objective and constraints; None where the expected sum of rewards is all there is.

    Args:
      config: of the run.
      periods_per_year: bars per year; None outside trading.
    """
    objective = config.objective
    outcome = objective.outcome or objective.usual_outcome(trading=periods_per_year is not None)
    plain = objective.kind == "expected" and outcome == "reward"
    utility = None if plain else make_utility(objective)
    constrained = [_constraint(item, periods_per_year) for item in config.constraints]
    if utility is None and not constrained:
        return None
    return shape_rewards(utility, constrained, outcome=outcome, rate=objective.rate)


def make_utility(objective: ObjectiveConfig) -> EpisodeUtility:
    """The utility of an objective.

    Args:
      objective: its keys.

    Raises:
      ConfigError: own code that is not found, fails, or returns something else.
    """
    if objective.kind in UTILITIES:
        return _called_with(UTILITIES[objective.kind], objective.model_dump())
    return own_part(OwnFunction(path=objective.kind, options=objective.options), "objective.kind", EpisodeUtility)


def _called_with(factory: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    """Calls a factory with the values that it has arguments for."""
    return factory(**{name: values[name] for name in inspect.signature(factory).parameters})


def _constraint(item: ConstraintConfig, periods: float | None) -> PenalisedConstraint:
    """One configured constraint."""
    keys = item.values
    constraint = _called_with(getattr(constraints, item.kind), keys.model_dump() | {"periods": periods})
    gains = Gains(**{name: getattr(keys, name) for name in Gains._fields})
    if keys.method == "lagrangian":
        gains = gains._replace(proportional=0.0, derivative=0.0)
    return PenalisedConstraint(constraint, gains, keys.patience)


def check_reachable(config: Config, env: TradingEnv) -> None:
    """Refuses a limit of leverage below what every decision takes.

    Args:
      config: of the run.
      env: its environment.

    Raises:
      ConfigError: names the constraint, its limit, and the smallest leverage.
    """
    low, high = env.levels[0], env.levels[-1]
    ranged = env.actions in ("continuous", "band")
    least = max(low, -high, 0.0) if ranged else min(map(abs, env.levels))
    if env.actions == "discrete" and env.start == "flat":
        least = 0.0  # never to trade is a choice
    smallest = least * env.position_limit * env.n_assets
    for number, item in enumerate(config.constraints):
        if item.kind == "leverage" and item.values.limit < smallest:
            raise ConfigError(
                f"constraints[{number}].leverage.limit is {item.values.limit:g}; env.levels {list(env.levels)} do not "
                f"reach 0: the smallest leverage of {env.n_assets} positions of env.position_limit "
                f"{env.position_limit:g} is {smallest:g}"
            )


def constraint_summary(config: Config, rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Summarises how each constraint was kept: the `constraints` entry of summary.json; empty without constraints.

    Args:
      config: of the run.
      rows: of `metrics.jsonl`.

    Returns:
      name -> `limit`; `measured`, its mean over the last quarter of the iterations; the last `multiplier`; whether the
      limit was `held` up to 2 %, and whether it was `infeasible` at the end.
    """
    found = {}
    for item in config.constraints if rows else ():
        name, limit = item.kind, item.values.limit
        late = rows[-math.ceil(len(rows) / 4) :]
        measured = float(np.mean([row[f"constraint_{name}"] for row in late]))
        found[name] = {
            "limit": limit,
            "measured": measured,
            "multiplier": rows[-1][f"multiplier_{name}"],
            "held": measured <= limit * (1.0 + SLACK),
            "infeasible": bool(rows[-1][f"constraint_{name}_infeasible"]),
        }
    return found


def describe_constraints(summary: dict[str, dict[str, Any]]) -> str:
    """Describes each constraint in a line, from `constraint_summary`; empty without constraints."""
    lines = []
    for name, row in summary.items():
        verdict = "held" if row["held"] else "NOT HELD"
        if row["infeasible"]:
            verdict = "INFEASIBLE: not held with the multiplier at its maximum"
        lines.append(
            f"constraint {name}: {row['measured']:.4g} in the last quarter of training, limit {row['limit']:g}, "
            f"multiplier {row['multiplier']:.3g}: {verdict}"
        )
    return "\n".join(lines)
