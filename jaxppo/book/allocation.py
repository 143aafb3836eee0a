"""Allocation of the strategies of a book: by risk, drawdown and Kelly weights, cut and re-admitted by rule.

Pure functions of the returns of the strategies' paper accounts, without a market; written for one book, `vmap` outside.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.arguments import (
    AtLeastTwo,
    PositiveFraction,
    PositiveInt,
    PositiveRatio,
    ProperFraction,
    check,
)
from jaxppo.book.moments import Moments, shrunk_covariance, start_moments, update_moments
from jaxppo.envs.market.precision import matmul
from jaxppo.risk.sizing.estimation import kan_zhou_scale, shrunk_mean, solve
from jaxppo.risk.sizing.parity import risk_parity

Part = Literal["inverse_risk", "drawdown", "kelly"]
PARTS: tuple[Part, ...] = get_args(Part)
ROUNDING = 1e-6
"""Changes of allocations, fraction of the equity, that count as none."""
CYCLES = 50
"""Passes of the coordinate descent of `kelly_weights`."""


class Allocation(struct.PyTreeNode):
    """State of the allocation of a book of M strategies at the close of a bar.

    Attributes:
      bars: `[]` int32, closes so far.
      risk: moments of the returns, for their covariance.
      gain: moments of the returns over a longer span, for their means.
      equity: `[M]` of each strategy's paper account, currency.
      peak: `[M]` highest equity since the start, or since the strategy was re-admitted after a cooldown.
      active: `[M]` bool, admitted.
      waited: `[M]` int32, bars since the strategy was cut; 0 while it is admitted.
      cuts: `[M]` int32, how often the strategy was cut.
      allocation: `[M]` fraction of the book's equity, >= 0, carried by returns since the last rebalancing.
      moved: `[]` bool, the book was rebalanced at this close.
    """

    bars: jax.Array
    risk: Moments
    gain: Moments
    equity: jax.Array
    peak: jax.Array
    active: jax.Array
    waited: jax.Array
    cuts: jax.Array
    allocation: jax.Array
    moved: jax.Array

    @property
    def drawdown(self) -> jax.Array:
        """Loss `[M]` of each strategy since the peak, fraction of the peak, >= 0."""
        return 1.0 - self.equity / self.peak


@dataclasses.dataclass(frozen=True)
class AllocationRule:
    """Allocates by the returns of the strategies' paper accounts; pure methods.

    - *Shares.* `inverse_risk`: equal contributions to risk under the exponential covariance. `kelly`: Kelly fractions
      without short positions, divided by their sum. Both: the root of the product. Neither, or fewer than `warmup`
      returns: equal. Only admitted strategies count.
    - *Drawdown.* With `drawdown` each share is multiplied by what is left of the budget,
      `d_i = max(1 - drawdown_i / drawdown_limit, 0)`, and the whole book by the largest of them: the allocation moves
      from strategies that lose to those that do not, and to cash where all lose.
    - *Total.* `max_total`; with `kelly` at most `kelly_fraction` times the sum of the Kelly fractions.
    - *Cut.* A strategy whose drawdown exceeds `cut` at a close is cut: from that close on its allocation is 0. It is
      re-admitted at the first later close at which its drawdown is at most `readmit`, or `cooldown` bars after the cut;
      in the latter case its drawdown is measured from its equity then. A liquidated strategy is never re-admitted.
    - *Rebalancing.* In between, allocations are carried by the strategies' returns as in separate accounts. The book is
      rebalanced when a strategy is cut or re-admitted, or when the sum of increases or that of decreases would exceed
      `rebalance`. The total is therefore at most `max_total + rebalance`.

    Attributes:
      parts: what allocations follow; none: equal allocations.
      span: bars of the exponential covariance of the strategies' returns.
      mean_span: bars of the exponential mean behind Kelly.
      warmup: bars with equal allocations.
      drawdown_limit: drawdown at which the allocation of a strategy has shrunk to nothing.
      kelly_fraction: share of the Kelly position that all strategies together may take.
      cut: drawdown beyond which a strategy is cut.
      readmit: drawdown at which a strategy is re-admitted; less than `cut`.
      cooldown: bars after which a strategy is re-admitted at any drawdown, counted from then on; None for never.
      max_total: largest sum of allocations, fraction of equity; above 1 the book borrows.
      rebalance: sum by which allocations may be off before the book is rebalanced, fraction of equity.

    Raises:
      ValueError: an attribute outside its range.
    """

    parts: tuple[Part, ...] = PARTS
    span: AtLeastTwo = 63
    mean_span: AtLeastTwo = 504
    warmup: AtLeastTwo = 63
    drawdown_limit: PositiveFraction = 0.25
    kelly_fraction: PositiveRatio = 0.5
    cut: PositiveFraction = 0.2
    readmit: ProperFraction = 0.1
    cooldown: PositiveInt | None = 63
    max_total: PositiveRatio = 1.0
    rebalance: ProperFraction = 0.05

    def __post_init__(self):
        check(AllocationRule, vars(self))
        if not self.readmit < self.cut:
            raise ValueError(f"readmit is {self.readmit}; it must be less than cut, which is {self.cut}")

    def init(self, number: int) -> Allocation:
        """Allocation of `number` strategies before the first close."""
        zeros, none = jnp.zeros(number), jnp.zeros(number, jnp.int32)
        return Allocation(
            bars=jnp.zeros((), jnp.int32),
            risk=start_moments(number),
            gain=start_moments(number),
            equity=jnp.ones(number),
            peak=zeros,
            active=jnp.ones(number, bool),
            waited=none,
            cuts=none,
            allocation=zeros,
            moved=jnp.zeros((), bool),
        )

    def update(self, state: Allocation, equity: jax.Array, dead: jax.Array) -> Allocation:
        """Allocation at a close.

        Args:
          state: at the close before.
          equity: `[M]` of the paper accounts, currency, > 0 at the first close.
          dead: `[M]` bool, liquidated accounts: they are never re-admitted.
        """
        first = state.bars == 0
        alive = ~first & (state.equity > 0)
        returns = jnp.where(alive, (equity - state.equity) / jnp.where(alive, state.equity, 1.0), 0.0)
        before = (state.risk, state.gain)
        after = (update_moments(state.risk, returns, self.span), update_moments(state.gain, returns, self.mean_span))
        risk, gain = jax.tree.map(lambda old, new: jnp.where(first, old, new), before, after)
        growth = 1.0 + matmul(state.allocation, returns)
        carried = state.allocation * jnp.maximum(1.0 + returns, 0.0) / jnp.where(growth > 0, growth, 1.0)
        now = _admitted(self, state.replace(bars=state.bars + 1, risk=risk, gain=gain), equity, dead)
        aim = _aim(self, now)
        change = aim - carried
        most = jnp.maximum(jnp.sum(jnp.maximum(change, 0.0)), jnp.sum(jnp.maximum(-change, 0.0)))
        moved = first | jnp.any(now.active != state.active) | (most > self.rebalance + ROUNDING)
        return now.replace(allocation=jnp.where(moved, aim, carried), moved=moved)


def _admitted(rule: AllocationRule, state: Allocation, equity: jax.Array, dead: jax.Array) -> Allocation:
    """The state with this close's peaks, and strategies cut and re-admitted."""
    state = state.replace(equity=equity, peak=jnp.maximum(state.peak, equity))
    waited = jnp.where(state.active, 0, state.waited + 1)
    out = ~state.active & ~dead
    recovered = out & (state.drawdown <= rule.readmit)
    again = out & ~recovered & (waited >= rule.cooldown) if rule.cooldown is not None else jnp.zeros_like(out)
    breach = state.active & ((state.drawdown > rule.cut) | dead)
    active = (state.active & ~breach) | recovered | again
    return state.replace(
        # From the equity of today, or the next close would cut the strategy again.
        peak=jnp.where(again, equity, state.peak),
        active=active,
        waited=jnp.where(active, 0, waited),
        cuts=state.cuts + breach,
    )


