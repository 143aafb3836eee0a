"""Limit orders: what was ordered at the close of bar t fills at its limit or better in the bars in which it is due.

A purchase rests at `close_t (1 - offset)`, a sale at `close_t (1 + offset)`. In each bar in which it is worked:

1. at the open, if that is better than the limit (a gap), it fills there, before anything else in the bar;
2. inside the bar, at the limit, if the low or the high goes through it. A price that only touches it fills nothing,
   unless `touch` says so: others were first in the queue.

A fill inside a bar is after the open, and where the bar goes on to is not known:

- an exit that comes first cancels the order: one at the open, and one that lies between the open and the limit. With
  the exit on one side of the open and the limit on the other, that comes first which leaves less at the close;
- a position that is opened, or added to, may meet its stop in the same bar: the low, or the high, comes after the fill.
  It takes its profit only if the close is beyond it;
- it pays for nothing else: what an order inside the bar reduces counts against the leverage limit until the close.

At the ex-date of a dividend limits fall by it, as stops do.

A limit is the worst price: half-spread, slippage and impact are charged up to it and no further. So a fill at the limit
pays the commission alone, as one that makes liquidity does, and a gap pays what any fill at the open pays, if the limit
leaves room for it.

References:
  Harris (2003), Trading and Exchanges, chapter 4 (orders, priority, who pays the spread).
  Handa, Schwartz (1996), Limit order trading, J. Finance 51(5) (what a limit order earns, and loses to news).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.arguments import CodeOnly, checked
from jaxppo.envs.execution import exits
from jaxppo.envs.execution.bars import Bar
from jaxppo.envs.execution.by_symbol import PerSymbolOffset, of_symbols
from jaxppo.envs.execution.costs import Costs, TradeCosts
from jaxppo.envs.execution.payments import after_dividends
from jaxppo.envs.market.safe import size_of

AT_THE_MARKET = 0.0
"""Stands in `Resting` for the close of an order that has no limit."""
NO_BOUND = 1e20
"""Currency per share that an order without a limit may cost beside its price."""


class LimitOrders(struct.PyTreeNode):
    """Where limit orders rest.

    Attributes:
      offset: `[]` or `[A]` fraction of the close of the decision, below it for purchases and above it for sales; below
        0 beyond it, for orders that most opens fill.
      named: `[A]` 1 where an asset has limit orders, 0 where its orders are at the market; `()` where all have.
      touch: static; whether a price that just reaches the limit fills.
    """

    offset: jax.Array
    named: Any = ()
    touch: bool = struct.field(pytree_node=False, default=False)


class Resting(struct.PyTreeNode):
    """What an account remembers of its limit orders, currency per share; 0 for orders at the market.

    Attributes:
      reference: `[A]` close at which the orders that are due were decided last.
      in_flight: `latency_bars - 1` arrays `[A]`, likewise of orders that are not yet due, oldest first.
      urgent: `[A]` bool, what is on order at this close goes on at the market, see `jaxppo.envs.trading.urgent`.
    """

    reference: jax.Array
    in_flight: tuple[jax.Array, ...]
    urgent: jax.Array


class Met(NamedTuple):
    """Orders as a bar meets them; without limit orders all of them at the open.

    Attributes:
      wanted: `[A]` shares that can fill, signed; 0 where the limit is not reached.
      price: `[A]` of the fills, before costs.
      at_open: `[A]` bool, they fill at the open; `()` where all do.
      room: `[A]` currency per share, how much better that is than the limit; `()` for no limits.
      resting: `Resting` after the bar; `()` without limit orders.
      profit_first: `[A]` bool, a take-profit was met before anything else in the bar; `()` likewise.
    """

    wanted: jax.Array
    price: jax.Array
    at_open: Any = ()
    room: Any = ()
    resting: Any = ()
    profit_first: Any = ()


@checked
def make_limit_orders(
    *, offset: PerSymbolOffset | None = None, touch: bool = False, symbols: CodeOnly[tuple[str, ...]] = ()
) -> Any:
    """Limit orders, for `Costs.limit_orders` with `FillRule(limit_orders=True)`; `()` for none.

    Args:
      offset: how far below the close of the decision a purchase rests, and a sale above it, fraction of that close; of
        all symbols or each (others are at the market). Less than 0 is a limit beyond the close; None for no limits.
      touch: whether a bar that just reaches a limit fills it; otherwise it must go through.
      symbols: of the market's assets, in order, for values by symbol.

    Raises:
      ValueError: a value outside its range, a symbol that is not there, or touch without an offset.
    """
    if offset is None:
        if touch:
            raise ValueError("touch is True, but there is no offset, and so no limit to touch")
        return ()
    named: Any = ()
    if isinstance(offset, Mapping):
        named = jnp.asarray([symbol in offset for symbol in symbols], jnp.float32)
    return LimitOrders(of_symbols("offset", offset, symbols), named, touch)


def nothing_rests(price: jax.Array, latency_bars: int) -> Resting:
    """The state of an account without orders.

    Args:
      price: `[A]` marks.
      latency_bars: as in `FillRule`.
    """
    return Resting(price, (price,) * (latency_bars - 1), jnp.zeros(price.shape, bool))


def limit_price(close: jax.Array, orders: jax.Array, limits: LimitOrders) -> jax.Array:
    """Limits `[A]` of orders that are decided at a close, currency per share.

    Args:
      close: `[A]`.
      orders: `[A]` shares, signed; the close itself where there is none.
      limits: where they rest.
    """
    return close * (1.0 - jnp.sign(orders) * limits.offset)


def at_the_market(reference: jax.Array, limits: LimitOrders) -> jax.Array:
    """Whether orders `[A]` have no limit.

    Args:
      reference: `[A]` as in `Resting`.
      limits: of which assets.
    """
    without = reference == AT_THE_MARKET
    return without if isinstance(limits.named, tuple) else without | (limits.named <= 0)


def met(portfolio: Any, due: jax.Array, wanted: jax.Array, price: jax.Array, bar: Bar, costs: Costs) -> Met:
    """Which of the orders of a portfolio a bar reaches, and at what price.

    What rests keeps its limit until more, or less, of the asset is due; then all of it takes the newer one.

    Args:
      portfolio: `Portfolio` at the close before.
      due: `[A]` shares that are due for the first time, signed.
      wanted: `[A]` shares that are to be worked in the bar, signed.
      price: `[A]` of fills at the open.
      bar: with high and low.
      costs: with limit orders, or without.
    """
    limits, resting = costs.limit_orders, portfolio.resting
    if isinstance(limits, tuple):
        return Met(wanted, price)
    new, *in_flight = _queue(resting, portfolio.price, costs.latency)
    reference = jnp.where((due != 0) | (new == AT_THE_MARKET), new, resting.reference)
    reference, *in_flight = (after_dividends(x, portfolio.price, bar.dividend) for x in (reference, *in_flight))
    side, limit = jnp.sign(wanted), limit_price(reference, wanted, limits)
    free = at_the_market(reference, limits) | (wanted == 0)
    if not isinstance(portfolio.guard, tuple):  # what an exit has left is closed whatever the price
        free = free | ((portfolio.guard.blocked > 0) & (portfolio.shares != 0))
    at_open = free | _beyond(side, bar.open, limit, limits)
    inside = ~at_open & _beyond(side, jnp.where(side > 0, bar.low, bar.high), limit, limits)
    profit_first = jnp.zeros_like(inside)
    if not isinstance(portfolio.guard, tuple):
        cancelled, profit_first = _exits_first(portfolio, wanted, limit, bar, costs.exits)
        inside, profit_first = inside & ~cancelled, inside & profit_first
    at = jnp.where(inside, limit, price)
    return Met(
        wanted=jnp.where(at_open | inside, wanted, 0.0),
        price=at,
        at_open=at_open,
        room=jnp.where(free, NO_BOUND, jnp.abs(limit - at)),
        resting=Resting(reference, tuple(in_flight), jnp.zeros_like(resting.urgent)),
        profit_first=profit_first,
    )


def _queue(resting: Resting, close: jax.Array, latency: Any) -> tuple[jax.Array, ...]:
    """Closes `[A]` of the orders that are due in each of the next bars, with the newest; `latency` as in `Costs`."""
    decided = jnp.where(resting.urgent, AT_THE_MARKET, close)
    if isinstance(latency, tuple):
        return (*resting.in_flight, decided)
    return tuple(jnp.where(latency[bar], decided, before) for bar, before in enumerate((*resting.in_flight, close)))


def _beyond(side: jax.Array, price: jax.Array, limit: jax.Array, limits: LimitOrders) -> jax.Array:
    """Whether a price fills an order: for purchases (`side` 1) from below the limit, for sales from above it."""
    above = side * (price - limit)
    return above <= 0 if limits.touch else above < 0


def _exits_first(
    portfolio: Any, wanted: jax.Array, limit: jax.Array, bar: Bar, distances: exits.Exits
) -> tuple[jax.Array, jax.Array]:
    """Where an exit of a position comes before an order at a limit inside the bar, and cancels it.

    On one side of the open the nearer of two prices is met first. Of prices on both sides of it neither is known to be:
    then that is first which leaves less at the close, before costs.

    Args:
      portfolio: at the close before.
      wanted: `[A]` shares on order, signed.
      limit: `[A]` which the bar reaches after its open.
      bar: with high and low.
      distances: of the exits.

    Returns:
      `[A]` bool, the order is cancelled, and `[A]` bool, by a take-profit although the bar reaches a stop as well.
    """
    shares, held, after = portfolio.shares, jnp.sign(portfolio.shares), portfolio.shares + wanted
    addition = held * wanted > 0
    hit, at = exits.touched(portfolio.guard, shares, bar, distances)
    of_profit = distances.replace(stop_loss=(), trailing_stop=())
    profit, profit_at = exits.touched(portfolio.guard, shares, bar, of_profit)
    built = exits.followed(portfolio.guard, shares, after, limit)
    struck, struck_at = exits.touched(built, after, bar.replace(open=limit), distances)
    order_first = wanted * (bar.close - limit) + jnp.where(struck, after * (struck_at - bar.close), 0.0)
    at_open, stopped = hit & (at == bar.open), hit & (held * (at - bar.open) < 0)
    near_stop = stopped & (held * (at - limit) >= 0)
    near_profit = profit & (held * (profit_at - limit) <= 0)
    worse_stop = stopped & (shares * (at - bar.close) <= order_first)
    worse_profit = profit & ~at_open & ~near_stop & (shares * (profit_at - bar.close) <= order_first)
    cancelled = at_open | jnp.where(addition, near_stop | worse_profit, near_profit | worse_stop)
    return cancelled, addition & worse_profit


def as_ordered(orders: jax.Array, portfolio: Any, costs: TradeCosts, limits: Any) -> tuple[TradeCosts, Any]:
    """What orders are expected to cost at their limits, and these limits.

    Args:
      orders: `[A]` shares, signed.
      portfolio: `Portfolio` that ordered them at its close.
      costs: what they would cost at the market.
      limits: `LimitOrders`, or `()` without them.

    Returns:
      Costs `[A]`, and limits `[A]` in currency per share, NaN of orders at the market; `()` without limit orders.
    """
    if isinstance(limits, tuple):
        return costs, ()
    free = at_the_market(jnp.where(portfolio.resting.urgent, AT_THE_MARKET, portfolio.price), limits) | (orders == 0)
    # A limit beyond the close is met at the next open by most orders, and leaves that much room for its costs.
    room = jnp.where(free, NO_BOUND, portfolio.price * jnp.maximum(-limits.offset, 0.0))
    limit = jnp.where(free, jnp.nan, limit_price(portfolio.price, orders, limits))
    return capped(costs, orders, room), limit


def capped(paid: TradeCosts, quantity: jax.Array, room: Any) -> TradeCosts:
    """Costs of fills, of which half-spread, slippage and impact take the price to the limit at most.

    Args:
      paid: what the fills would cost at the market.
      quantity: `[A]` shares filled, signed.
      room: as in `Met`.
    """
    if isinstance(room, tuple):
        return paid
    most, adverse = size_of(quantity) * room, paid.spread + paid.slippage + paid.impact
    over = adverse > most
    share = jnp.where(over, most / jnp.where(over, adverse, 1.0), 1.0)
    return paid.replace(spread=paid.spread * share, slippage=paid.slippage * share, impact=paid.impact * share)


def committed(held: jax.Array, shares: jax.Array, adding: jax.Array, at_open: Any) -> jax.Array:
    """Shares `[A]` that count against the leverage limit while additions fill.

    Args:
      held: `[A]` what all reductions leave of the positions, without sign.
      shares: `[A]` positions before.
      adding: `[A]` shares of the fills that add exposure.
      at_open: as in `Met`; what a fill inside the bar reduces is there until then, but for what takes its own place.
    """
    if isinstance(at_open, tuple):
        return held
    return jnp.where(at_open, held, jnp.maximum(held, jnp.abs(shares) - jnp.abs(adding)))


def lived(bar: Bar, met: Met, before: jax.Array, after: jax.Array) -> Bar:
    """The bar as exits see it: of a position that was built inside it, from the fill on.

    Args:
      bar: with high and low.
      met: the orders.
      before: `[A]` positions at the close before.
      after: `[A]` positions after the fills.
    """
    if isinstance(met.at_open, tuple):
        return bar
    inside = ~met.at_open & (after != before)
    reduced = (before * after > 0) & (jnp.abs(after) < jnp.abs(before))
    built = inside & ~reduced
    # Whether the best price came after the fill is not known; the close did, and so did the worst price.
    high = jnp.where(built & (after > 0), bar.close, bar.high)
    low = jnp.where(built & (after < 0), bar.close, bar.low)
    return bar.replace(
        open=jnp.where(inside, met.price, bar.open),
        high=jnp.where(met.profit_first & (before < 0), bar.open, high),
        low=jnp.where(met.profit_first & (before > 0), bar.open, low),
    )
