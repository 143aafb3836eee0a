"""The accounting function: one portfolio, one bar. Training, backtest and live trading all step through it.

In order: financing accrues on what was held since the previous fill, and dividends and funding are paid on it, see
`jaxppo.envs.execution.payments`; due orders fill at the open, or at their limits (see
`jaxppo.envs.execution.limit_orders`), as far as halts, volume and the leverage limit allow, at a cost; positions in
assets that have ended are settled, without cost; exits close positions at their prices, see
`jaxppo.envs.execution.exits`; the book is marked at the close; equity below the maintenance margin is liquidated there,
halted or not and whatever the volume, so that the account ends with the bar.

With displacement, fills pay, or earn, what the account's earlier trades have left of it, as a cost of impact. The book
is marked at the market's own closes, so that no trade raises the equity by moving a mark.

Profit is booked as price differences and summed with compensation (Kahan), so float32 equity stays within 1e-5 of a
float64 cash ledger after 100,000 bars; cash is derived, never accumulated.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.envs.execution import exits, limit_orders
from jaxppo.envs.execution.bars import Bar
from jaxppo.envs.execution.costs import Costs, TradeCosts, fillable, trade_costs
from jaxppo.envs.execution.fill_rule import FillRule, check_agree, check_latency
from jaxppo.envs.execution.financing import financing
from jaxppo.envs.execution.impact import displace, relax, undisplaced
from jaxppo.envs.execution.lots import whole_fills, whole_orders
from jaxppo.envs.execution.margin import least_equity, leverage_use
from jaxppo.envs.execution.payments import after_dividends, booked, payments
from jaxppo.envs.market.kernels import once
from jaxppo.envs.market.safe import ratio

LEVERAGE_ROUNDING = 1e-5
"""Share of the leverage limit that counts as rounding: such an excess is let pass, such a room is not traded."""


class Portfolio(struct.PyTreeNode):
    """One account at the close of a bar.

    Attributes:
      shares: `[A]` positions, signed.
      price: `[A]` marks: the last closes.
      equity: `[]` currency.
      equity_error: `[]` currency, running compensation of `equity` (Kahan).
      peak_equity: `[]` currency, highest equity so far.
      unfilled: `[A]` shares of due orders still to be worked.
      in_flight: `latency_bars - 1` arrays `[A]`, shares ordered and not yet due, oldest first.
      displaced: `Displaced`, what the account's trades have left in the market; `()` without displacement.
      guard: `Guard`, what exits remember of the positions; `()` without exits.
      resting: `Resting`, what limit orders remember; `()` without them.
    """

    shares: jax.Array
    price: jax.Array
    equity: jax.Array
    equity_error: jax.Array
    peak_equity: jax.Array
    unfilled: jax.Array
    in_flight: tuple[jax.Array, ...]
    displaced: Any = ()
    guard: Any = ()
    resting: Any = ()


class Fills(struct.PyTreeNode):
    """What happened to a portfolio in one bar.

    Attributes:
      quantity: `[A]` shares of orders that filled, signed; positions in assets that have ended are settled by it too.
      price: `[A]` mid price of the fills, before costs and displacement; of a settlement what it pays.
      costs: currency per asset, by kind; includes the costs of exits and of a liquidation.
      financing: `[]` currency: borrow fee on shorts and interest on negative cash since the previous bar, less that on
        positive cash, and funding; negative for an income.
      liquidated: `[]` bool: equity fell below the maintenance margin at the close; every position was closed there.
        Stays true while equity is negative.
      liquidation: `[A]` shares closed by a liquidation, signed.
      settled: `[A]` shares of `quantity` that settle positions; `()` where no asset ends.
      exited: `Exited`, what exits closed after that; `()` without exits.
      payments: `Payments`, what positions were paid at the open; `()` in a market without dividends and funding.
    """

    quantity: jax.Array
    price: jax.Array
    costs: TradeCosts
    financing: jax.Array
    liquidated: jax.Array
    liquidation: jax.Array
    settled: Any = ()
    exited: Any = ()
    payments: Any = ()


def open_portfolio(price: jax.Array, cash: jax.Array | float, rule: FillRule) -> Portfolio:
    """Opens a flat portfolio.

    Args:
      price: `[A]` at which it is marked, currency per share.
      cash: `[]` currency.
      rule: how orders will reach the market.
    """
    zeros = jnp.zeros_like(price)
    cash = jnp.asarray(cash, price.dtype)
    return Portfolio(
        shares=zeros,
        price=price,
        equity=cash,
        equity_error=jnp.zeros_like(cash),
        peak_equity=cash,
        unfilled=zeros,
        in_flight=(zeros,) * (rule.latency_bars - 1),
        displaced=undisplaced(price) if rule.displacement else (),
        guard=exits.unguarded(price) if rule.exits else (),
        resting=limit_orders.nothing_rests(price, rule.latency_bars) if rule.limit_orders else (),
    )


def expected_weights(portfolio: Portfolio) -> jax.Array:
    """Position weights `[A]` once the outstanding orders are filled."""
    return weights_of(portfolio.replace(shares=portfolio.shares + outstanding(portfolio)))


def outstanding(portfolio: Portfolio) -> jax.Array:
    """Shares `[A]` ordered and not yet filled."""
    return sum(portfolio.in_flight, start=portfolio.unfilled)


def orders_to_target(
    portfolio: Portfolio, weights: jax.Array, hold: jax.Array, costs: Costs, use: jax.Array | float = 1.0
) -> jax.Array:
    """Orders that bring the portfolio from where its outstanding orders leave it to the target weights.

    If the gross target exceeds `costs.max_leverage`, the weights of the assets that are not held are scaled down to
    what the held ones leave free; a held position is never touched.

    Args:
      portfolio: at the close of the decision bar.
      weights: `[A]` target position value as a fraction of equity, signed.
      hold: `[A]` bool, leave this asset (and its outstanding order) alone.
      costs: cost parameters.
      use: `[A]` share of a position's value that counts as gross, see `leverage_use`; 1.0 for all of it.

    Returns:
      `[A]` shares, signed, in whole lots if there are such; exactly 0 where only rounding is left to trade. Without
      equity they close what is not held.
    """
    expected = portfolio.shares + outstanding(portfolio)
    equity = jnp.maximum(portfolio.equity, 0.0)
    target = weights * target_scale(portfolio, weights, hold, costs, use) * equity / portfolio.price
    rounding = _rounding(portfolio.shares, portfolio.unfilled, *portfolio.in_flight)
    orders = jnp.where(hold, 0.0, _snap(target - expected, rounding))
    return whole_orders(orders, expected, portfolio.price, costs)


def target_scale(
    portfolio: Portfolio, weights: jax.Array, hold: jax.Array, costs: Costs, use: jax.Array | float = 1.0
) -> jax.Array:
    """What the leverage limit leaves of the targets of the assets that are not held, `[]` in [0, 1].

    Args:
      portfolio: at the close of the decision bar.
      weights: `[A]` target weights, fractions of equity.
      hold: `[A]` bool, assets to leave alone.
      costs: cost parameters.
      use: as in `orders_to_target`.
    """
    expected = portfolio.shares + outstanding(portfolio)
    equity = jnp.maximum(portfolio.equity, 0.0)
    committed = jnp.abs(expected) * portfolio.price * use
    gross_held = jnp.sum(jnp.where(hold, committed, 0.0))
    gross_wanted = jnp.sum(jnp.where(hold, 0.0, jnp.abs(weights) * use)) * equity
    room = jnp.maximum(costs.max_leverage * equity - gross_held, 0.0)
    return jnp.where(gross_wanted > room, ratio(room, gross_wanted, 1.0), 1.0)


def step(portfolio: Portfolio, order: jax.Array, bar: Bar, costs: Costs, rule: FillRule) -> tuple[Portfolio, Fills]:
    """Takes one portfolio from one close to the next, in the order in which the module says.

    `equity' = equity + shares (p - mark + dividend) + shares' (close - p) - costs - financing`, `p` the fill price.

    Args:
      portfolio: at the previous close.
      order: `[A]` shares decided at that close, signed.
      bar: the bar to live through.
      costs: cost parameters.
      rule: latency, carry and fill price (static).

    Returns:
      The portfolio at the close of `bar`, and what happened. An equity below zero is a debt and is kept.

    Raises:
      ValueError: costs and rule disagree on displacement, exits, limit orders or latency.
    """
    check_agree(costs, rule)
    check_latency(costs, rule)
    due, *in_flight = _queue(portfolio.in_flight, order, costs.latency)
    rounding = _rounding(portfolio.shares, portfolio.unfilled, due)
    wanted = _snap(due + portfolio.unfilled, rounding)
    if rule.exits:
        wanted = exits.resumed(portfolio.guard, portfolio.shares, wanted)
    goal = _snap(portfolio.shares + wanted, rounding)
    price = bar.open if rule.fill_price == "next_open" else portfolio.price
    met = limit_orders.met(portfolio, due, wanted, price, bar, costs)
    quantity, price = once(_filled, portfolio, met.wanted, bar, costs, met.at_open), met.price
    shares, charged = jnp.where(quantity == wanted, goal, portfolio.shares + quantity), quantity
    settled: Any = ()
    if rule.delisting != "freeze" and not isinstance(bar.ended, tuple):
        ended, earned = bar.ended > 0, 0.0 if rule.delisting == "last_close" else rule.delisting
        quantity, charged = jnp.where(ended, -portfolio.shares, quantity), jnp.where(ended, 0.0, quantity)
        settled = quantity - charged
        price = jnp.where(ended, portfolio.price * (1.0 + earned), price)
        shares, goal, *in_flight = (jnp.where(ended, 0.0, x) for x in (shares, goal, *in_flight))
    displaced = relax(portfolio.displaced, costs.displacement) if rule.displacement else ()
    paid, displaced = _pay(displaced, charged, price, bar, costs)
    paid = limit_orders.capped(paid, charged, met.room)
    financed = financing(portfolio.shares * portfolio.price, portfolio.equity, bar, costs)
    profit = portfolio.shares * (price - portfolio.price) + shares * (bar.close - price)
    received = payments(portfolio.shares, portfolio.price, bar.funding, bar.dividend, rule.fill_price)
    profit, financed = booked(received, profit, financed)
    guard, exited = (), ()
    if rule.exits:
        lived = limit_orders.lived(bar, met, portfolio.shares, shares)
        found = _exit(portfolio, shares, price, quantity, displaced, bar, lived, costs)
        guard, exited, displaced = found.guard, found.exited, found.displaced
        profit = profit + exited.quantity * (bar.close - exited.price)
        paid, shares = jax.tree.map(jnp.add, paid, found.costs), shares + exited.quantity
        goal, *in_flight = (jnp.where(found.hit, 0.0, x) for x in (goal, *in_flight))
    equity, error = _add(portfolio.equity, portfolio.equity_error, jnp.sum(profit - paid.total()) - financed)

    liquidated = equity < least_equity(shares, bar, costs)
    liquidation = jnp.where(liquidated, -shares, 0.0)
    forced, displaced = _pay(displaced, liquidation, bar.close, bar, costs)
    equity, error = _add(equity, error, -jnp.sum(forced.total()))

    unfilled = goal - shares if rule.unfilled == "carry" else jnp.zeros_like(wanted)
    new = Portfolio(
        shares=shares + liquidation,
        price=bar.close,
        equity=equity,
        equity_error=error,
        peak_equity=jnp.maximum(portfolio.peak_equity, equity),
        unfilled=jnp.where(liquidated, 0.0, unfilled),
        in_flight=tuple(jnp.where(liquidated, 0.0, later) for later in in_flight),
        displaced=displaced,
        guard=guard,
        resting=met.resting,
    )
    charged_for = jax.tree.map(jnp.add, paid, forced)
    return new, Fills(quantity, price, charged_for, financed, liquidated, liquidation, settled, exited, received)


class _Exit(NamedTuple):
    """What exits did to a portfolio in a bar: see `Guard` and `Exited`; `hit` `[A]` bool, where the bar met one."""

    guard: exits.Guard
    hit: jax.Array
    exited: exits.Exited
    costs: TradeCosts
    displaced: Any


def _exit(
    portfolio: Portfolio,
    shares: jax.Array,
    price: jax.Array,
    quantity: jax.Array,
    displaced: Any,
    bar: Bar,
    lived: Bar,
    costs: Costs,
) -> _Exit:
    """Closes positions at the prices of exits, as far as what is left of the bar's volume allows.

    Args:
      portfolio: at the close before.
      shares: `[A]` positions after the fills of orders.
      price: `[A]` of these fills.
      quantity: `[A]` shares that filled, signed.
      displaced: after these fills.
      bar: in which they filled.
      lived: that bar from the fills on, with high and low.
      costs: with exits.
    """
    guard = portfolio.guard
    closing = (guard.blocked > 0) & (portfolio.shares != 0)
    entry, best = (after_dividends(x, portfolio.price, bar.dividend) for x in (guard.entry, guard.best))
    guard = exits.followed(guard.replace(entry=entry, best=best), portfolio.shares, shares, price)
    hit, at = exits.touched(guard, shares, lived, costs.exits)
    wanted = jnp.where(hit, -shares, 0.0)
    room = jnp.where(bar.available_volume > 0, costs.participation_limit * bar.available_volume, 0.0)
    left = _snap(jnp.maximum(room - jnp.abs(quantity), 0.0), _rounding(quantity))
    closed = whole_fills(jnp.clip(wanted, -left, left), wanted, costs)
    paid, displaced = _pay(displaced, closed, at, bar, costs)
    guard = exits.after_bar(guard, hit, closing, shares + closed, bar.close, costs.exits)
    return _Exit(guard, hit, exits.Exited(closed, at, paid.total()), paid, displaced)


def _queue(in_flight: tuple[jax.Array, ...], order: jax.Array, latency: Any) -> tuple[jax.Array, ...]:
    """Shares `[A]` that are due in each of the next bars, with a new order; `latency` as in `Costs`."""
    if isinstance(latency, tuple):
        return (*in_flight, order)
    later = (*in_flight, jnp.zeros_like(order))
    return tuple(due + jnp.where(latency[bar], order, 0.0) for bar, due in enumerate(later))


def _pay(displaced: Any, quantity: jax.Array, price: jax.Array, bar: Bar, costs: Costs) -> tuple[TradeCosts, Any]:
    """What fills cost, displacement included, and what they leave of it; arguments as those of `trade_costs`."""
    paid = trade_costs(quantity, price, bar, costs)
    if isinstance(displaced, tuple):
        return paid, displaced
    unit = bar.volatility * price / bar.average_volume
    own, displaced = displace(displaced, quantity, unit, costs.displacement)
    return paid.replace(impact=paid.impact + own), displaced


def _filled(portfolio: Portfolio, wanted: jax.Array, bar: Bar, costs: Costs, at_open: Any) -> jax.Array:
    """Shares `[A]` of an order that fill: as far as halts, volume and the leverage limit allow; `at_open` of `Met`."""
    filled = _within_leverage(portfolio, fillable(wanted, bar, costs), costs, leverage_use(bar, costs), at_open)
    return whole_fills(filled, wanted, costs)


def _within_leverage(
    portfolio: Portfolio, quantity: jax.Array, costs: Costs, use: jax.Array | float, at_open: Any
) -> jax.Array:
    """Scales fills that add exposure to what `max_leverage` leaves after those that reduce it, `[A]`.

    Measured at the last marks, at which orders are sized: it binds where a reduction that was to pay for an addition
    did not fill, or an old order is worked after prices have moved. Reductions are never touched.
    """
    opposite = portfolio.shares * quantity < 0
    closing = jnp.minimum(jnp.abs(quantity), jnp.abs(portfolio.shares))
    reducing = jnp.where(opposite, jnp.sign(quantity) * closing, 0.0)
    adding = quantity - reducing
    held = limit_orders.committed(jnp.abs(portfolio.shares + reducing), portfolio.shares, adding, at_open)
    kept = jnp.sum(held * portfolio.price * use)
    added = jnp.sum(jnp.abs(adding) * portfolio.price * use)
    limit = costs.max_leverage * jnp.maximum(portfolio.equity, 0.0)
    room = jnp.where(limit - kept > LEVERAGE_ROUNDING * limit, limit - kept, 0.0)
    scale = ratio(room, added, 1.0)
    return jnp.where(added > room * (1.0 + LEVERAGE_ROUNDING), reducing + scale * adding, quantity)


def weights_of(portfolio: Portfolio) -> jax.Array:
    """Position values as fractions of equity, `[A]`, signed; 0 once equity is gone."""
    value = portfolio.shares * portfolio.price
    return jnp.where(portfolio.equity > 0, value / jnp.where(portfolio.equity > 0, portfolio.equity, 1.0), 0.0)


def drawdown(portfolio: Portfolio) -> jax.Array:
    """Fraction of the peak equity that is lost, `[]`, >= 0."""
    return 1.0 - portfolio.equity / portfolio.peak_equity


def cash(portfolio: Portfolio) -> jax.Array:
    """Equity less the value of the positions, `[]` currency; negative when borrowed. Futures count as if paid for."""
    return portfolio.equity - jnp.sum(portfolio.shares * portfolio.price)


def _rounding(*shares: jax.Array) -> jax.Array:
    """Largest error `[A]` that adding up these `[A]` shares can leave."""
    return 8 * float(jnp.finfo(shares[0].dtype).eps) * functools.reduce(jnp.add, map(jnp.abs, shares))


def _snap(shares: jax.Array, rounding: jax.Array) -> jax.Array:
    """`shares`, exactly 0 where they are rounding: dust would be held, traded and charged a minimum commission.

    The derivative is that of `shares` there too: an account that holds nothing can be led to trade.
    """
    return jnp.where(jnp.abs(shares) <= rounding, shares - jax.lax.stop_gradient(shares), shares)


def _add(total: jax.Array, error: jax.Array, amount: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One step of compensated summation: `(total + amount, new compensation)`."""
    corrected = amount - error
    new = total + corrected
    return new, (new - total) - corrected
