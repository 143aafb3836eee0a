"""Keys of the objective and of the constraints that a configuration can name; see `jaxppo.risk` for what they do."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from jaxppo.config.items import Item, Keys

PositiveFloat = Annotated[float, Field(gt=0.0, le=1e6)]
Gain = Annotated[float, Field(ge=0.0, le=1e6)]
Level = Annotated[float, Field(gt=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=1, le=2**20)]


class ObjectiveConfig(Keys):
    """What is maximised: the expectation of a utility of the return of a training episode."""

    kind: Literal["expected", "cvar", "mean_variance", "exponential"] = "expected"
    """The return itself; the mean of its worst part; mean less variance; or constant absolute risk aversion."""
    level: Level = 0.95
    """cvar: the worst `1 - level` of the episodes count."""
    weight: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """cvar: weight of the worst episodes; the rest is the mean of all."""
    aversion: Annotated[float, Field(gt=0.0, le=1000.0)] = 1.0
    """mean_variance, exponential: risk aversion per unit of return."""
    outcome: Literal["reward", "log", "simple"] | None = None
    """The return of an episode: sum of its rewards, log growth or simple return of the equity. Absent: the reward for
    `expected` and outside trading, else the simple return."""
    rate: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """cvar, mean_variance: weight of an iteration in the learned threshold."""

    def usual_outcome(self, trading: bool) -> str:
        """What stands for `outcome` where it is absent."""
        return "simple" if trading and self.kind != "expected" else "reward"


class ConstraintKeys(Keys):
    """How the multiplier of a constraint follows its limit."""

    limit: PositiveFloat
    """Largest value."""
    method: Literal["pid", "lagrangian"] = "pid"
    """PID rule, or its integral part alone, the plain Lagrangian."""
    proportional: Gain = 0.2
    """pid: multiplier per unit of smoothed relative violation."""
    integral: Annotated[float, Field(gt=0.0, le=1000.0)] = 0.02
    """Multiplier gained an iteration per unit of relative violation."""
    derivative: Gain = 0.2
    """pid: multiplier per unit by which the smoothed relative violation rose."""
    smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.8
    """pid: weight of the past in the smoothed violation."""
    delay: Annotated[int, Field(ge=1, le=1000)] = 5
    """pid: iterations over which a rise is measured."""
    maximum: PositiveFloat = 10.0
    """Largest multiplier; 1 charges a bar at twice a limit that holds one standard deviation of the mean reward of a
    rollout."""
    patience: Count = 20
    """Measurements in a row at the maximum, with the limit not held, until it is reported as infeasible."""


class MaxDrawdownConstraint(ConstraintKeys):
    """Mean of the largest drawdown of a training episode."""

    limit: Annotated[float, Field(gt=0.0, le=1.0)]
    """Largest value, fraction of the peak equity."""


class VolatilityConstraint(ConstraintKeys):
    """Volatility of the account in training."""

    limit: PositiveFloat
    """Largest value, per year, fraction of equity."""


class CVaRConstraint(ConstraintKeys):
    """Mean loss of the worst bars in training."""

    limit: Annotated[float, Field(gt=0.0, le=1.0)]
    """Largest value, fraction of equity lost in a bar."""
    level: Level = 0.95
    """The worst `1 - level` of the bars count."""


class TurnoverConstraint(ConstraintKeys):
    """Traded notional in training."""

    limit: PositiveFloat
    """Largest value, per year, multiple of equity."""


class LeverageConstraint(ConstraintKeys):
    """Mean gross exposure in training."""

    limit: PositiveFloat
    """Largest value, multiple of equity."""


class ConstraintConfig(Item):
    """One constraint: a name and its keys."""

    max_drawdown: MaxDrawdownConstraint | None = None
    volatility: VolatilityConstraint | None = None
    cvar: CVaRConstraint | None = None
    turnover: TurnoverConstraint | None = None
    leverage: LeverageConstraint | None = None


OBJECTIVE_KEYS = {"level", "weight", "aversion", "rate"}
READ = {
    "expected": set(),
    "cvar": {"level", "weight", "rate"},
    "mean_variance": {"aversion", "rate"},
    "exponential": {"aversion"},
}
"""Keys that each kind of objective reads."""
PID_KEYS = {"proportional", "derivative", "smoothing", "delay"}


def _check_read(where: str, given: BaseModel, unread: set[str], why: str) -> None:
    """A ValueError if a key that nothing reads is not at its default."""
    for key in sorted(unread):
        value = getattr(given, key)
        if value != type(given).model_fields[key].default:
            raise ValueError(f"{where}.{key} is {value:g}, but {why} does not read it; leave it out")


def check_risk(
    objective: ObjectiveConfig, constraints: tuple[ConstraintConfig, ...], env_name: str, risk_aversion: float
) -> None:
    """A ValueError if objective and constraints do not fit each other or the environment."""
    trading = env_name == "trading"
    if constraints and not trading:
        raise ValueError(f"constraints limit trading, but env.name is {env_name!r}; leave them out")
    if objective.outcome not in (None, "reward") and not trading:
        raise ValueError(
            f"objective.outcome {objective.outcome} is of an equity, but env.name is {env_name!r}; it must be reward"
        )
    outcome = objective.outcome or objective.usual_outcome(trading)
    if trading and outcome != "reward" and risk_aversion != 1.0:
        raise ValueError(
            f"env.risk_aversion is {risk_aversion:g}, but objective.kind {objective.kind} of the {outcome} return "
            "takes the place of that reward; leave it at 1, or set objective.outcome reward"
        )
    _check_read("objective", objective, OBJECTIVE_KEYS - READ[objective.kind], f"objective.kind {objective.kind}")
    for number, item in enumerate(constraints):
        keys = getattr(item, item.kind)
        if keys.method == "lagrangian":
            _check_read(f"constraints[{number}].{item.kind}", keys, PID_KEYS, "method lagrangian")
    names = [item.kind for item in constraints]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"constraints name {twice} more than once; each can be limited once")
