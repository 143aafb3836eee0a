"""Keys of the objective and of the constraints: the arguments of the factories in `jaxppo.risk`."""

from __future__ import annotations

import inspect
from typing import Any, Literal

from pydantic import BaseModel

from jaxppo.arguments import OwnName, PositiveRatio
from jaxppo.config.from_signature import key_of, keys_of
from jaxppo.config.items import Item, Keys
from jaxppo.risk import constraints, objectives
from jaxppo.risk.lagrangian import Gains
from jaxppo.risk.shaping import PenalisedConstraint, shape_rewards

UTILITIES = {
    "expected": objectives.expected,
    "cvar": objectives.cvar,
    "mean_variance": objectives.mean_variance,
    "exponential": objectives.exponential,
}
"""Factory of each `objective.kind`."""


class ObjectiveConfig(Keys):
    """What is maximised: the expectation of a utility of the return of a training episode."""

    kind: Literal["expected", "cvar", "mean_variance", "exponential"] | OwnName = "expected"
    """The return itself; the mean of its worst part; mean less variance; constant absolute risk aversion; or
    `module:function` of your own, which returns a `jaxppo.risk.objectives.EpisodeUtility`."""
    options: dict[str, Any] | None = None
    """Own function: its arguments, by name."""
    level: float = key_of(objectives.cvar, "level", prefix="cvar: ")
    weight: float = key_of(objectives.cvar, "weight", prefix="cvar: ")
    aversion: float = key_of(objectives.mean_variance, "aversion", prefix="mean_variance, exponential: ")
    outcome: Literal["reward", "log", "simple"] | None = None
    """The return of an episode: sum of its rewards, log growth or simple return of the equity. Absent: the reward for
    `expected` and outside trading, else the simple return."""
    rate: float = key_of(shape_rewards, "rate", prefix="cvar, mean_variance: ")

    def usual_outcome(self, trading: bool) -> Literal["reward", "log", "simple"]:
        """What stands for `outcome` where it is absent."""
        return "simple" if trading and self.kind != "expected" else "reward"

    def unread(self) -> set[str]:
        """Keys of utilities that `kind` does not read."""
        read = {kind: set(inspect.signature(utility).parameters) for kind, utility in UTILITIES.items()}
        read["cvar"].add("rate")
        read["mean_variance"].add("rate")
        own = {"rate", "options"}
        return set().union(*read.values(), own) - read.get(self.kind, own)


class ConstraintKeys(Keys):
    """How the multiplier of a constraint follows its limit."""

    limit: PositiveRatio
    """Largest value."""
    method: Literal["pid", "lagrangian"] = "pid"
    """PID rule, or its integral part alone, the plain Lagrangian."""
    proportional: float = key_of(Gains, "proportional", prefix="pid: ")
    integral: float = key_of(Gains, "integral")
    derivative: float = key_of(Gains, "derivative", prefix="pid: ")
    smoothing: float = key_of(Gains, "smoothing", prefix="pid: ")
    delay: int = key_of(Gains, "delay", prefix="pid: ")
    maximum: float = key_of(Gains, "maximum")
    patience: int = key_of(PenalisedConstraint, "patience")


PID_KEYS = {"proportional", "derivative", "smoothing", "delay"}
LIMITED = ("max_drawdown", "volatility", "cvar", "turnover", "leverage")


class ConstraintConfig(
    Item, kinds={name: keys_of(getattr(constraints, name), base=ConstraintKeys) for name in LIMITED}
):
    """One constraint: a name and its keys."""


def _check_read(where: str, given: BaseModel, unread: set[str], why: str) -> None:
    """Refuses a key that nothing reads, if it is not at its default."""
    for key in sorted(unread):
        value = getattr(given, key)
        if value != type(given).model_fields[key].default:
            shown = f"{value:g}" if isinstance(value, float) else value
            raise ValueError(f"{where}.{key} is {shown}, but {why} does not read it; leave it out")


def check_risk(
    objective: ObjectiveConfig, items: tuple[ConstraintConfig, ...], environment: str, risk_aversion: float
) -> None:
    """Refuses an objective and constraints that do not fit each other or the environment.

    Args:
      objective: the objective.
      items: the constraints.
      environment: `env.name`.
      risk_aversion: `env.risk_aversion`.

    Raises:
      ValueError: names the key, its value and what is allowed.
    """
    trading = environment == "trading"
    if items and not trading:
        raise ValueError(f"constraints limit trading, but env.name is {environment!r}; leave them out")
    if objective.outcome not in (None, "reward") and not trading:
        raise ValueError(
            f"objective.outcome {objective.outcome} is of an equity, but env.name is {environment!r}; it must be reward"
        )
    outcome = objective.outcome or objective.usual_outcome(trading)
    if trading and outcome != "reward" and risk_aversion != 1.0:
        raise ValueError(
            f"env.risk_aversion is {risk_aversion:g}, but objective.kind {objective.kind} of the {outcome} return "
            "takes the place of that reward; leave it at 1, or set objective.outcome reward"
        )
    _check_read("objective", objective, objective.unread(), f"objective.kind {objective.kind}")
    for number, item in enumerate(items):
        if item.values.method == "lagrangian":
            _check_read(f"constraints[{number}].{item.kind}", item.values, PID_KEYS, "method lagrangian")
    names = [item.kind for item in items]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"constraints name {twice} more than once; each can be limited once")
