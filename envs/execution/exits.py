"""Exits: a stop-loss, a take-profit and a trailing stop close a position inside a bar, at prices known before it opens.

An exit is checked in every bar that a position lives through, the one in which it was opened included:

1. at the open, after the orders that fill there: beyond an exit price already (a gap), the position is closed there;
2. inside the bar, at the exit price, if the low or the high reaches it. Which of the two came first is not known, so
   the stop counts first.

What the bar cannot absorb goes on at the next open, whatever the price has done. An exit cancels what is on order of
its asset; from the close of the bar in which the last of the position went, nothing of it is ordered at `wait` closes.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.arguments import CodeOnly, NonNegativeInt, checked
from jaxppo.envs.execution.bars import Bar
from jaxppo.envs.execution.by_symbol import PerSymbol, PerSymbolFraction, of_symbols


class Exits(struct.PyTreeNode):
    """Distances of exits, fractions of price, `[]` or `[A]`; 0 for none of an asset, `()` for none of any.

    Attributes:
      stop_loss: below the entry price of a long position, above that of a short one, in (0, 1).
      take_profit: above it, or below, > 0; a short position needs less than 1.
      trailing_stop: below the highest close since the entry, or above the lowest, in (0, 1); the entry price counts.
      wait: `[]` closes, from that of the bar in which an exit has closed all of a position, at which nothing of the
        asset is ordered.
    """

    stop_loss: Any
    take_profit: Any
    trailing_stop: Any
    wait: jax.Array


class Guard(struct.PyTreeNode):
    """What exits remember of the positions of an account.

    Attributes:
      entry: `[A]` mean price at which the position was built, before costs.
      best: `[A]` best price since: the entry price, or a close.
      blocked: `[A]` closes, the present one included, at which nothing of the asset is ordered; a position that is left
        is being closed.
    """

    entry: jax.Array
    best: jax.Array
    blocked: jax.Array


class Exited(struct.PyTreeNode):
    """What exits did in a bar.

    Attributes:
      quantity: `[A]` shares closed, signed.
      price: `[A]` of that, before costs.
      paid: `[A]` currency, costs of it.
    """

    quantity: jax.Array
    price: jax.Array
    paid: jax.Array


@checked
def make_exits(
    *,
    stop_loss: PerSymbolFraction | None = None,
    take_profit: PerSymbol | None = None,
    trailing_stop: PerSymbolFraction | None = None,
    wait: NonNegativeInt = 0,
    symbols: CodeOnly[tuple[str, ...]] = (),
) -> Any:
    """Exits inside a bar, for `Costs.exits` with `FillRule(exits=True)`; `()` for none.

    Args:
      stop_loss: loss at which a position is closed, fraction of its mean entry price, of all symbols or each (others
        never).
      take_profit: gain at which it is closed, likewise.
      trailing_stop: fall from the best close since the entry at which it is closed, fraction of that close, likewise.
      wait: closes, from that of the bar of an exit on, at which nothing of the asset is ordered.
      symbols: of the market's assets, in order, for values by symbol.

    Raises:
      ValueError: a value outside its range, a symbol that is not there, or a wait without an exit.
    """
    if stop_loss is None and take_profit is None and trailing_stop is None:
        if wait:
            raise ValueError(f"wait is {wait}, but there is no stop_loss, take_profit or trailing_stop to wait after")
        return ()
    return Exits(
        of_symbols("stop_loss", stop_loss, symbols),
        of_symbols("take_profit", take_profit, symbols),
        of_symbols("trailing_stop", trailing_stop, symbols),
        jnp.asarray(wait, jnp.float32),
    )


def unguarded(price: jax.Array) -> Guard:
    """The state of an account whose positions, if it has any, were just bought at `price` `[A]`."""
    return Guard(price, price, jnp.zeros_like(price))


def orderable(tradable: jax.Array, guard: Any) -> jax.Array:
    """Assets `[A]` of which something can be ordered: those that trade, and that no exit has just closed.

    Args:
      tradable: `[A]` bool.
      guard: `Guard`, or `()` without exits.
    """
    return tradable if isinstance(guard, tuple) else tradable & (guard.blocked <= 0)


def resumed(guard: Guard, shares: jax.Array, wanted: jax.Array) -> jax.Array:
    """Orders at the open `[A]`: of positions that are being closed, what is left of them.

    Args:
      guard: at the close before.
      shares: `[A]` positions there.
      wanted: `[A]` shares on order.
    """
    return jnp.where((guard.blocked > 0) & (shares != 0), -shares, wanted)


def followed(guard: Guard, before: jax.Array, shares: jax.Array, price: jax.Array) -> Guard:
    """The state after the fills at the open: the entry price of what was bought, or sold short.

    Args:
      guard: at the close before.
      before: `[A]` positions there.
      shares: `[A]` positions once they have filled.
      price: `[A]` of the fills.
    """
    same = before * shares > 0
    added = jnp.maximum(jnp.abs(shares) - jnp.abs(before), 0.0)
    share = added / jnp.where(shares != 0, jnp.abs(shares), 1.0)
    entry = jnp.where(same, guard.entry + share * (price - guard.entry), price)
    return guard.replace(entry=entry, best=jnp.where(same, guard.best, price))


def touched(guard: Guard, shares: jax.Array, bar: Bar, exits: Exits) -> tuple[jax.Array, jax.Array]:
    """Where a bar meets the exits of positions after the fills at its open.

    Args:
      guard: after these fills.
      shares: `[A]` positions after them.
      bar: with high and low.
      exits: the distances.

    Returns:
      `[A]` bool, whether it reaches an exit price, and `[A]` the price at which the position is closed there.
    """
    side = jnp.sign(shares)
    worst, best = jnp.where(side > 0, bar.low, bar.high), jnp.where(side > 0, bar.high, bar.low)
    stop, stopped = _stop(guard, side, exits)
    stopped = stopped & (side * (worst - stop) <= 0)
    hit, price = stopped, stop
    if not isinstance(exits.take_profit, tuple):
        goal = guard.entry * (1.0 + side * exits.take_profit)
        reached = (exits.take_profit > 0) & (side * (best - goal) >= 0)
        price = jnp.where(reached & ~stopped, goal, price)
        # The open comes before everything else in the bar.
        price = jnp.where(reached & (side * (bar.open - goal) >= 0), bar.open, price)
        hit = hit | reached
    price = jnp.where(stopped & (side * (bar.open - stop) <= 0), bar.open, price)
    return hit & (shares != 0), price


def _stop(guard: Guard, side: jax.Array, exits: Exits) -> tuple[jax.Array, jax.Array]:
    """The nearer of stop-loss and trailing stop `[A]`, and whether there is one."""
    levels = []
    for distance, origin in ((exits.stop_loss, guard.entry), (exits.trailing_stop, guard.best)):
        if not isinstance(distance, tuple):
            levels.append((origin * (1.0 - side * distance), jnp.broadcast_to(distance > 0, side.shape)))
    if not levels:
        return guard.entry, jnp.zeros(side.shape, bool)
    level, there = levels[0]
    for other, also in levels[1:]:
        nearer = also & (~there | (side * (other - level) > 0))
        level, there = jnp.where(nearer, other, level), there | also
    return level, there


def after_bar(
    guard: Guard, hit: jax.Array, closing: jax.Array, shares: jax.Array, close: jax.Array, exits: Exits
) -> Guard:
    """The state at the close.

    Args:
      guard: after the fills at the open.
      hit: `[A]` bool, an exit was met in the bar.
      closing: `[A]` bool, an earlier exit went on at the open.
      shares: `[A]` positions at the close.
      close: `[A]` price there.
      exits: the distances.
    """
    best = jnp.where(shares > 0, jnp.maximum(guard.best, close), jnp.minimum(guard.best, close))
    left = jnp.maximum(guard.blocked - 1.0, 0.0)
    left = jnp.where(hit | closing, jnp.where(shares != 0, 1.0, exits.wait), left)
    return guard.replace(best=best, blocked=left)
