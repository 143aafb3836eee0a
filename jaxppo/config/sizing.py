"""Keys of the sizing transforms that a configuration can list; see `jaxppo.risk.sizing` for what each one does."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from jaxppo.config.book import BookSizing
from jaxppo.config.items import Item, Keys

PositiveFloat = Annotated[float, Field(gt=0.0, le=1e6)]
Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]
Small = Annotated[float, Field(ge=0.0, lt=1.0)]
Span = Annotated[int, Field(ge=1, le=2**20)]


class KellySizing(Keys):
    """A target is the share of the fractional Kelly position, whose sign counts: `env.position_limit` is all of it."""

    fraction: PositiveFloat = 0.5
    """Of the Kelly position."""
    window: Annotated[int, Field(ge=2, le=2**20)] = 504
    """Bars that means and covariances are estimated from; no position before there are as many."""
    every: Span = 1
    """Bars from one estimate to the next."""
    shrink_mean: bool = True
    """Shrink means towards the mean of all (James-Stein)."""
    shrink_covariance: bool = True
    """Shrink the covariance towards a multiple of the identity (Ledoit-Wolf)."""
    scale: Literal["none", "known", "unknown"] = "known"
    """Kan and Zhou's scale for estimation errors, with the covariance taken as known or as unknown; or none."""
    max_leverage: PositiveFloat = 1.0
    """Largest gross exposure of the fractional Kelly position, multiple of equity."""
    tolerance: Small = 0.1
    """Relative change of an asset's factor that is not traded."""


class VolatilityTargetSizing(Keys):
    """All targets are scaled alike, to a forecast volatility."""

    target: PositiveFloat
    """Volatility per year, fraction of equity."""
    span: Span = 63
    """Bars of the exponential covariance."""
    max_leverage: PositiveFloat = 1.0
    """Largest gross exposure that targets are scaled to, multiple of equity."""
    tolerance: Small = 0.1
    """Relative change of the factor that is not traded."""


class EqualRiskContributionSizing(Keys):
    """Absolute targets are budgets of risk, their signs those of the positions; the gross exposure stays."""

    span: Span = 63
    """Bars of the exponential covariance."""
    tolerance: Small = 0.1
    """Relative change of an asset's factor that is not traded."""


class ProjectionSizing(Keys):
    """The nearest weights within limits, fractions of equity; what is absent is not limited."""

    leverage: PositiveFloat | None = None
    """Largest sum of absolute weights."""
    weight: PositiveFloat | None = None
    """Largest absolute weight of one asset."""
    concentration: PositiveFloat | None = None
    """Largest sum of squared weights."""


class DrawdownControlSizing(Keys):
    """No close below `1 - limit` of the peak, but for gaps; needs `env.latency_bars: 1`."""

    limit: Fraction
    """Largest drawdown."""
    move: Fraction
    """Largest move of an asset between two fills that is survived by construction."""
    deviations: PositiveFloat | None = None
    """That move is at least this many forecast volatilities of a bar; absent: `move` alone."""
    span: Span = 63
    """Bars of that forecast."""
    cost: Small = 0.002
    """Largest cost of trading, and of holding for a bar, that is survived, fraction of what is traded."""
    proportional: bool = True
    """Scale targets in proportion to what is left of the limit (Grossman-Zhou); otherwise only the hard floor acts."""
    tolerance: Small = 0.1
    """Relative change of the factor that is not traded."""


class SizingConfig(Item):
    """One sizing transform: a name and its keys."""

    kelly: KellySizing | None = None
    volatility_target: VolatilityTargetSizing | None = None
    equal_risk_contribution: EqualRiskContributionSizing | None = None
    projection: ProjectionSizing | None = None
    drawdown_control: DrawdownControlSizing | None = None
    book: BookSizing | None = None


STAGES = {"kelly": 0, "volatility_target": 1, "equal_risk_contribution": 1, "projection": 2, "drawdown_control": 3}
"""What a transform must not come before: targets are shares of Kelly positions, then scaled, then capped."""
WHY = {
    0: "takes targets as shares",
    1: "scales, which would undo that cap",
    2: "must come before drawdown_control, which counts what it leaves",
}


def check_order(sizing: Sequence[SizingConfig]) -> None:
    """A ValueError if a transform comes after one that it must come before, or twice; a book begins a new order."""
    kinds = [item.kind for item in sizing]
    if "book" not in kinds:
        return _check_order(sizing, 0)
    at = kinds.index("book")
    if "book" in kinds[at + 1 :]:
        raise ValueError("sizing names book twice; once is enough")
    if "kelly" in kinds[at:]:
        number = kinds.index("kelly", at)
        raise ValueError(f"sizing[{number}].kelly comes after book, but {WHY[0]}, those of the agent; put it before")
    _check_order(sizing[:at], 0)
    return _check_order(sizing[at + 1 :], at + 1)


def _check_order(sizing: Sequence[SizingConfig], first: int) -> None:
    """`check_order` without a book; `first` is the number of the first transform in the whole list."""
    for number, (before, after) in enumerate(itertools.pairwise(sizing), start=first + 1):
        if STAGES[after.kind] < STAGES[before.kind]:
            raise ValueError(
                f"sizing[{number}].{after.kind} comes after {before.kind}, but {WHY[STAGES[after.kind]]}; put it before"
            )
    kinds = [item.kind for item in sizing]
    twice = next((kind for kind in kinds if kinds.count(kind) > 1), None)
    if twice is not None:
        raise ValueError(f"sizing names {twice} twice; once is enough")
