"""Keys of the reward transforms in a configuration: the arguments of the factories in `jaxppo.risk.rewards`."""

from __future__ import annotations

from collections.abc import Sequence

from jaxppo.config.from_signature import keys_of
from jaxppo.config.items import Item, OwnFunction
from jaxppo.risk import rewards

REPLACING = ("differential_sharpe", "differential_downside", "log_return", "active_utility")
"""Transforms that drop the reward before them."""
PENALTIES = ("drawdown_penalty", "cvar_penalty", "turnover_penalty", "holding_penalty")


class OwnReward(OwnFunction):
    """A reward transform of your own: `module:function` returns a `jaxppo.risk.rewards.RewardTransform`; its keys are
    the arguments of the function."""


class RewardConfig(
    Item,
    kinds={name: keys_of(getattr(rewards, name)) for name in (*REPLACING, *PENALTIES, "scale", "clip")},
    own=OwnReward,
):
    """One reward transform: a name and its keys."""


def check_rewards(items: Sequence[RewardConfig], environment: str, risk_aversion: float) -> None:
    """Refuses rewards that would do nothing.

    Args:
      items: the list.
      environment: `env.name`.
      risk_aversion: `env.risk_aversion`.

    Raises:
      ValueError: names the key, its value and what is allowed.
    """
    if items and environment != "trading":
        raise ValueError(f"rewards shape the reward of trading, but env.name is {environment!r}; leave them out")
    for number, item in enumerate(items):
        if item.kind not in REPLACING:
            continue
        if number:
            raise ValueError(
                f"rewards[{number}].{item.kind} replaces the reward and must come first; "
                f"rewards[{number - 1}].{items[number - 1].kind} would do nothing"
            )
        if risk_aversion != 1.0:
            raise ValueError(
                f"env.risk_aversion is {risk_aversion:g}, but rewards[0].{item.kind} replaces the reward that it "
                "shapes; leave it at 1"
            )
