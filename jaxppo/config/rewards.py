"""Keys of the reward transforms that a configuration can list; see `jaxppo.risk.rewards` for what each one does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from jaxppo.config.items import Item, Keys

Weight = Annotated[float, Field(ge=0.0, le=1e6)]
PositiveFloat = Annotated[float, Field(gt=0.0, le=1e6)]
Rate = Annotated[float, Field(gt=0.0, lt=1.0)]
Bars = Annotated[int, Field(ge=1, le=2**20)]


class LogReturnReward(Keys):
    """The log return of the equity."""


class _MovingReward(Keys):
    """What rewards share that follow moments of the account's returns."""

    rate: Rate = 0.01
    """Rate of the moving moments, per bar."""
    warmup: Bars = 20
    """Bars that the start counts as: after n bars moments move at a rate of at least 1 / (warmup + n)."""
    volatility: PositiveFloat = 0.15
    """Usual volatility of the account per year, fraction of equity: where the moments start."""
    floor: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """Smallest deviation that a return is divided by, as a share of the usual one."""
    clip: PositiveFloat = 10.0
    """Largest absolute reward."""


class DifferentialSharpeReward(_MovingReward):
    """The differential Sharpe ratio of Moody and Saffell: what a bar does to a moving Sharpe ratio."""


class DifferentialDownsideReward(_MovingReward):
    """The same for the ratio of the mean to the downside deviation."""


class DrawdownPenalty(Keys):
    """A penalty of what a bar adds to the drawdown."""

    weight: Weight
    """Reward that a drawdown of the whole equity costs."""


class CVaRPenalty(Keys):
    """A penalty whose mean is the conditional value at risk of the account's losses per bar."""

    weight: Weight
    """Reward that a unit of it costs, per bar."""
    level: Annotated[float, Field(ge=0.5, le=0.999)] = 0.95
    """The worst 1 - level of the bars count."""
    rate: Rate = 0.01
    """Smallest step with which the quantile of the losses is followed."""
    warmup: Bars = 20
    """Bars that the start counts as."""
    volatility: PositiveFloat = 0.15
    """Usual volatility of the account per year, fraction of equity: where the quantile starts."""


class TurnoverPenalty(Keys):
    """A penalty of traded notional."""

    weight: Weight
    """Reward that trading the whole equity once costs."""


class HoldingPenalty(Keys):
    """A penalty of gross exposure."""

    weight: Weight
    """Reward that a gross exposure of the whole equity costs, per bar."""


class ScaleReward(Keys):
    """The reward that stands before it, multiplied."""

    factor: PositiveFloat
    """What it is multiplied by."""


class ClipReward(Keys):
    """The reward that stands before it, within bounds."""

    limit: PositiveFloat
    """Largest absolute reward."""


class RewardConfig(Item):
    """One reward transform: a name and its keys."""

    differential_sharpe: DifferentialSharpeReward | None = None
    differential_downside: DifferentialDownsideReward | None = None
    log_return: LogReturnReward | None = None
    drawdown_penalty: DrawdownPenalty | None = None
    cvar_penalty: CVaRPenalty | None = None
    turnover_penalty: TurnoverPenalty | None = None
    holding_penalty: HoldingPenalty | None = None
    scale: ScaleReward | None = None
    clip: ClipReward | None = None


def check_rewards(rewards: Sequence[RewardConfig], environment: str, risk_aversion: float) -> None:
    """A ValueError if the list of rewards cannot be what it says, given `env.name` and `env.risk_aversion`."""
    if rewards and environment != "trading":
        raise ValueError(f"rewards shape the reward of trading, but env.name is {environment!r}; leave them out")
    for number, reward in enumerate(rewards):
        if reward.kind not in ("log_return", "differential_sharpe", "differential_downside"):
            continue
        if number:
            raise ValueError(
                f"rewards[{number}].{reward.kind} replaces the reward and must come first; "
                f"rewards[{number - 1}].{rewards[number - 1].kind} would do nothing"
            )
        if risk_aversion != 1.0:
            raise ValueError(
                f"env.risk_aversion is {risk_aversion:g}, but rewards[0].{reward.kind} replaces the reward that it "
                "shapes; leave it at 1"
            )
