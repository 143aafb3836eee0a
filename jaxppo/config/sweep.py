"""Keys of a sweep: which hyper-parameters are tried, at which values, and how those are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from jaxppo.arguments import BoundedInt, OpenFraction
from jaxppo.config.items import Keys
from jaxppo.config.rewards import PENALTIES, RewardConfig

OF_PPO = (
    *("learning_rate", "gamma", "gae_lambda", "target_lambda", "clip", "entropy_coefficient", "entropy_final"),
    *("value_coefficient", "max_grad_norm", "reward_scale", "kl_target", "kl_stop"),
)
TRACED = (*(f"ppo.{name}" for name in OF_PPO), "policy.dropout", *(f"rewards.{kind}.weight" for kind in PENALTIES))
"""Keys that a program takes as arguments: agents that differ in them are trained in one program."""
GRID_POINTS = 8
"""Values of a range in a grid, where it does not say how many."""
DRAWN_MEMBERS = 16
"""Drawn combinations of values, where the configuration does not say how many."""
RUNGS, KEPT = 3, 0.5
"""Rungs of successive halving, and the share that each leaves, where the configuration does not say."""
LEFT_ALONE = 0.75
"""Share of the agents that population based training leaves alone at a rung, where the configuration does not say."""
MOST_MEMBERS = 4096
"""Agents of a sweep at most."""

Few = Annotated[int, Field(ge=2, le=MOST_MEMBERS)]
Ends = tuple[float, float]
Value = float | bool | str


class RangeConfig(Keys):
    """The values of a key that a sweep tries: a range, or a list."""

    log: Ends | None = None
    """`[low, high]`, both > 0: values at equal ratios, or drawn log-uniformly."""
    linear: Ends | None = None
    """`[low, high]`: values at equal distances, or drawn uniformly."""
    values: Annotated[tuple[Value, ...], Field(min_length=1, max_length=MOST_MEMBERS)] | None = None
    """The values themselves, or what is drawn from: numbers, with method optuna also words."""
    n: Few | None = None
    """Values of a range in a grid; absent: 8."""

    @model_validator(mode="after")
    def _one_kind(self) -> RangeConfig:
        given = [name for name in ("log", "linear", "values") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("exactly one of log: [low, high], linear: [low, high] and values: [...] is needed")
        ends = self.log or self.linear
        if ends is not None and not (ends[0] < ends[1] and (self.log is None or ends[0] > 0)):
            positive = ", low > 0" if self.log else ""
            raise ValueError(f"{given[0]} is {list(ends)}; allowed: [low, high], low < high{positive}")
        if self.values is not None and (self.n is not None or len(set(self.values)) < len(self.values)):
            raise ValueError(f"values are {list(self.values)}; allowed: distinct numbers, without n")
        return self

    @property
    def numbers(self) -> tuple[float, ...]:
        """`values` of a method that tries numbers alone; empty for a range."""
        return tuple(value for value in self.values or () if not isinstance(value, str))


class SweepConfig(Keys):
    """Agents that differ in hyper-parameters and seeds, trained in one program (`jaxppo.sweep`).

    A dotted key in the section stands for itself within `parameters`: `{ppo.gamma: {values: [0.9, 0.99]}, seeds: 4}`.
    """

    parameters: dict[str, RangeConfig] | None = None
    """Key -> its values, such as `{ppo.learning_rate: {log: [1e-4, 1e-2], n: 8}}`; absent: only seeds differ."""
    method: Literal["grid", "random", "halving", "pbt", "optuna"] = "grid"
    """Every combination of the values, or combinations drawn at random: with halving the better part of them is trained
    on at every rung, with pbt the worst go on there from states of the best, with other values. With optuna they are
    drawn where those before scored well, and each is a program of its own, so that any key may be swept."""
    members: Few | None = None
    """Not for grid: combinations that are drawn; absent: 16."""
    rungs: Annotated[int, Field(ge=2, le=16)] | None = None
    """Halving and pbt: times that agents are compared, the last one after the whole budget; absent: 3."""
    keep: OpenFraction | None = None
    """Halving: share of the combinations that goes on after a rung, and of the next rung's budget that has been spent
    by then; absent: 0.5. Pbt: share of the agents that is left alone at a rung; absent: 0.75."""
    seeds: BoundedInt = 1
    """Agents for each combination, of seeds `seed`, `seed + 1`, ..."""
    batch_size: Annotated[int, Field(ge=1, le=MOST_MEMBERS)] | None = None
    """Agents that are trained in one program; absent: as many as fit the memory."""


def gathered(section: Any) -> Any:
    """The section as it is written, with dotted keys moved into `parameters`.

    Args:
      section: as read; left as it is where it is no mapping, or names a key twice.
    """
    dotted = [key for key in section if "." in str(key)] if isinstance(section, dict) else []
    named = section.get("parameters") or {} if dotted else None
    if not isinstance(named, dict) or {*dotted} & {*named}:
        return section
    rest = {key: value for key, value in section.items() if key not in dotted}
    return {**rest, "parameters": {**named, **{key: section[key] for key in dotted}}}


def check_sweep(
    sweep: SweepConfig, rewards: Sequence[RewardConfig], environment: str, kl_penalty: str, entropy_schedule: str
) -> None:
    """Refuses keys that cannot be swept, and those that nothing reads.

    Args:
      sweep: the section.
      rewards: of the configuration.
      environment: `env.name`.
      kl_penalty: `ppo.kl_penalty`.
      entropy_schedule: `ppo.entropy_schedule`.

    Raises:
      ValueError: names the key, its value and what is allowed.
    """
    if sweep != SweepConfig() and environment != "trading":
        raise ValueError(f"sweep is given, but env.name is {environment!r}; the agents of a sweep trade: leave it out")
    in_rungs = sweep.method in ("halving", "pbt")
    unread = {"members": sweep.method == "grid", "rungs": not in_rungs, "keep": not in_rungs}
    for name in (name for name, left in unread.items() if left and getattr(sweep, name) is not None):
        value = getattr(sweep, name)
        raise ValueError(f"sweep.{name} is {value}, which sweep.method {sweep.method} does not read; leave it out")
    if sweep.method == "pbt" and sweep.keep is not None and sweep.keep < 0.5:
        raise ValueError(
            f"sweep.keep is {sweep.keep:g}; of method pbt allowed: number in [0.5, 1), since others take over"
        )
    for key, of_key in (sweep.parameters or {}).items():
        if key not in TRACED and sweep.method != "optuna":
            raise ValueError(
                f"sweep.parameters names {key}; allowed: {', '.join(TRACED)}; sweep.method optuna for others"
            )
        if sweep.method != "optuna" and any(isinstance(value, (bool, str)) for value in of_key.values or ()):
            raise ValueError(
                f"sweep.parameters.{key}.values are {list(of_key.values or ())}; with sweep.method {sweep.method} "
                "allowed: numbers"
            )
        if key.startswith("rewards.") and [item.kind for item in rewards].count(key.split(".")[1]) != 1:
            raise ValueError(f"sweep.parameters names {key}, but rewards does not name {key.split('.')[1]} once")
        if key == "ppo.kl_target" and kl_penalty == "none":
            raise ValueError("sweep.parameters names ppo.kl_target, which ppo.kl_penalty none does not read")
        if key == "ppo.entropy_final" and entropy_schedule == "constant":
            raise ValueError(
                "sweep.parameters names ppo.entropy_final, which ppo.entropy_schedule constant does not read"
            )
        if of_key.n is not None and sweep.method != "grid":
            raise ValueError(f"sweep.parameters.{key}.n is {of_key.n}, which only sweep.method grid reads")
