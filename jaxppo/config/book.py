"""Keys of a book of strategies in a configuration; see `jaxppo.book` for what each one does."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from jaxppo.config.items import Item, Keys, written_out

PositiveFloat = Annotated[float, Field(gt=0.0, le=1e6)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]
Small = Annotated[float, Field(ge=0.0, lt=1.0)]
Span = Annotated[int, Field(ge=1, le=2**20)]
Several = Annotated[int, Field(ge=2, le=2**20)]
Text = Annotated[str, Field(min_length=1)]
Part = Literal["inverse_risk", "drawdown", "kelly"]


class AgentStrategy(Keys):
    """The policy of the run."""


class RunStrategy(Keys):
    """An agent that was trained before."""

    folder: Text
    """Its run; `{run: FOLDER}` for short."""
    name: Text | None = None
    """In the book; absent: that of the folder."""


class BuyAndHoldStrategy(Keys):
    """Equal weights, bought once."""

    name: Text = "buy_and_hold"
    """In the book."""


class _Rule(Keys):
    gross: PositiveFloat = 1.0
    """Largest gross exposure, fraction of the strategy's equity."""
    tolerance: Small = 0.1
    """An asset is traded when it is off its target by more than this share of it."""


class _Signal(_Rule):
    volatility: PositiveFloat = 0.4
    """Of each position by itself, per year, before it is divided by the number of tradable assets."""
    span: Span = 63
    """Bars of the exponential forecast of volatility."""
    short: bool = True
    """Whether it goes short; otherwise it is flat instead."""


class TrendStrategy(_Signal):
    """Time-series momentum."""

    lookback: Span = 252
    """Bars over which the sign of the return counts."""
    name: Text = "trend"
    """In the book."""


class MeanReversionStrategy(_Signal):
    """Buys what is far below its recent mean and sells what is far above."""

    window: Annotated[int, Field(ge=3, le=2**20)] = 20
    """Bars of mean and deviation."""
    entry: PositiveFloat = 1.25
    """Distance from the mean, in deviations, at which a position is opened."""
    leave: Annotated[float, Field(ge=0.0, le=1e6)] = 0.5
    """Distance at which it is closed; less than `entry`."""
    name: Text = "mean_reversion"
    """In the book."""


class InverseVolatilityStrategy(_Rule):
    """Long in proportion to the inverse of the volatility."""

    span: Span = 63
    """Bars of the exponential forecast of volatility."""
    name: Text = "inverse_volatility"
    """In the book."""


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
    """The account holds what several strategies hold, by capital; what comes before it sizes the agent alone."""

    strategies: Annotated[tuple[StrategyConfig, ...], BeforeValidator(_written_out), Field(min_length=1)]
    """The strategies, `agent` among them, such as `[agent, trend, buy_and_hold, {run: runs/NAME}]`."""
    parts: tuple[Part, ...] = ("inverse_risk", "drawdown", "kelly")
    """What capital follows; none: equal capital."""
    span: Several = 63
    """Bars of the exponential covariance of the strategies' returns."""
    mean_span: Several = 504
    """Bars of the exponential mean behind Kelly."""
    warmup: Several = 63
    """Bars with equal capital."""
    drawdown_limit: Share = 0.25
    """Drawdown at which a strategy's capital has shrunk to nothing."""
    kelly_fraction: PositiveFloat = 0.5
    """Of the Kelly position."""
    cut: Share = 0.2
    """Drawdown beyond which a strategy is cut."""
    readmit: Small = 0.1
    """Drawdown at which it is re-admitted; less than `cut`."""
    cooldown: Span | None = 63
    """Bars after which it is re-admitted at any drawdown, counted from then on; null: never."""
    max_total: PositiveFloat = 1.0
    """Largest sum of capital, fraction of equity."""
    rebalance: Small = 0.05
    """Capital that may be off before it is allocated anew, fraction of equity."""
