"""Masks that depend on the account: risk budgets, liquidity, turnover, holding periods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.envs.execution.limits import GrossBudgets, Limits, NetBudget, QuadraticBudget, no_limits
from jaxppo.envs.execution.portfolio import Portfolio, drawdown, expected_weights, outstanding
from jaxppo.envs.market.covariance import ewma_covariance
from jaxppo.envs.market.features import average_volume
from jaxppo.envs.trading.view import MarketView
from jaxppo.masks.market import box_limits
from jaxppo.masks.transform import MaskTransform


def risk_budget(
    *,
    asset: float | None = None,
    gross: float | None = None,
    net: tuple[float, float] | None = None,
    groups: Mapping[str, tuple[Sequence[str], float]] | None = None,
    concentration: float | None = None,
    volatility: float | None = None,
    span: int = 63,
    drawdown_budget: float | None = None,
    force: float | None = None,
    names: tuple[str, ...] = (),
) -> MaskTransform:
    """Budgets of risk, each a fraction of equity unless said otherwise; None leaves one out.

    Args:
      asset: largest absolute weight of one asset.
      gross: largest sum of absolute weights, which is the leverage.
      net: smallest (<= 0) and largest (>= 0) sum of weights.
      groups: name -> (symbols, largest sum of their absolute weights), for sectors.
      concentration: largest sum of squared weights: with a gross exposure of 1, the inverse of the least number of
        equal positions.
      volatility: largest forecast volatility of the portfolio, per year.
      span: bars of the exponential covariance behind it.
      drawdown_budget: drawdown at which nothing may be opened any more; the gross budget (1 if there is none) shrinks
        in proportion to what is left of it.
      force: multiple of a budget, >= 1, beyond which positions are reduced to it; None for never.
      names: symbols of the market's assets, in order.

    Raises:
      ValueError: no budget, an unknown symbol, or an argument outside its range.
    """
    positive = {"asset": asset, "gross": gross, "concentration": concentration, "volatility": volatility}
    positive |= {"drawdown_budget": drawdown_budget} | {f"groups {k}": v[1] for k, v in (groups or {}).items()}
    given = {name: value for name, value in positive.items() if value is not None}
    for name, value in given.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}; it must be > 0")
    if not given and net is None:
        raise ValueError("a risk budget must limit something: asset, gross, net, groups, concentration, volatility ...")
    if net is not None and not net[0] <= 0 <= net[1]:
        raise ValueError(f"net is {list(net)}; it must contain 0")
    if force is not None and force < 1:
        raise ValueError(f"force is {force}; it must be at least 1")
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
        budgets = []
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
        return limits.replace(budgets=tuple(budgets)), state

    return MaskTransform("risk_budget", table, lambda n_assets: (), apply)


def _gross(member: jax.Array, limit: jax.Array, multiple: float) -> GrossBudgets:
    return GrossBudgets(member, limit, jnp.where(jnp.isinf(multiple), jnp.inf, multiple * limit))


def _quadratic(matrix: jax.Array, limit: float, forced: float) -> QuadraticBudget:
    return QuadraticBudget(matrix, jnp.asarray(limit), jnp.asarray(forced))


def _members(groups: Mapping[str, tuple[Sequence[str], float]], names: tuple[str, ...]) -> list[list[bool]]:
    for name, (symbols, _) in groups.items():
        unknown = [symbol for symbol in symbols if symbol not in names]
        if unknown:
            raise ValueError(
                f"groups {name}: {unknown[0]!r} is not in the market; it has {', '.join(names) or 'no names'}"
            )
    return [[name in symbols for name in names] for symbols, _ in groups.values()]


def liquidity(*, spread: float | None = None, participation: float | None = None, span: int = 21) -> MaskTransform:
    """No new positions in wide spreads, and no increase larger than a share of what usually trades in a bar.

    Args:
      spread: widest half-spread at the close, as a fraction of the price; None for any.
      participation: largest increase as a share of the average volume of a bar; None for any. Assets whose volume is
        not reported are not limited.
      span: bars of that average.

    Raises:
      ValueError: neither is given, or one is not > 0.
    """
    given = {name: value for name, value in (("spread", spread), ("participation", participation)) if value is not None}
    if not given:
        raise ValueError("liquidity must limit something: spread or participation")
    for name, value in given.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}; it must be > 0")

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

    return MaskTransform("liquidity", table, lambda n_assets: (), apply)


def _increase_of(expected: jax.Array, room: jax.Array) -> Limits:
    """Positions may grow by `room` `[A]` from what is expected, or shrink."""
    return box_limits(jnp.minimum(expected - room, 0.0), jnp.maximum(expected + room, 0.0))


@struct.dataclass
class TurnoverState:
    """What the turnover mask remembers.

    Attributes:
      shares: `[A]` at the last decision; NaN before the first.
      used: `[]` traded notional in the window, fraction of equity.
    """

    shares: jax.Array
    used: jax.Array


def turnover(limit: float, *, window: int = 1) -> MaskTransform:
    """A budget of traded notional: it is used up by trades and comes back evenly over a window.

    `used_t = (1 - 1 / window) used_{t-1} + traded_t`; positions may be increased by what outstanding orders leave of
    it, by all assets together. Reductions are always allowed, and count.

    Args:
      limit: largest `used`, fraction of equity, > 0; with a window of 1 that of a single bar.
      window: bars.

    Raises:
      ValueError: an argument outside its range.
    """
    if not limit > 0 or window < 1:
        raise ValueError(f"limit ({limit}) must be > 0 and window ({window}) >= 1")
    kept = 1.0 - 1.0 / window

    def init(n_assets: int) -> TurnoverState:
        return TurnoverState(jnp.full(n_assets, jnp.nan), jnp.zeros(()))

    def apply(state: TurnoverState, row: Any, portfolio: Portfolio) -> tuple[Limits, TurnoverState]:
        equity = jnp.maximum(portfolio.equity, jnp.finfo(jnp.float32).tiny)
        change = jnp.where(jnp.isnan(state.shares), 0.0, jnp.abs(portfolio.shares - state.shares))
        traded = jnp.sum(change * portfolio.price) / equity
        # What was traded in the bar that just closed counts in full; what it left of older trades has faded once more.
        used = kept * state.used + traded
        n_assets = portfolio.shares.shape[0]
        on_order = jnp.sum(jnp.abs(outstanding(portfolio)) * portfolio.price) / equity
        left = jnp.maximum(limit - kept * used - on_order, 0.0)
        everything, never = jnp.ones((1, n_assets), bool), jnp.full(1, jnp.inf)
        budget = GrossBudgets(everything, left[None], never, expected_weights(portfolio))
        limits = no_limits(n_assets).replace(budgets=(budget,))
        return limits, TurnoverState(portfolio.shares, used)

    return MaskTransform("turnover", lambda view: (), init, apply)


@struct.dataclass
class HoldingState:
    """What the holding-period mask remembers, `[A]` each.

    Attributes:
      shares: at the last decision, with outstanding orders; NaN before the first.
      since_increase: bars since the position was last opened or increased; large before the first time.
      since_opening: closes that have seen the position, that of its opening included; 0 for none.
    """

    shares: jax.Array
    since_increase: jax.Array
    since_opening: jax.Array


def holding_period(*, minimum: int | None = None, maximum: int | None = None) -> MaskTransform:
    """How often positions may be opened, and how long they may be held.

    Reducing a position is never masked, so it is not how soon a position may be closed that `minimum` limits, but how
    soon it may be opened or increased again. Orders count when they are placed.

    Args:
      minimum: bars after an opening or increase in which there is no other one of that asset; None for 0.
      maximum: closes, counted from the opening, at the last of which a position is given up; None for never. An order
        that fills in the next bar thus ends a position that was there at as many closes.

    Raises:
      ValueError: neither is given, or one is not >= 1.
    """
    given = {name: value for name, value in (("minimum", minimum), ("maximum", maximum)) if value is not None}
    if not given:
        raise ValueError("a holding period must have a minimum or a maximum")
    for name, value in given.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1 bar")
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
            limits = limits.replace(
                low=jnp.maximum(limits.low, -most),
                high=jnp.minimum(limits.high, most),
                forced_low=-most,
                forced_high=most,
            )
        return limits, HoldingState(shares, since_increase, since_opening)

    return MaskTransform("holding_period", lambda view: (), init, apply)
