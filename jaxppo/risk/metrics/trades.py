"""Metrics of trading: bars and round trips won, profit factor, turnover, exposure."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.risk.metrics.common import TRADING_DAYS, as_float, choice, ratio, unless_missing


def win_rate(returns: jax.Array, *, axis: int = -1, count_flat: bool = False) -> jax.Array:
    """Win rate: share of bars with a gain.

    Args:
      returns: `[..., n]` simple return per bar.
      axis: the time axis.
      count_flat: bars with a return of exactly zero (no position) count as not won; otherwise they do not count at all
        (quantstats).

    Returns:
      `[...]` fraction in [0, 1]; NaN when no bar counts.
    """
    returns = as_float(returns)
    won = jnp.mean(returns > 0, axis=axis, dtype=returns.dtype)
    counted = 1.0 if count_flat else jnp.mean(returns != 0, axis=axis, dtype=returns.dtype)
    return unless_missing(ratio(won, counted), returns, axis)


def profit_factor(returns: jax.Array, *, axis: int = -1) -> jax.Array:
    """Profit factor: sum of the gains over the sum of the losses.

    Args:
      returns: `[..., n]` simple return per bar, or profit per trade.
      axis: the time axis.

    Returns:
      `[...]` ratio >= 0; inf without a loss, NaN without either.
    """
    returns = as_float(returns)
    gain = jnp.sum(jnp.maximum(returns, 0.0), axis=axis)
    return unless_missing(ratio(gain, jnp.sum(jnp.maximum(-returns, 0.0), axis=axis)), returns, axis)


def turnover(
    bought: jax.Array,
    sold: jax.Array,
    equity: jax.Array,
    *,
    axis: int = -1,
    periods: float = TRADING_DAYS,
    sides: Literal["both", "smaller"] = "both",
) -> jax.Array:
    """Turnover: value traded, in shares of the equity, per year.

    Args:
      bought: `[..., n]` value of the purchases in each bar, >= 0.
      sold: `[..., n]` value of the sales, >= 0.
      equity: `[..., n]` > 0, that the trades are compared with.
      axis: the time axis.
      periods: bars per year; 1 leaves the figure per bar.
      sides: `both` purchases and sales count; the `smaller` of the two, so that money paid in or out is no turnover
        (bt, and funds' reports).

    Returns:
      `[...]` per year, >= 0; NaN for an empty series.

    Raises:
      ValueError: for another `sides`.
    """
    both = choice("sides", sides, ("both", "smaller")) == "both"
    traded = bought + sold if both else jnp.minimum(bought, sold)
    return jnp.mean(as_float(traded) / equity, axis=axis) * periods


def exposure(weights: jax.Array, *, axis: int = -2, kind: Literal["gross", "net", "time"] = "gross") -> jax.Array:
    """Exposure: mean position, in shares of the equity.

    Args:
      weights: `[..., n, A]` position values in shares of the equity, signed; the assets come last.
      axis: the time axis.
      kind: `gross`, the sum of absolute weights; `net`, the sum of weights; `time`, the share of bars with a position.

    Returns:
      `[...]`; NaN for an empty series.

    Raises:
      ValueError: for another kind or if the time axis is the last one.
    """
    weights = as_float(weights)
    axis = axis % weights.ndim
    if axis == weights.ndim - 1:
        raise ValueError(f"axis {axis} holds the assets; the time axis must be another one")
    if choice("kind", kind, ("gross", "net", "time")) == "net":
        return jnp.mean(jnp.sum(weights, axis=-1), axis=axis)
    gross = jnp.sum(jnp.abs(weights), axis=-1)
    return jnp.mean(gross if kind == "gross" else (gross > 0).astype(gross.dtype), axis=axis)


class RoundTrips(struct.PyTreeNode):
    """Round trips of each asset: from no position to no position, or through zero to the other side; `[..., A]` each.

    Attributes:
      closed: number of round trips that ended.
      won: number of those with a profit after costs.
      profit: sum of the profits of those, currency.
      loss: sum of the losses of those, currency, >= 0.
      open: number that never ended, 0 or 1: a position is left.
    """

    closed: jax.Array
    won: jax.Array
    profit: jax.Array
    loss: jax.Array
    open: jax.Array

    def win_rate(self) -> jax.Array:
        """Share `[...]` of the closed round trips of all assets that won; NaN where none closed."""
        return ratio(
            self.won.sum(axis=-1).astype(self.profit.dtype), self.closed.sum(axis=-1).astype(self.profit.dtype)
        )

    def profit_factor(self) -> jax.Array:
        """Profits over losses `[...]` of all assets; inf without a loss, NaN without either."""
        return ratio(self.profit.sum(axis=-1), self.loss.sum(axis=-1))


class RoundTripBars(struct.PyTreeNode):
    """Round trips bar by bar, `[n, A]` each.

    Attributes:
      held: shares after the bar, 0 between two trips.
      cash: currency that the open trip has brought in so far, net of costs; negative for what was bought.
      ended: bool, a trip ended in the bar.
      result: profit of the trip that ended in the bar, after costs, currency; 0 elsewhere.
    """

    held: jax.Array
    cash: jax.Array
    ended: jax.Array
    result: jax.Array


@partial(jax.jit, inline=True)
def round_trips(quantity: jax.Array, price: jax.Array, costs: jax.Array) -> RoundTrips:
    """Finds the round trips in a list of fills.

    All fills between two moments without a position are one trip, partial sales included. A fill that takes the
    position through zero closes one and opens the next, and its costs are split by shares. A position still open at the
    end counts as open, whatever it is worth.

    Args:
      quantity: `[n, A]` shares filled in each bar, positive for purchases; 0 for none.
      price: `[n, A]` of the fills.
      costs: `[n, A]` currency, >= 0.

    Returns:
      `[A]` figures; `vmap` over accounts.
    """
    fills = as_float(quantity), as_float(price), as_float(costs)

    def bar(carry: Any, xs: tuple[jax.Array, ...]) -> tuple[Any, None]:
        state, trips = carry
        state, found = _fill(state, xs)
        trips = trips.replace(
            closed=trips.closed + found.ended,
            won=trips.won + (found.ended & (found.result > 0)),
            profit=trips.profit + jnp.maximum(found.result, 0.0),
            loss=trips.loss + jnp.maximum(-found.result, 0.0),
        )
        return (state, trips), None

    state = _flat(fills[0])
    count, zero = jnp.zeros(state[0].shape, jnp.int32), jnp.zeros_like(state[0])
    (held, *_), trips = jax.lax.scan(bar, (state, RoundTrips(count, count, zero, zero, count)), fills)[0]
    return trips.replace(open=(held != 0).astype(jnp.int32))


@jax.jit
def round_trip_bars(quantity: jax.Array, price: jax.Array, costs: jax.Array) -> RoundTripBars:
    """Follows the round trips of `round_trips` bar by bar.

    Args:
      quantity: `[n, A]` shares filled in each bar, positive for purchases; 0 for none.
      price: `[n, A]` of the fills.
      costs: `[n, A]` currency, >= 0.
    """
    fills = as_float(quantity), as_float(price), as_float(costs)
    return jax.lax.scan(_fill, _flat(fills[0]), fills)[1]


def _flat(quantity: jax.Array) -> tuple[jax.Array, ...]:
    """Shares held, largest position of the trip, and its cash `[A]`, before any fill of `[n, A]`."""
    zero = jnp.zeros(quantity.shape[1:], quantity.dtype)
    return zero, zero, zero


def _fill(state: tuple[jax.Array, ...], xs: tuple[jax.Array, ...]) -> tuple[tuple[jax.Array, ...], RoundTripBars]:
    """State after the fills `[A]` of a bar, and the row of the bar."""
    held, largest, cash = state
    shares, paid, cost = xs
    after = held + shares
    largest = jnp.maximum(largest, jnp.abs(held))
    # Shares are sums of floats: the rest of a sold position is not always exactly zero.
    after = jnp.where(jnp.abs(after) <= RESIDUE * jnp.maximum(largest, jnp.abs(shares)), 0.0, after)
    ended = (held != 0) & ((after == 0) | (jnp.sign(after) == -jnp.sign(held)))
    closing = jnp.where(ended, -held, shares)
    share = jnp.where(shares == 0, 0.0, closing / jnp.where(shares == 0, 1.0, shares))
    cash = cash - closing * paid - cost * share
    result = jnp.where(ended, cash, 0.0)
    opening = -after * paid - cost * (1.0 - share)
    cash = jnp.where(ended, jnp.where(after == 0, 0.0, opening), cash)
    largest = jnp.where(ended, jnp.abs(after), largest)
    return (after, largest, cash), RoundTripBars(after, cash, ended, result)


RESIDUE = 1e-5
"""Shares that count as none, as a fraction of the largest position of the trip."""
