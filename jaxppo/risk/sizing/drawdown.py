"""Drawdown control: exposure in proportion to the cushion above the floor, and never more than a gap can take.

The largest loss. Sizes that are decided at the close of bar t fill at the open of t + 1 and can be left at the open
of t + 2 at the earliest. With opens O, closes C and the largest survived move `m` of an asset as it is known at t,
a *gap* is by definition a bar t + 1 in which C_{t+1} or O_{t+2} is more than `m` away from O_{t+1}, or O_{t+2} more
than `m` from C_{t+1}, as fractions of the earlier price. (Bars are those of the asset: while it has none, its price
stands still, and its orders wait for the next one, at which the reckoning below goes on.) Without gaps, with q the
position at the close of t and q' the one after the fill, in units of the equity at that close,

- q loses until the fill at most `|q| r`, r what is left of the move of bar t; its price rises at most by u;
- trading costs at most `cost |q' - q| (1 + u)`, and leaving at t + 2 `cost |q'| (1 + u) (1 + m)`;
- q' loses until t + 2 at most `|q'| (1 + u) n`, `n = m (1 + (m - limit)^+)`: the second term is for an m beyond the
  limit, where a new peak at the close of t + 1 lifts the floor by more than it takes from the fall that is left.

*Claim*: if the sum of these over the assets is at most the cushion at t, then the close of t + 1 is not below the
floor, and at the open of t + 2 everything can be closed without falling below it. *Proof*: closed at O_{t+2}, the
equity is that at t less the sum at most, and the close of t + 1 lies in between. If that close is a new peak with a
profit of x per unit since O_{t+1}, the fall from O_{t+1} that is left is at most `m - x + m x` and the floor rises
by `(1 - limit) x`, together `m + x (m - limit) <= n`. At each close the sum increases with every |q'|, so that a
factor for all targets meets it; unless q alone exceeds it, and then q' = 0, which the claim at t - 1 covers. From
an account without positions, no close is ever below the floor, by induction. With gaps the same holds with the
moves that happened: the equity is below the floor by at most exposure x (move - m), summed over assets and the gaps
of two consecutive bars. Once at the floor, the account stays out of the market: for good, or with a `window` until
the peak that it fell from is forgotten.

A rolling peak never lies above one since the start, and from one close to the next it rises only to the equity of the
new close, as that one does. So the proof holds with it in place of the peak: a floor that forgets only comes down.

Assumptions: orders to reduce fill in full at the next open of the asset (a volume limit, or quotes at which
nobody trades, leave it exposed), latency of one bar, costs and financing of at most `cost`, and float32 rounding.
Masks come later and only reduce.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.arguments import OpenFraction, PositiveInt, PositiveRatio, ProperFraction, checked
from jaxppo.envs.execution.portfolio import Portfolio, drawdown, expected_weights, weights_of
from jaxppo.envs.market.features import ewma_volatility
from jaxppo.envs.market.own_bars import own_bars
from jaxppo.envs.market.safe import ratio
from jaxppo.envs.market.windows import shift
from jaxppo.envs.trading.transform import SizingTransform
from jaxppo.envs.trading.view import MarketView

PARTS = 8
"""Parts of a window whose largest equities are kept: the oldest is forgotten as a whole."""


class RollingPeak(struct.PyTreeNode):
    """Largest equity of the last `window` bars, and of up to a seventh more of them.

    Attributes:
      factor: `[]` of the last decision.
      peaks: `[PARTS]` largest equity in each part of the window, currency; 0 before there was one.
      bar: `[]` int32, decisions so far.
    """

    factor: jax.Array
    peaks: jax.Array
    bar: jax.Array

    @classmethod
    def empty(cls) -> RollingPeak:
        """Before the first decision."""
        return cls(jnp.zeros(()), jnp.zeros(PARTS), jnp.zeros((), jnp.int32))


def _seen(state: RollingPeak, equity: jax.Array, window: int) -> RollingPeak:
    """The state with the equity `[]` of one more decision."""
    length = -(-window // (PARTS - 1))
    part = state.bar // length % PARTS
    before = jnp.where(state.bar % length == 0, 0.0, state.peaks[part])
    return state.replace(peaks=state.peaks.at[part].set(jnp.maximum(before, equity)), bar=state.bar + 1)


def _largest_loss(
    row: dict[str, jax.Array], present: jax.Array, sizes: jax.Array, limit: float, cost: float
) -> jax.Array:
    """Bounds the loss `[]` until everything can be closed, fraction of equity.

    Args:
      row: of the table.
      present: `[A]` weights now.
      sizes: `[A]` weights that are ordered.
      limit: largest drawdown.
      cost: of trading, fraction of what is traded.
    """
    before, opened = row["before"], row["open"]
    rise = jnp.clip(opened * (1.0 + before) - 1.0, 0.0, before)
    fall = jnp.clip(1.0 - opened * (1.0 - before), 0.0, before)
    until_fill = jnp.abs(present) * jnp.where(present < 0, rise, fall)
    ahead = row["move"] * (1.0 + jnp.maximum(row["move"] - limit, 0.0))
    trade = cost * (jnp.abs(sizes - present) + jnp.abs(sizes) * (1.0 + row["move"]))
    return jnp.sum(until_fill + (1.0 + rise) * (trade + jnp.abs(sizes) * ahead))


@checked
def drawdown_control(
    limit: OpenFraction,
    *,
    move: OpenFraction,
    window: PositiveInt | None = None,
    deviations: PositiveRatio | None = None,
    span: PositiveInt = 63,
    cost: ProperFraction = 0.002,
    proportional: bool = True,
    tolerance: ProperFraction = 0.1,
) -> SizingTransform:
    """Keeps every close above the floor `(1 - limit) x peak`, but for gaps; needs orders that fill in the next bar.

    It comes last in a chain. In proportion (Grossman and Zhou), targets are scaled by
    `(1 - (1 - limit) / (1 - drawdown)) / limit`, 1 at the peak and 0 at the limit. Then, for the hard floor, they are
    scaled down until the largest loss, up to and including the closing of all positions, is at most the cushion, the
    equity less the floor. The module's docstring defines gaps and has the proof.

    Args:
      limit: largest drawdown.
      move: largest move of an asset between two fills that is survived by construction.
      window: bars after which a peak is forgotten, so that an account at its floor comes back; one that is a seventh
        older may still count. None for never: then it stays out for good.
      deviations: that move is at least this many forecast volatilities of a bar of the asset; None for `move` alone.
      span: bars of the exponential forecast of volatility.
      cost: largest cost of trading, and of holding for a bar, that is survived, fraction of the traded notional.
      proportional: scale targets in proportion to what is left of the limit (Grossman-Zhou); otherwise only the hard
        floor acts.
      tolerance: relative change of the factor that is not traded, if the floor allows it.

    Raises:
      ValueError: later, orders that take more than one bar to fill.

    References:
      Grossman, Zhou (1993), Optimal Investment Strategies for Controlling Drawdowns, Mathematical Finance 3.
      Cvitanic, Karatzas (1995), On Portfolio Optimization under "Drawdown" Constraints.
      Yang, Zhong (2013), Optimal portfolio strategy to control maximum drawdown, for the rolling peak.
    """

    def table(view: MarketView) -> dict[str, jax.Array]:
        market = view.market
        moves = jnp.full(market.close.shape, move, jnp.float32)
        if deviations is not None:
            moves = jnp.maximum(moves, deviations * ewma_volatility(market, span))
        bars = own_bars(market.tradable)
        opened, before = bars.computed(lambda *own: own, market.open, shift(moves, 1))
        return {"move": moves, "before": before, "open": opened / market.close, "there": market.tradable}

    def apply(state: Any, row: dict[str, jax.Array], portfolio: Portfolio, targets: jax.Array) -> tuple[jax.Array, Any]:
        if portfolio.in_flight or not isinstance(portfolio.resting, tuple):
            raise ValueError("drawdown_control needs orders that fill at the next open (latency_bars 1, no limits)")
        present, expected = weights_of(portfolio), expected_weights(portfolio)
        if window is None:
            last, left = state, 1.0 - drawdown(portfolio)
        else:
            state = _seen(state, portfolio.equity, window)
            last, left = state.factor, portfolio.equity / jnp.max(state.peaks)
        cushion = jnp.maximum(1.0 - (1.0 - limit) / jnp.maximum(left, 1e-6), 0.0)

        def lost(factor: jax.Array | float) -> jax.Array:
            sizes = jnp.where(row["there"], factor * targets, expected)
            return _largest_loss(row, present, sizes, limit, cost)

        wanted = cushion / limit if proportional else jnp.ones(())
        least, most = lost(0.0), lost(wanted)
        # The loss is convex in the factor: below the chord between 0 and what is wanted.
        share = jnp.clip(ratio(cushion - least, most - least, 0.0), 0.0, 1.0)
        wanted = wanted * jnp.where(most <= cushion, 1.0, share)
        near = jnp.abs(wanted - last) <= tolerance * last
        safe = lost(last) <= cushion
        factor = jnp.where(near & safe, last, wanted)
        return factor * targets, factor if window is None else state.replace(factor=factor)

    def init(n_assets: int) -> Any:
        del n_assets
        return jnp.zeros(()) if window is None else RollingPeak.empty()

    # The forecast of the bar before counts too: until the fill.
    warmup = 0 if deviations is None else span + 1
    return SizingTransform("drawdown_control", apply, init, table, warmup)