def _aim(rule: AllocationRule, state: Allocation) -> jax.Array:
    """Allocations `[M]` of a book that is rebalanced now."""
    share, total = _shares(rule, state)
    if "drawdown" not in rule.parts:
        return total * share
    left = jnp.maximum(1.0 - state.drawdown / rule.drawdown_limit, 0.0) * state.active
    return total * jnp.max(left) * _normalised(share * left)


def _shares(rule: AllocationRule, state: Allocation) -> tuple[jax.Array, jax.Array]:
    """Shares `[M]` of the admitted strategies, and the total `[]`, both before drawdowns."""
    active = state.active
    equal = active / jnp.maximum(jnp.sum(active), 1)
    most = jnp.asarray(rule.max_total, equal.dtype)
    covariance = shrunk_covariance(state.risk.covariance(), state.risk.observations)
    weights, total = [], most
    if "inverse_risk" in rule.parts:
        weights.append(risk_parity(covariance, equal))
    if "kelly" in rule.parts:
        fractions = rule.kelly_fraction * kelly_weights(state.gain, covariance, active)
        weights.append(_normalised(fractions))
        total = jnp.minimum(most, jnp.sum(fractions))
    if not weights:
        return equal, most
    product = _normalised(jnp.prod(jnp.stack(weights), axis=0) ** (1.0 / len(weights)))
    estimated = state.bars > rule.warmup
    return jnp.where(estimated, product, equal), jnp.where(estimated, total, most)


