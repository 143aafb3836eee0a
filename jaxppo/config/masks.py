"""Keys of the masks that a configuration can list; see `jaxppo.masks` for what each one does."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from jaxppo.config.items import Item, Keys

Share = Annotated[float, Field(gt=0.0, le=1e6)]
Multiple = Annotated[float, Field(ge=1.0, le=1e6)]
Span = Annotated[int, Field(ge=1, le=2**20)]
Minutes = Annotated[float, Field(ge=0.0, le=1e6)]
Name = Annotated[str, Field(min_length=1)]
Weight = Annotated[float, Field(ge=-1e6, le=1e6)]


class RegimeMask(Keys):
    """Allowed sides and sizes in each regime, [smallest, largest] weight in units of `env.position_limit`."""

    bull: tuple[Weight, Weight] | None = None
    """In a bull market; absent: no limit."""
    bear: tuple[Weight, Weight] | None = None
    """In a bear market."""
    sideways: tuple[Weight, Weight] | None = None
    """In a sideways market."""
    crisis: tuple[Weight, Weight] | None = None
    """In a crisis."""
    force: bool = False
    """Whether positions beyond the range are given up when a regime begins."""


class VolatilityCapMask(Keys):
    """No position whose own forecast volatility exceeds a target."""

    target: Share
    """Volatility that one position may add by itself, per year, fraction of equity."""
    span: Span = 21
    """Bars of the exponential forecast of volatility."""
    hysteresis: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """A cap that fell rises again once the forecast allows one larger by this fraction."""
    force: Multiple | None = None
    """Multiple of the cap beyond which positions are reduced to it; absent: never."""


class GroupBudget(Keys):
    """A budget shared by some assets."""

    symbols: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Assets of the group."""
    limit: Share
    """Largest sum of their absolute weights."""


class RiskBudgetMask(Keys):
    """Budgets of risk, fractions of equity unless said otherwise; what is absent is not limited."""

    asset: Share | None = None
    """Largest absolute weight of one asset."""
    gross: Share | None = None
    """Largest sum of absolute weights: the leverage."""
    net: tuple[Weight, Weight] | None = None
    """Smallest and largest sum of weights; must contain 0."""
    groups: dict[Name, GroupBudget] | None = None
    """Budgets of groups of assets, such as sectors."""
    concentration: Share | None = None
    """Largest sum of squared weights."""
    volatility: Share | None = None
    """Largest forecast volatility of the portfolio, per year."""
    span: Span = 63
    """Bars of the exponential covariance behind it."""
    drawdown_budget: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Drawdown at which nothing may be opened; the gross budget (1 if absent) shrinks in proportion to what is left."""
    force: Multiple | None = None
    """Multiple of a budget beyond which positions are reduced to it; absent: never."""


class SessionMask(Keys):
    """Trading hours of an exchange: when positions may be opened, and when there must be none."""

    calendar: Name | None = None
    """exchange_calendars name; absent: `data.calendar`."""
    open_minutes: Minutes = 0.0
    """No new positions earlier than this after the open."""
    close_minutes: Minutes = 0.0
    """No new positions in this many minutes before the close."""
    flat_minutes: Minutes | None = None
    """Positions are closed from this many minutes before the close, at least `env.latency_bars` bars; absent: never."""


class LiquidityMask(Keys):
    """No new positions in wide spreads, and no increase larger than a share of the usual volume."""

    spread: Share | None = None
    """Widest half-spread, fraction of the price."""
    participation: Share | None = None
    """Largest increase as a share of the average volume of a bar."""
    span: Span = 21
    """Bars of that average."""


class TurnoverMask(Keys):
    """A budget of traded notional that is used up by trades and comes back evenly over a window."""

    limit: Share
    """Traded notional, fraction of equity."""
    window: Span = 1
    """Bars."""


class HoldingPeriodMask(Keys):
    """How often positions may be opened, and how long they may be held."""

    minimum: Span | None = None
    """Bars after an opening or increase in which there is no other one of that asset."""
    maximum: Span | None = None
    """Closes, from the opening on, at the last of which a position is given up."""


class HaltMask(Keys):
    """No new positions in named assets, nor for some bars after a large move."""

    symbols: tuple[Name, ...] = ()
    """Assets that are halted for good."""
    move: Share | None = None
    """Absolute log return of a bar that halts an asset."""
    bars: Span = 1
    """For how many bars, that of the move included."""


class NoShortMask(Keys):
    """No short positions."""


class MaskConfig(Item):
    """One mask: a name and its keys."""

    volatility_cap: VolatilityCapMask | None = None
    regime: RegimeMask | None = None
    risk_budget: RiskBudgetMask | None = None
    session: SessionMask | None = None
    liquidity: LiquidityMask | None = None
    turnover: TurnoverMask | None = None
    holding_period: HoldingPeriodMask | None = None
    halt: HaltMask | None = None
    no_short: NoShortMask | None = None
