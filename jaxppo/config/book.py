"""Keys of a book of strategies, in the list of sizing transforms."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from jaxppo.arguments import (
    AtLeastThree,
    AtLeastTwo,
    NonNegativeRatio,
    PositiveFraction,
    PositiveInt,
    PositiveRatio,
    ProperFraction,
    Text,
)
from jaxppo.config.items import Item, Keys, written_out

Part = Literal["inverse_risk", "drawdown", "kelly"]


class AgentStrategy(Keys):
    """The policy of the run."""


class RunStrategy(Keys):
    """An agent that was trained before."""

    folder: Text
    """Folder of its run; `{run: FOLDER}` for short."""
    name: Text | None = None
    """Name in the book; absent: that of the folder."""


class BuyAndHoldStrategy(Keys):
    """Equal weights, bought once."""

    name: Text = "buy_and_hold"
    """Name in the book."""


class _Rule(Keys):
    gross: PositiveRatio = 1.0
    """Largest gross exposure, fraction of the strategy's equity."""
    tolerance: ProperFraction = 0.1
    """An asset is traded when it is off its target by more than this share of it."""


class _Signal(_Rule):
    volatility: PositiveRatio = 0.4
    """Volatility of each position by itself, per year, before it is divided by the number of tradable assets."""
    span: PositiveInt = 63
    """Bars of the exponential forecast of volatility."""
    short: bool = True
    """Whether to go short; otherwise the strategy is flat instead."""


class TrendStrategy(_Signal):
    """Time-series momentum."""

    lookback: PositiveInt = 252
    """Bars over which the sign of the return counts."""
    name: Text = "trend"
    """Name in the book."""


class MeanReversionStrategy(_Signal):
    """Buys what is far below its recent mean and sells what is far above."""

    window: AtLeastThree = 20
    """Bars of mean and deviation."""
    entry: PositiveRatio = 1.25
    """Distance from the mean, in deviations, at which a position is opened."""
    leave: NonNegativeRatio = 0.5
    """Distance from the mean, in deviations, at which a position is closed; less than `entry`."""
    name: Text = "mean_reversion"
    """Name in the book."""


class InverseVolatilityStrategy(_Rule):
    """Long in proportion to the inverse of the volatility."""

    span: PositiveInt = 63
    """Bars of the exponential forecast of volatility."""
    name: Text = "inverse_volatility"
    """Name in the book."""


class StrategyConfig(Item):
    """One strategy: a name and its keys."""

    agent: AgentStrategy | None = None
    run: RunStrategy | None = None
    buy_and_hold: BuyAndHoldStrategy | None = None
    trend: TrendStrategy | None = None
    mean_reversion: MeanReversionStrategy | None = None
    inverse_volatility: InverseVolatilityStrategy | None = None


def _written_out(items: Any) -> Any:
    """`written_out`, with `{run: FOLDER}` for `{run: {folder: FOLDER}}`."""
    items = written_out(items)
    if not isinstance(items, list):
        return items
    return tuple(
        {"run": {"folder": item["run"]}} if isinstance(item, dict) and isinstance(item.get("run"), str) else item
        for item in items
    )


class BookSizing(Keys):
    """Holds what several strategies hold, by their allocations; transforms before it size the agent alone."""

    strategies: Annotated[tuple[StrategyConfig, ...], BeforeValidator(_written_out), Field(min_length=1)]
    """The strategies, `agent` among them, such as `[agent, trend, buy_and_hold, {run: runs/NAME}]`."""
    parts: tuple[Part, ...] = ("inverse_risk", "drawdown", "kelly")
    """What allocations follow; none: equal allocations."""
    span: AtLeastTwo = 63
    """Bars of the exponential covariance of the strategies' returns."""
    mean_span: AtLeastTwo = 504
    """Bars of the exponential mean behind Kelly."""
    warmup: AtLeastTwo = 63
    """Bars with equal allocations."""
    drawdown_limit: PositiveFraction = 0.25
    """Drawdown at which the allocation of a strategy has shrunk to nothing."""
    kelly_fraction: PositiveRatio = 0.5
    """Share of the Kelly position that all strategies together may take."""
    cut: PositiveFraction = 0.2
    """Drawdown beyond which a strategy is cut."""
    readmit: ProperFraction = 0.1
    """Drawdown at which a strategy is re-admitted; less than `cut`."""
    cooldown: PositiveInt | None = 63
    """Bars after which a strategy is re-admitted at any drawdown, counted from then on; null: never."""
    max_total: PositiveRatio = 1.0
    """Largest sum of allocations, fraction of equity; above 1 the book borrows."""
    rebalance: ProperFraction = 0.05
    """Sum by which allocations may be off before the book is rebalanced, fraction of equity."""
