"""Keys of the sizing transforms in a configuration: the arguments of the factories in `jaxppo.risk.sizing`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from jaxppo.config.book import BookSizing
from jaxppo.config.from_signature import keys_of
from jaxppo.config.items import OWN, Item, OwnFunction
from jaxppo.risk import sizing

STAGES = {"kelly": 0, "risk_units": 0, "volatility_target": 1, "equal_risk_contribution": 1, "projection": 2,
          "drawdown_control": 3}  # fmt: skip
"""What a transform must not come before: targets are shares of something, then scaled, then capped."""
WHY = {
    0: "takes targets as shares",
    1: "scales, which would undo that cap",
    2: "must come before drawdown_control, which counts what it leaves",
}


class OwnSizing(OwnFunction):
    """A sizing transform of your own: `module:function` returns a `jaxppo.risk.sizing.SizingTransform`, in any place of
    the list; its keys are the arguments of the function."""


class SizingConfig(Item, kinds={name: keys_of(getattr(sizing, name)) for name in STAGES}, own=OwnSizing):
    """One sizing transform: a name and its keys."""

    book: BookSizing | None = None


def in_units(items: Sequence[SizingConfig], units: str, environment: str, tilt: str) -> tuple[SizingConfig, ...]:
    """The sizing with the transform that `env.units` stands for: risk puts `risk_units` first where it is not named.

    Args:
      items: as given, in an order that `check_order` accepts.
      units: `env.units`.
      environment: `env.name`.
      tilt: `policy.tilt`.

    Raises:
      ValueError: targets cannot be in units of risk; names the key, its value and what is allowed.
    """
    kinds = [item.kind for item in items]
    if units == "weight":
        return tuple(items)
    if environment != "trading":
        raise ValueError(f"env.units is {units}, but env.name is {environment!r}; it must be weight")
    if "risk_units" in kinds:
        return tuple(items)
    if "kelly" in kinds:
        raise ValueError(f"env.units is {units}, but sizing names kelly; targets are shares of one of them")
    if tilt == "scale":
        raise ValueError(f"env.units is {units}, but policy.tilt scale needs no unit; it must be weight")
    return SizingConfig.model_validate({"risk_units": {}}), *items


def check_order(items: Sequence[SizingConfig]) -> None:
    """Refuses a transform that comes after one that it must come before, or twice; a book begins a new order.

    Raises:
      ValueError: names the transform, its place and the reason.
    """
    kinds = [item.kind for item in items]
    if "book" not in kinds:
        return _check_order(items, 0)
    at = kinds.index("book")
    if "book" in kinds[at + 1 :]:
        raise ValueError("sizing names book twice; once is enough")
    shares = next((kind for kind in kinds[at:] if STAGES.get(kind) == 0), None)
    if shares is not None:
        number = kinds.index(shares, at)
        raise ValueError(f"sizing[{number}].{shares} comes after book, but {WHY[0]}, those of the agent; put it before")
    _check_order(items[:at], 0)
    return _check_order(items[at + 1 :], at + 1)


def _check_order(items: Sequence[SizingConfig], first: int) -> None:
    """`check_order` without a book; `first` is the number of the first transform in the whole list."""
    numbered = [(number, item) for number, item in enumerate(items, start=first) if item.kind != OWN]
    for (_, before), (number, after) in itertools.pairwise(numbered):
        if STAGES[after.kind] < STAGES[before.kind]:
            raise ValueError(
                f"sizing[{number}].{after.kind} comes after {before.kind}, but {WHY[STAGES[after.kind]]}; put it before"
            )
    kinds = [item.label for item in items]
    twice = next((kind for kind in kinds if kinds.count(kind) > 1), None)
    if twice is not None:
        raise ValueError(f"sizing names {twice} twice; once is enough")
    if {"kelly", "risk_units"} <= {*kinds}:
        raise ValueError("sizing names kelly and risk_units; targets are shares of one of them")
