"""Allocation of the strategies of a book: by risk, drawdown and Kelly weights, cut and re-admitted by rule.

Pure functions of the strategies' own returns, without a market; written for one book, `vmap` outside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.book.moments import Moments, start_moments, steadied, update_moments
from jaxppo.risk.sizing.estimation import kan_zhou_scale, shrunk_mean, solve
from jaxppo.risk.sizing.parity import risk_parity

PARTS = ("inverse_risk", "drawdown", "kelly")
ROUNDING = 1e-6
CYCLES = 50


@struct.dataclass
class Allocation:
    """Where a book of M strategies stands at the close of a bar.

    Attributes:
      bars: `[]` int32, closes so far.
      risk: moments of the returns by which risk is measured.
      gain: those by which means are, over a longer span.
      equity: `[M]` of each strategy's own account, currency.
      peak: `[M]` highest equity since the start, or since the strategy was re-admitted after a cooldown.
      active: `[M]` bool, admitted.
      waited: `[M]` int32, bars since the strategy was cut; 0 while it is admitted.
      cuts: `[M]` int32, how often it was cut.
      capital: `[M]` fraction of the book's equity, >= 0: what was allocated, carried by returns since.
      moved: `[]` bool, capital was allocated anew at this close.
    """

    bars: jax.Array
    risk: Moments
    gain: Moments
    equity: jax.Array
    peak: jax.Array
    active: jax.Array
    waited: jax.Array
    cuts: jax.Array
    capital: jax.Array
    moved: jax.Array

    @property
    def drawdown(self) -> jax.Array:
        """Fraction `[M]` that each strategy has lost since its peak, >= 0."""
        return 1.0 - self.equity / self.peak


class AllocationRule(NamedTuple):
    """The capital of strategies as pure functions.

    Attributes:
      init: `M -> Capital` before the first close.
      update: `(capital, equity [M], dead [M] bool) -> Capital` at a close: equity of the strategies' own accounts, > 0
        at the first close, and which of them were liquidated: those are out for good.
      rebalance: see `allocation_rule`.
    """

    init: Callable[[int], Allocation]
    update: Callable[[Allocation, jax.Array, jax.Array], Allocation]
    rebalance: float


def allocation_rule(
    *,
    parts: tuple[str, ...] = PARTS,
    span: int = 63,
    mean_span: int = 504,
    warmup: int = 63,
    drawdown_limit: float = 0.25,
    kelly_fraction: float = 0.5,
    cut: float = 0.2,
    readmit: float = 0.1,
    cooldown: int | None = 63,
    max_total: float = 1.0,
    rebalance: float = 0.05,
) -> AllocationRule:
    """How capital follows from what the strategies did by themselves.

    - *Shares.* `inverse_risk`: equal contributions to risk under the exponential covariance. `kelly`: Kelly fractions
      without short positions, divided by their sum. Both: the root of the product. Neither, or fewer than `warmup`
      returns: equal. Only admitted strategies count.
    - *Drawdown.* With `drawdown` each share is multiplied by what is left of the budget,
      `d_i = max(1 - drawdown_i / drawdown_limit, 0)`, and the whole book by the largest of them: capital goes from
      strategies that lose to those that do not, and to cash where all lose.
    - *Total.* `max_total`; with `kelly` at most `kelly_fraction` times the sum of the Kelly fractions.
    - *Cut.* A strategy whose drawdown exceeds `cut` at a close is cut: it has no capital from that close on, and counts
      no more among the admitted. It is re-admitted at the first later close at which its drawdown is at most `readmit`,
      or that is `cooldown` bars after the cut; in the latter case its drawdown is measured from its equity then. A
      liquidated strategy is never re-admitted.
    - *Rebalancing.* In between, capital is carried by the strategies' returns as in separate accounts. It is allocated
      anew when a strategy is cut or re-admitted, or when what would be added or what would be taken away is more than
      `rebalance` in all. Between these the total is therefore at most `max_total + rebalance`.

    Args:
      parts: any of "inverse_risk", "drawdown", "kelly".
      span: bars of the exponential covariance, >= 2.
      mean_span: bars of the exponential mean behind Kelly, >= 2.
      warmup: returns with equal shares, >= 2.
      drawdown_limit: in (0, 1].
      kelly_fraction: > 0.
      cut: drawdown beyond which a strategy is cut, in (0, 1].
      readmit: drawdown at which it is re-admitted, in [0, cut).
      cooldown: bars after which it is re-admitted at any drawdown, >= 1; None for never.
      max_total: largest sum of capital, > 0; above 1 the book borrows.
      rebalance: fraction of the equity, >= 0.

    Raises:
      ValueError: an argument outside its range.
    """
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"parts names {part!r}; they are {', '.join(PARTS)}")
    if min(span, mean_span, warmup) < 2:
        raise ValueError(f"span ({span}), mean_span ({mean_span}) and warmup ({warmup}) must be >= 2")
    if not 0 < drawdown_limit <= 1 or not 0 < cut <= 1 or not 0 <= readmit < cut:
        raise ValueError(
            f"drawdown_limit ({drawdown_limit}) and cut ({cut}) must be in (0, 1], readmit ({readmit}) in [0, cut)"
        )
    if cooldown is not None and cooldown < 1:
        raise ValueError(f"cooldown is {cooldown}; it must be >= 1, or None")
    if not kelly_fraction > 0 or not max_total > 0 or not rebalance >= 0:
        raise ValueError(
            f"kelly_fraction ({kelly_fraction}) and max_total ({max_total}) must be > 0, rebalance ({rebalance}) >= 0"
        )

    def init(number: int) -> Allocation:
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
            capital=zeros,
            moved=jnp.zeros((), bool),
        )

    def shares(state: Allocation) -> tuple[jax.Array, jax.Array]:
        """Shares `[M]` of the admitted strategies, and the total `[]`, both before drawdowns."""
        active = state.active
        equal = active / jnp.maximum(jnp.sum(active), 1)
        most = jnp.asarray(max_total, equal.dtype)
        covariance = steadied(state.risk.covariance(), state.risk.observations)
        weights, total = [], most
        if "inverse_risk" in parts:
            weights.append(risk_parity(covariance, equal))
        if "kelly" in parts:
            fractions = kelly_fraction * kelly_weights(state.gain, covariance, active)
            weights.append(_normalised(fractions))
            total = jnp.minimum(most, jnp.sum(fractions))
        if not weights:
            return equal, most
        product = _normalised(jnp.prod(jnp.stack(weights), axis=0) ** (1.0 / len(weights)))
        formed = state.bars > warmup
        return jnp.where(formed, product, equal), jnp.where(formed, total, most)

    def wanted(state: Allocation) -> jax.Array:
        """Allocation `[M]` that the strategies should have."""
        share, total = shares(state)
        if "drawdown" not in parts:
            return total * share
        left = jnp.maximum(1.0 - state.drawdown / drawdown_limit, 0.0) * state.active
        return total * jnp.max(left) * _normalised(share * left)

    def admitted(state: Allocation, equity: jax.Array, dead: jax.Array) -> Allocation:
        """The state with this close's peaks, and strategies cut and re-admitted."""
        state = state.replace(equity=equity, peak=jnp.maximum(state.peak, equity))
        waited = jnp.where(state.active, 0, state.waited + 1)
        out = ~state.active & ~dead
        recovered = out & (state.drawdown <= readmit)
        again = out & ~recovered & (waited >= cooldown) if cooldown is not None else jnp.zeros_like(out)
        breach = state.active & ((state.drawdown > cut) | dead)
        active = (state.active & ~breach) | recovered | again
        return state.replace(
            peak=jnp.where(again, equity, state.peak),
            active=active,
            waited=jnp.where(active, 0, waited),
            cuts=state.cuts + breach,
        )

    def update(state: Allocation, equity: jax.Array, dead: jax.Array) -> Allocation:
        first = state.bars == 0
        alive = ~first & (state.equity > 0)
        returns = jnp.where(alive, (equity - state.equity) / jnp.where(alive, state.equity, 1.0), 0.0)
        kept = (state.risk, state.gain)
        moments = (update_moments(state.risk, returns, span), update_moments(state.gain, returns, mean_span))
        risk, gain = jax.tree.map(lambda old, new: jnp.where(first, old, new), kept, moments)
        growth = 1.0 + jnp.dot(state.capital, returns)
        carried = state.capital * jnp.maximum(1.0 + returns, 0.0) / jnp.where(growth > 0, growth, 1.0)
        now = admitted(state.replace(bars=state.bars + 1, risk=risk, gain=gain), equity, dead)
        aim = wanted(now)
        change = aim - carried
        most = jnp.maximum(jnp.sum(jnp.maximum(change, 0.0)), jnp.sum(jnp.maximum(-change, 0.0)))
        moved = first | jnp.any(now.active != state.active) | (most > rebalance + ROUNDING)
        return now.replace(capital=jnp.where(moved, aim, carried), moved=moved)

    return AllocationRule(init, update, rebalance)


