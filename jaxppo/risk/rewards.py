"""Reward transforms: pure functions that shape the reward of one account, bar by bar, in training.

Everything is written for one account; `vmap` over accounts. The state belongs to an episode: the environment starts it
anew with every one, also when a liquidated account begins another.

Estimates of moments and quantiles move by steps of size `max(rate, 1 / (warmup + n))` after n bars: their start, which
comes from a usual `volatility`, counts as `warmup` bars and is forgotten. Rewards are therefore defined from the first
bar on, also for an account that has not traded yet, and no transform needs history: their `warmup` is 0.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.arguments import (
    CodeOnly,
    NonNegativeRatio,
    OpenFraction,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    PositiveRatio,
    TailLevel,
    checked,
)
from jaxppo.envs.trading.transform import RewardTransform, init_all, stateless
from jaxppo.envs.trading.types import Outcome
from jaxppo.risk.metrics.common import TRADING_DAYS


def chain(*transforms: RewardTransform) -> RewardTransform:
    """Applies reward transforms in order.

    Penalties come after the reward that they are taken from, and commute with each other. `scale` and `clip` apply to
    what stands before them: a penalty before a `scale` is scaled too, one after it is not.

    Args:
      *transforms: each shapes the reward that the ones before it leave.

    Raises:
      ValueError: a transform that replaces the reward is not the first, so that those before it would do nothing.
    """
    for before, transform in itertools.pairwise(transforms):
        if transform.replaces:
            raise ValueError(f"{transform.name} replaces the reward and must come first, not after {before.name}")

    def apply(state: Any, reward: jax.Array, outcome: Outcome) -> tuple[jax.Array, Any]:
        states = []
        for transform, before in zip(transforms, state, strict=True):
            reward, after = transform.apply(before, reward, outcome)
            states.append(after)
        return reward, tuple(states)

    replaces = any(transform.replaces for transform in transforms)
    return RewardTransform("chain", apply, init_all(transforms), parts=transforms, replaces=replaces)


def log_return() -> RewardTransform:
    """Replaces the reward by the log return of the equity."""
    return _stateless("log_return", lambda reward, outcome: outcome.log_growth, replaces=True)


class BaseMoments(NamedTuple):
    """What is known of the returns of a base before training.

    Attributes:
      mean: simple return per bar.
      variance: per bar, >= 0.
    """

    mean: float
    variance: float

    @property
    def aversion(self) -> float:
        """Risk aversion at which nobody would scale the base: mean over variance, at least 1."""
        return max(self.mean / self.variance, 1.0) if self.variance > 0 else 1.0


NO_MOMENTS = BaseMoments(0.0, 0.0)
"""Of a base that is cash, or that nothing is known of."""


@checked
def active_utility(
    aversion: PositiveRatio | None = None,
    *,
    tracking: NonNegativeRatio = 0.0,
    moments: CodeOnly[BaseMoments] = NO_MOMENTS,
) -> RewardTransform:
    """Replaces the reward by the utility over that of the base, so that leverage alone earns nothing.

    `(r - r_b) - aversion/2 ((r - m)^2 - (r_b - m)^2) - tracking/2 (r - r_b)^2`, with simple returns r of the account
    and r_b of the base in its own account, and m the mean of r_b.

    Args:
      aversion: to risk; None for that at which the base is scaled best: mean over variance of its returns in the
        training period, at least 1.
      tracking: aversion to what differs from the base.
      moments: of the base in the training period.

    Reference: Grinold, Kahn (2000), Active portfolio management, chapter 4.
    """
    weight, mean = moments.aversion if aversion is None else aversion, moments.mean

    def shaped(reward: jax.Array, outcome: Outcome) -> jax.Array:
        del reward
        own, base = jnp.expm1(outcome.log_growth), jnp.expm1(outcome.base_log_growth)
        risk = jnp.square(own - mean) - jnp.square(base - mean)
        return own - base - 0.5 * weight * risk - 0.5 * tracking * jnp.square(own - base)

    return _stateless("active_utility", shaped, replaces=True)


class MomentsState(struct.PyTreeNode):
    """State of the differential ratios.

    Attributes:
      mean: `[]` A, moving mean of the returns.
      square: `[]` moving mean of their squared deviations from it, `B - A^2`; for the downside ratio of their squared
        negative parts.
      bars: `[]` int32 since the episode began.
    """

    mean: jax.Array
    square: jax.Array
    bars: jax.Array


@checked
def differential_sharpe(
    rate: OpenFraction = 0.01,
    *,
    warmup: PositiveInt = 20,
    volatility: PositiveRatio = 0.15,
    floor: PositiveFraction = 0.1,
    clip: PositiveRatio = 10.0,
    periods: CodeOnly[PositiveFloat] = TRADING_DAYS,
) -> RewardTransform:
    """Replaces the reward by the differential Sharpe ratio: the effect of a return `R` on a moving Sharpe ratio.

        D = (B dA - A dB / 2) / (B - A^2)^(3/2),   dA = R - A,   dB = R^2 - B
          = z - S (z^2 - 1) / 2,                   z = dA / s,   S = A / s,   s^2 = B - A^2,

    with the moments before the bar. The second form is computed: in it nothing cancels. `rate * D` is to first order
    the change of the moving Sharpe ratio per bar, so rewards add up to that over an episode. D counts standard
    deviations: it is about a hundred times a daily log return.

    Args:
      rate: rate of the moving moments, per bar.
      warmup: bars that the start counts as: after n bars moments move at a rate of at least 1 / (warmup + n).
      volatility: usual volatility of the account, per year, fraction of equity: where the moments start.
      floor: smallest deviation that a return is divided by, as a share of the usual one: an account that does not trade
        has none.
      clip: largest absolute reward.
      periods: bars per year.

    References:
      Moody & Saffell (2001), "Learning to Trade via Direct Reinforcement", equation 14 (with their K_eta left out).
    """
    usual = volatility / periods**0.5
    least = floor * usual

    def apply(state: MomentsState, reward: jax.Array, outcome: Outcome) -> tuple[jax.Array, MomentsState]:
        del reward
        step = _step(rate, warmup, state.bars, state.mean)
        change = jnp.expm1(outcome.log_growth) - state.mean
        spread = jnp.maximum(jnp.sqrt(state.square), least)
        z = change / spread
        value = z - 0.5 * state.mean / spread * (jnp.square(z) - 1.0)
        mean = state.mean + step * change
        square = (1.0 - step) * (state.square + step * jnp.square(change))
        return jnp.clip(value, -clip, clip), MomentsState(mean, square, state.bars + 1)

    return RewardTransform("differential_sharpe", apply, _moments(usual**2), replaces=True)


@checked
def differential_downside(
    rate: OpenFraction = 0.01,
    *,
    warmup: PositiveInt = 20,
    volatility: PositiveRatio = 0.15,
    floor: PositiveFraction = 0.1,
    clip: PositiveRatio = 10.0,
    periods: CodeOnly[PositiveFloat] = TRADING_DAYS,
) -> RewardTransform:
    """Replaces the reward by the differential ratio of the mean to the downside deviation.

        D = (R - A / 2) / d                            for R > 0
          = (d^2 (R - A / 2) - A R^2 / 2) / d^3        otherwise
          = u - S (1 + min(u, 0)^2) / 2,               u = R / d,   S = A / d,

    with A the moving mean of the returns and d^2 that of `min(R, 0)^2`, both before the bar.

    Args:
      rate: rate of the moving moments, per bar.
      warmup: bars that the start counts as: after n bars moments move at a rate of at least 1 / (warmup + n).
      volatility: usual volatility of the account, per year, fraction of equity: the downside deviation starts at that
        of symmetric returns.
      floor: smallest deviation that a return is divided by, as a share of the usual one: an account that does not trade
        has none.
      clip: largest absolute reward.
      periods: bars per year.

    References:
      Moody & Saffell (2001), equations 17 to 20.
    """
    usual = volatility / periods**0.5 / 2.0**0.5
    least = floor * usual

    def apply(state: MomentsState, reward: jax.Array, outcome: Outcome) -> tuple[jax.Array, MomentsState]:
        del reward
        step = _step(rate, warmup, state.bars, state.mean)
        growth = jnp.expm1(outcome.log_growth)
        downside = jnp.maximum(jnp.sqrt(state.square), least)
        loss = jnp.minimum(growth, 0.0)
        value = growth / downside - 0.5 * state.mean / downside * (1.0 + jnp.square(loss / downside))
        mean = state.mean + step * (growth - state.mean)
        square = state.square + step * (jnp.square(loss) - state.square)
        return jnp.clip(value, -clip, clip), MomentsState(mean, square, state.bars + 1)

    return RewardTransform("differential_downside", apply, _moments(usual**2), replaces=True)


@checked
def drawdown_penalty(weight: NonNegativeRatio) -> RewardTransform:
    """Penalises the increase of the drawdown in a bar: over a fall penalties add up to its depth.

    A recovery gives nothing back, so every new loss below the peak is penalised.

    Args:
      weight: reward that a drawdown of the whole equity costs.
    """

    def shaped(reward: jax.Array, outcome: Outcome) -> jax.Array:
        before, after = (jnp.minimum(x, 1.0) for x in (outcome.drawdown_before, outcome.drawdown))
        return reward - weight * jnp.maximum(after - before, 0.0)

    return _stateless("drawdown_penalty", shaped)


class QuantileState(struct.PyTreeNode):
    """State of the CVaR penalty.

    Attributes:
      quantile: `[]` q, of the account's losses per bar, fraction of equity.
      scale: `[]` moving mean of their absolute value.
      bars: `[]` int32 since the episode began.
    """

    quantile: jax.Array
    scale: jax.Array
    bars: jax.Array


@checked
def cvar_penalty(
    weight: NonNegativeRatio,
    *,
    level: TailLevel = 0.95,
    rate: OpenFraction = 0.01,
    warmup: PositiveInt = 20,
    volatility: PositiveRatio = 0.15,
    periods: CodeOnly[PositiveFloat] = TRADING_DAYS,
) -> RewardTransform:
    """Penalises the conditional value at risk (CVaR) of the losses per bar.

    The penalty is `weight` times a term whose mean is the CVaR of the losses L,

        q + max(L - q, 0) / (1 - level),

    where q follows the quantile of the account's losses by stochastic approximation,

        q' = q + step max(m, |q| / 2) (1{L > q} / (1 - level) - 1),

    with the mean absolute loss m, or half of q, as the scale, so that steps fit any account and q goes to 0 with its
    losses when it stops trading. At the quantile the mean of the term is at its least, which is the CVaR: to first
    order an account gains nothing by moving q. (Without q itself in the term it would, by losing more often.)

    Args:
      weight: reward that a unit of CVaR costs, per bar.
      level: the worst `1 - level` of the bars count.
      rate: smallest step with which the quantile of the losses is followed.
      warmup: bars that the start counts as.
      volatility: usual volatility of the account, per year, fraction of equity: where the quantile starts.
      periods: bars per year.

    References:
      Rockafellar & Uryasev (2000), "Optimization of Conditional Value-at-Risk", equation 4; Robbins & Monro (1951).
    """
    tail, usual = 1.0 - level, volatility / periods**0.5
    # Quantile and mean absolute loss of a normal return.
    quantile, size = statistics.NormalDist(0.0, usual).inv_cdf(level), usual * (2.0 / math.pi) ** 0.5

    def init(n_assets: int = 1) -> QuantileState:
        return QuantileState(_number(quantile), _number(size), jnp.zeros((), jnp.int32))

    def apply(state: QuantileState, reward: jax.Array, outcome: Outcome) -> tuple[jax.Array, QuantileState]:
        step = _step(rate, warmup, state.bars, state.scale)
        loss = -jnp.expm1(outcome.log_growth)
        term = state.quantile + jnp.maximum(loss - state.quantile, 0.0) / tail
        unit = jnp.maximum(state.scale, 0.5 * jnp.abs(state.quantile))
        moved = state.quantile + step * unit * (jnp.where(loss > state.quantile, 1.0 / tail, 0.0) - 1.0)
        followed = state.scale + step * (jnp.abs(loss) - state.scale)
        return reward - weight * term, QuantileState(moved, followed, state.bars + 1)

    return RewardTransform("cvar_penalty", apply, init)


@checked
def turnover_penalty(weight: NonNegativeRatio) -> RewardTransform:
    """Penalises traded notional, like a commission that nobody is paid.

    Args:
      weight: reward that trading the whole equity once costs.
    """
    return _stateless("turnover_penalty", lambda reward, outcome: reward - weight * outcome.turnover)


@checked
def holding_penalty(weight: NonNegativeRatio) -> RewardTransform:
    """Penalises gross exposure at the close, like a fee for holding positions.

    Args:
      weight: reward that a gross exposure of the whole equity costs, per bar.
    """
    return _stateless("holding_penalty", lambda reward, outcome: reward - weight * outcome.leverage)


@checked
def scale(factor: PositiveRatio) -> RewardTransform:
    """Multiplies the reward that stands before it.

    Args:
      factor: what the reward is multiplied by.
    """
    return _stateless("scale", lambda reward, outcome: factor * reward)


@checked
def clip(limit: PositiveRatio) -> RewardTransform:
    """Clips the reward that stands before it to `[-limit, limit]`.

    Args:
      limit: largest absolute reward.
    """
    return _stateless("clip", lambda reward, outcome: jnp.clip(reward, -limit, limit))


def _stateless(
    name: str, shaped: Callable[[jax.Array, Outcome], jax.Array], *, replaces: bool = False
) -> RewardTransform:
    """A transform without state."""
    return RewardTransform(
        name, lambda state, reward, outcome: (shaped(reward, outcome), state), stateless, replaces=replaces
    )


def _moments(square: float) -> Callable[..., MomentsState]:
    """`n_assets -> state` that starts at this second moment."""
    return lambda n_assets=1: MomentsState(_number(0.0), _number(square), jnp.zeros((), jnp.int32))


def _number(value: float) -> jax.Array:
    return jnp.asarray(value, jnp.float32)


def _step(rate: float, warmup: int, bars: jax.Array, like: jax.Array) -> jax.Array:
    """Step size `[]` of a running estimate after `bars` bars, in the precision of the estimate."""
    return jnp.maximum(rate, 1.0 / (warmup + bars)).astype(like.dtype)