def _normalised(shares: jax.Array) -> jax.Array:
    """Divided by their sum; zeros stay zeros."""
    total = jnp.sum(shares)
    return shares / jnp.where(total > 0, total, 1.0)


def kelly_weights(gain: Moments, covariance: jax.Array, active: jax.Array) -> jax.Array:
    """Kelly fractions `[M]` >= 0 of the admitted strategies, shrunk for the errors of their means.

    `c f`, where `f >= 0` maximises the growth `m' f - f' C f / 2`. The mean `m` is that of `shrunk_mean`, the scale `c`
    that of `kan_zhou_scale` for a known covariance. Found by cyclical coordinate descent,
    `f_i = max((m_i - sum_{j != i} C_ij f_j) / C_ii, 0)`, on correlations.

    Args:
      gain: moments with the means.
      covariance: `[M, M]` positive definite, of one bar.
      active: `[M]` bool; the others get 0, as if they did not exist.
    """
    # Strategies cannot be sold short: dropping the negative weights of C^-1 m would keep what they were to hedge.
    number = active.shape[0]
    diagonal = jnp.eye(number, dtype=bool)
    apart = jnp.where((active[:, None] & active[None, :]) | diagonal, covariance, 0.0)
    mean, bars = jnp.where(active, gain.mean, 0.0), jnp.maximum(gain.observations, 1.0)
    squared_sharpe = jnp.maximum(matmul(mean, solve(apart, mean)), 0.0)
    scale = kan_zhou_scale(squared_sharpe, bars, jnp.maximum(jnp.sum(active), 1), known_covariance=True)
    spread = jnp.sqrt(jnp.diagonal(apart))
    others = jnp.where(diagonal, 0.0, apart / (spread[:, None] * spread[None, :]))
    ratio = jnp.where(active, shrunk_mean(mean, apart, bars, active), 0.0) / spread

    def visit(step: jax.Array, x: jax.Array) -> jax.Array:
        i = step % number
        return x.at[i].set(jnp.maximum(ratio[i] - matmul(others[i], x), 0.0))

    return scale * jax.lax.fori_loop(0, CYCLES * number, visit, jnp.zeros(number)) / spread