def _normalised(shares: jax.Array) -> jax.Array:
    """Divided by their sum; zeros stay zeros."""
    total = jnp.sum(shares)
    return shares / jnp.where(total > 0, total, 1.0)


def kelly_weights(gain: Moments, covariance: jax.Array, active: jax.Array) -> jax.Array:
    """Kelly fractions `[M]` >= 0 of the admitted strategies, after the errors of their means.

    `c f`, with `f >= 0` the maximum of the growth `m' f - f' C f / 2`: strategies cannot be sold short, and leaving out
    the negative ones of `C^-1 m` would keep long what was to hedge them. The mean `m` is that of `shrunk_mean`, the
    scale `c` that of `kan_zhou_scale` for a covariance that is known. Found by cyclical coordinate descent,
    `f_i = max((m_i - sum_{j != i} C_ij f_j) / C_ii, 0)`, on correlations.

    Args:
      gain: moments with the means.
      covariance: `[M, M]` positive definite, of one bar.
      active: `[M]` bool; the others get 0, as if they were not there.
    """
    number = active.shape[0]
    own = jnp.eye(number, dtype=bool)
    apart = jnp.where((active[:, None] & active[None, :]) | own, covariance, 0.0)
    mean, bars = jnp.where(active, gain.mean, 0.0), jnp.maximum(gain.observations, 1.0)
    squared_sharpe = jnp.maximum(mean @ solve(apart, mean), 0.0)
    scale = kan_zhou_scale(squared_sharpe, bars, jnp.maximum(jnp.sum(active), 1), known_covariance=True)
    spread = jnp.sqrt(jnp.diagonal(apart))
    others = jnp.where(own, 0.0, apart / (spread[:, None] * spread[None, :]))
    ratio = jnp.where(active, shrunk_mean(mean, apart, bars, active), 0.0) / spread

    def visit(turn: jax.Array, x: jax.Array) -> jax.Array:
        i = turn % number
        return x.at[i].set(jnp.maximum(ratio[i] - others[i] @ x, 0.0))

    return scale * jax.lax.fori_loop(0, CYCLES * number, visit, jnp.zeros(number)) / spread
