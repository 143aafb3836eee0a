"""Masks that depend on the account: risk budgets, liquidity, turnover, holding periods."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from pydantic import Field

from jaxppo.arguments import CodeOnly, Multiple, PositiveFraction, PositiveInt, PositiveRatio, Ratio, Text, checked
from jaxppo.envs.execution.limits import GrossBudgets, Limits, NetBudget, QuadraticBudget, no_limits
from jaxppo.envs.execution.portfolio import Portfolio, drawdown, expected_weights, outstanding
from jaxppo.envs.market.covariance import ewma_covariance
from jaxppo.envs.market.features import average_volume
from jaxppo.envs.trading.transform import MaskTransform
from jaxppo.envs.trading.view import MarketView
from jaxppo.masks.market import box_limits


class GroupBudget(NamedTuple):
    """A budget that several assets share, such as those of a sector.

    Attributes:
      symbols: assets of the group.
      limit: largest sum of their absolute weights.
    """

    symbols: Annotated[tuple[Text, ...], Field(min_length=1)]
    limit: PositiveRatio


@checked
def risk_budget(
    *,
    asset: PositiveRatio | None = None,
    gross: PositiveRatio | None = None,
    net: tuple[Ratio, Ratio] | None = None,
    groups: Mapping[Text, GroupBudget] | None = None,
    concentration: PositiveRatio | None = None,
    volatility: PositiveRatio | None = None,
    span: PositiveInt = 63,
    drawdown_budget: PositiveFraction | None = None,
    force: Multiple | None = None,
    names: CodeOnly[tuple[str, ...]] = (),
) -> MaskTransform:
    """Limits positions to budgets of risk, fractions of equity unless said otherwise; None leaves one out.

    Args:
      asset: largest absolute weight of one asset.
      gross: largest sum of absolute weights: the leverage.
      net: smallest and largest sum of weights; must contain 0.
      groups: budgets of groups of assets, such as sectors, by name.
      concentration: largest sum of squared weights: with a gross exposure of 1, the inverse of the least number of
        equal positions.
      volatility: largest forecast volatility of the portfolio, per year.
      span: bars of the exponential covariance behind that forecast.
      drawdown_budget: drawdown at which nothing may be opened; the gross budget (1 if there is none) shrinks in
        proportion to what is left of it.
      force: multiple of a budget beyond which positions are reduced to it; None for never.
      names: symbols of the market's assets, in order.

    Raises:
      ValueError: no budget, or an unknown symbol.
    """
    if all(budget is None for budget in (asset, gross, net, concentration, volatility, drawdown_budget)) and not groups:
        raise ValueError("a risk budget must limit something: asset, gross, net, groups, concentration, volatility ...")
    if net is not None and not net[0] <= 0 <= net[1]:
        raise ValueError(f"net is {list(net)}; it must contain 0")
    member = jnp.asarray(_members(groups or {}, names), bool).reshape(len(groups or {}), len(names))
    group_limit = jnp.asarray([limit for _, limit in (groups or {}).values()], jnp.float32)
    multiple = jnp.inf if force is None else force

    def table(view: MarketView) -> Any:
        if groups and view.market.n_assets != len(names):
            raise ValueError(f"the market has {view.market.n_assets} assets, but {len(names)} names were given")
        if volatility is None:
            return ()
        return ewma_covariance(view.market, span) * view.periods

    def apply(state: Any, covariance: jax.Array, portfolio: Portfolio) -> tuple[Limits, Any]:
        n_assets = portfolio.shares.shape[0]
        ones = jnp.ones(n_assets)
        limits = no_limits(n_assets)
        if asset is not None:
            limits = box_limits(-asset * ones, asset * ones, force)
        budgets: list[GrossBudgets | NetBudget | QuadraticBudget] = []
        if gross is not None or drawdown_budget is not None:
            limit = jnp.asarray(1.0 if gross is None else gross)
            if drawdown_budget is not None:
                limit = limit * jnp.clip(1.0 - drawdown(portfolio) / drawdown_budget, 0.0, 1.0)
            budgets.append(_gross(jnp.ones((1, n_assets), bool), limit[None], multiple))
        if groups:
            budgets.append(_gross(member, group_limit, multiple))
        if net is not None:
            box = box_limits(jnp.asarray([net[0]]), jnp.asarray([net[1]]), force)
            budgets.append(NetBudget(*(x[0] for x in (box.low, box.high, box.forced_low, box.forced_high))))
        if concentration is not None:
            budgets.append(_quadratic(jnp.eye(n_assets), concentration, multiple * concentration))
        if volatility is not None:
            budgets.append(_quadratic(covariance, volatility**2, (multiple * volatility) ** 2))
        return dataclasses.replace(limits, budgets=tuple(budgets)), state

    return MaskTransform("risk_budget", apply, table=table, warmup=0 if volatility is None else span)


def _gross(member: jax.Array, limit: jax.Array, multiple: float) -> GrossBudgets:
    forced = jnp.full_like(limit, jnp.inf) if math.isinf(multiple) else multiple * limit
    return GrossBudgets(member, limit, forced)


def _quadratic(matrix: jax.Array, limit: float, forced: float) -> QuadraticBudget:
    return QuadraticBudget(matrix, jnp.asarray(limit), jnp.asarray(forced))


def _members(groups: Mapping[str, GroupBudget], names: tuple[str, ...]) -> list[list[bool]]:
    for name, (symbols, _) in groups.items():
        unknown = [symbol for symbol in symbols if symbol not in names]
        if unknown:
            raise ValueError(
                f"groups {name}: {unknown[0]!r} is not in the market; it has {', '.join(names) or 'no names'}"
            )
    return [[name in symbols for name in names] for symbols, _ in groups.values()]


@checked
def liquidity(
    *, spread: PositiveRatio | None = None, participation: PositiveRatio | None = None, span: PositiveInt = 21
) -> MaskTransform:
    """Forbids new positions in wide spreads, and increases larger than a share of what usually trades in a bar.

    Args:
      spread: widest half-spread at the close, fraction of the price; None for any.
      participation: largest increase as a share of the average volume of a bar; None for any. Assets whose volume is
        not reported are not limited.
      span: bars of that average.

    Raises:
      ValueError: neither is given.
    """
    if spread is None and participation is None:
        raise ValueError("liquidity must limit something: spread or participation")

    def table(view: MarketView) -> dict[str, jax.Array]:
        market = view.market
        rows = {}
        if spread is not None:
            rows["wide"] = market.half_spread > spread
        if participation is not None:
            usual = average_volume(market, span) * participation
            rows["shares"] = jnp.where(market.volume_known[None], usual, jnp.inf)
        return rows

    def apply(state: Any, row: dict[str, jax.Array], portfolio: Portfolio) -> tuple[Limits, Any]:
        expected = expected_weights(portfolio)
        room = jnp.full(expected.shape, jnp.inf)
        if "shares" in row:
            equity = jnp.maximum(portfolio.equity, jnp.finfo(jnp.float32).tiny)
            room = row["shares"] * portfolio.price / equity
        if "wide" in row:
            room = jnp.where(row["wide"], 0.0, room)
        return _increase_of(expected, room), state

    return MaskTransform("liquidity", apply, table=table, warmup=0 if participation is None else span)


def _increase_of(expected: jax.Array, room: jax.Array) -> Limits:
    """Allows positions to grow by `room` `[A]` beyond the expected weights, or to shrink."""
    return box_limits(jnp.minimum(expected - room, 0.0), jnp.maximum(expected + room, 0.0))


class TurnoverState(struct.PyTreeNode):
    """State of the turnover mask.

    Attributes:
      shares: `[A]` positions at the last decision; NaN before the first.
      used: `[]` traded notional in the window, fraction of equity.
    """

    shares: jax.Array
    used: jax.Array


@checked
def turnover(limit: PositiveRatio, *, window: PositiveInt = 1) -> MaskTransform:
    """Limits traded notional by a budget that trades use up and that comes back evenly over a window.

    `used_t = (1 - 1 / window) used_{t-1} + traded_t`; positions may be increased by what outstanding orders leave of
    it, by all assets together. Reductions are always allowed, and count.

    Args:
      limit: largest notional in use, fraction of equity; with a window of 1 that of a single bar.
      window: bars over which the budget comes back.
    """
    fade = 1.0 - 1.0 / window

    def init(n_assets: int) -> TurnoverState:
        return TurnoverState(jnp.full(n_assets, jnp.nan), jnp.zeros(()))

    def apply(state: TurnoverState, row: Any, portfolio: Portfolio) -> tuple[Limits, TurnoverState]:
        equity = jnp.maximum(portfolio.equity, jnp.finfo(jnp.float32).tiny)
        change = jnp.where(jnp.isnan(state.shares), 0.0, jnp.abs(portfolio.shares - state.shares))
        traded = jnp.sum(change * portfolio.price) / equity
        # What was traded in the bar that just closed counts in full; what it left of older trades has faded once more.
        used = fade * state.used + traded
        n_assets = portfolio.shares.shape[0]
        on_order = jnp.sum(jnp.abs(outstanding(portfolio)) * portfolio.price) / equity
        left = jnp.maximum(limit - fade * used - on_order, 0.0)
        everything, never = jnp.ones((1, n_assets), bool), jnp.full(1, jnp.inf)
        budget = GrossBudgets(everything, left[None], never, expected_weights(portfolio))
        limits = dataclasses.replace(no_limits(n_assets), budgets=(budget,))
        return limits, TurnoverState(portfolio.shares, used)

    return MaskTransform("turnover", apply, init)


class HoldingState(struct.PyTreeNode):
    """State of the holding-period mask, `[A]` each.

    Attributes:
      shares: positions at the last decision, with outstanding orders; NaN before the first.
      since_increase: bars since the position was last opened or increased; large before the first time.
      since_opening: closes that have seen the position, that of its opening included; 0 for none.
    """

    shares: jax.Array
    since_increase: jax.Array
    since_opening: jax.Array


@checked
def holding_period(*, minimum: PositiveInt | None = None, maximum: PositiveInt | None = None) -> MaskTransform:
    """Limits how often positions may be opened, and how long they may be held.

    Reducing a position is never masked, so it is not how soon a position may be closed that `minimum` limits, but how
    soon it may be opened or increased again. Orders count when they are placed.

    Args:
      minimum: bars after an opening or increase in which there is no other one of that asset; None for 0.
      maximum: closes, counted from the opening, at the last of which a position is given up; None for never. An order
        that fills in the next bar thus ends a position that was there at as many closes.

    Raises:
      ValueError: neither is given.
    """
    if minimum is None and maximum is None:
        raise ValueError("a holding period must have a minimum or a maximum")
    long_ago = jnp.iinfo(jnp.int32).max // 2

    def init(n_assets: int) -> HoldingState:
        old = jnp.full(n_assets, long_ago, jnp.int32)
        return HoldingState(jnp.full(n_assets, jnp.nan), old, jnp.zeros(n_assets, jnp.int32))

    def apply(state: HoldingState, row: Any, portfolio: Portfolio) -> tuple[Limits, HoldingState]:
        shares, first = portfolio.shares + outstanding(portfolio), jnp.isnan(state.shares)
        before = jnp.where(first, shares, state.shares)
        opened = (shares != 0) & (jnp.sign(shares) != jnp.sign(before))
        increased = opened | (jnp.abs(shares) > jnp.abs(before) * (1.0 + 1e-5))
        since_increase = jnp.where(increased, 0, jnp.minimum(state.since_increase + 1, long_ago))
        since_opening = jnp.where(shares == 0, 0, jnp.where(opened, 1, state.since_opening + 1))
        n_assets = shares.shape[0]
        limits = no_limits(n_assets)
        if minimum is not None:
            wait = since_increase < minimum
            limits = _increase_of(expected_weights(portfolio), jnp.where(wait, 0.0, jnp.inf))
        if maximum is not None:
            most = jnp.where(since_opening >= maximum, 0.0, jnp.inf)
            limits = dataclasses.replace(
                limits,
                low=jnp.maximum(limits.low, -most),
                high=jnp.minimum(limits.high, most),
                forced_low=-most,
                forced_high=most,
            )
        return limits, HoldingState(shares, since_increase, since_opening)

    return MaskTransform("holding_period", apply, init)
