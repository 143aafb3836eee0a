"""Reward transforms: pure functions that shape the reward of one account, bar by bar, in training.

In the manner of optax: a factory with static hyper-parameters returns a `RewardTransform`; `chain` composes several, in
order. Everything is written for one account; `vmap` over accounts. The state belongs to an episode: the environment
starts it anew with every one, also when a liquidated account begins another.

What a transform estimates (moments, a quantile) it follows by steps of size `max(rate, 1 / (warmup + n))` after n
bars: the start, which comes from a usual `volatility`, counts as `warmup` bars and is forgotten. Rewards are therefore
defined from the first bar on, also of an account that has not traded yet, and need no bars without one.
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

from jaxppo.envs.trading.types import Outcome


class RewardTransform(NamedTuple):
    """A reward as pure functions.

    Attributes:
      name: for messages.
      init: `() -> state` at the start of an episode, a pytree of arrays.
      apply: `(state, reward [], outcome) -> (reward [], state)` at the close of a bar: `outcome` is what the bar did to
        the account, `reward` what came before this transform.
      replaces: whether the reward that came before is dropped.
      parts: the transforms of a chain, in order; empty for a single one.
    """

    name: str
    init: Callable[[], Any]
    apply: Callable[[Any, jax.Array, Outcome], tuple[jax.Array, Any]]
    replaces: bool = False
    parts: tuple[RewardTransform, ...] = ()


def chain(*transforms: RewardTransform) -> RewardTransform:
    """Each transform shapes the reward that the ones before it leave.

    Penalties come after what they are taken from, and commute with each other. `scale` and `clip` apply to what stands
    before them: a penalty before a `scale` is scaled too, one after it is not.

    Raises:
      ValueError: a transform that replaces the reward is not the first, so that those before it would do nothing.
    """
    for before, transform in itertools.pairwise(transforms):
        if transform.replaces:
            raise ValueError(f"{transform.name} replaces the reward and must come first, not after {before.name}")

    def init() -> Any:
        return tuple(transform.init() for transform in transforms)

    def apply(state: Any, reward: jax.Array, outcome: Outcome) -> tuple[jax.Array, Any]:
        states = []
        for transform, own in zip(transforms, state, strict=True):
            reward, after = transform.apply(own, reward, outcome)
            states.append(after)
        return reward, tuple(states)

    replaces = any(transform.replaces for transform in transforms)
    return RewardTransform("chain", init, apply, replaces, tuple(transforms))


def log_return() -> RewardTransform:
    """The log return of the equity, whatever the reward was before."""
    return _stateless("log_return", lambda reward, outcome: outcome.log_growth, replaces=True)


@struct.dataclass
class MomentsState:
    """What the differential ratios remember.

    Attributes:
      mean: `[]` A, moving mean of the returns.
      square: `[]` moving mean of their squared deviations from it, `B - A^2`; for the downside ratio of their squared
        negative parts.
      bars: `[]` int32 since the episode began.
    """

    mean: jax.Array
    square: jax.Array
    bars: jax.Array


def differential_sharpe(
    rate: float = 0.01, *, warmup: int = 20, volatility: float = 0.01, floor: float = 0.1, clip: float = 10.0
) -> RewardTransform:
    """The differential Sharpe ratio: what a bar's return `R` does to a moving Sharpe ratio, per unit of its rate.

        D = (B dA - A dB / 2) / (B - A^2)^(3/2),   dA = R - A,   dB = R^2 - B
          = z - S (z^2 - 1) / 2,                   z = dA / s,   S = A / s,   s^2 = B - A^2,

    with the moments before the bar. The second form is the one that is computed: in it nothing cancels. `rate * D` is
    to first order the change of the moving Sharpe ratio per bar, so rewards add up to that over an episode. D counts
    standard deviations: it is about a hundred times a daily log return.

    Args:
      rate: of the moving moments, in (0, 1).
      warmup: bars that the start counts as, >= 1.
      volatility: usual standard deviation of the account's returns per bar, > 0; that of the moments at the start.
      floor: smallest s, as a share of it, > 0: an account that does not trade has none.
      clip: largest absolute reward, > 0.

    References:
      Moody & Saffell (2001), "Learning to Trade via Direct Reinforcement", equation 14 (with their K_eta left out).
    """
    least = floor * volatility

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

    return RewardTransform("differential_sharpe", lambda: _moments(volatility**2), apply, replaces=True)


def differential_downside(
    rate: float = 0.01, *, warmup: int = 20, volatility: float = 0.01, floor: float = 0.1, clip: float = 10.0
) -> RewardTransform:
    """The differential downside deviation ratio: as `differential_sharpe`, of the mean over the downside deviation.

        D = (R - A / 2) / d                            for R > 0
          = (d^2 (R - A / 2) - A R^2 / 2) / d^3        otherwise
          = u - S (1 + min(u, 0)^2) / 2,               u = R / d,   S = A / d,

    with A the moving mean of the returns and d^2 that of `min(R, 0)^2`, both before the bar.

    Args:
      rate: of the moving moments, in (0, 1).
      warmup: bars that the start counts as, >= 1.
      volatility: usual standard deviation of the account's returns per bar, > 0; the downside deviation starts at that
        of a symmetric return, `volatility / sqrt(2)`.
      floor: smallest d, as a share of it, > 0.
      clip: largest absolute reward, > 0.

    References:
      Moody & Saffell (2001), equations 17 to 20.
    """
    usual = volatility / 2.0**0.5
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

    return RewardTransform("differential_downside", lambda: _moments(usual**2), apply, replaces=True)


def drawdown_penalty(weight: float) -> RewardTransform:
    """Takes `weight` times what a bar adds to the drawdown: over a fall they add up to its depth.

    A recovery gives nothing back, so the penalty is that of every new loss below the peak.

    Args:
      weight: reward per unit of drawdown, >= 0.
    """

    def shaped(reward: jax.Array, outcome: Outcome) -> jax.Array:
        before, after = (jnp.minimum(x, 1.0) for x in (outcome.drawdown_before, outcome.drawdown))
        return reward - weight * jnp.maximum(after - before, 0.0)

    return _stateless("drawdown_penalty", shaped)


@struct.dataclass
class QuantileState:
    """What the CVaR penalty remembers.

    Attributes:
      quantile: `[]` q, of the account's losses per bar, fraction of equity.
      scale: `[]` moving mean of their absolute value.
      bars: `[]` int32 since the episode began.
    """

    quantile: jax.Array
    scale: jax.Array
    bars: jax.Array


def cvar_penalty(
    weight: float, *, level: float = 0.95, rate: float = 0.01, warmup: int = 20, volatility: float = 0.01
) -> RewardTransform:
    """Takes `weight` times a term whose mean is the conditional value at risk (CVaR) of the losses L per bar:

        q + max(L - q, 0) / (1 - level),

    where q follows the quantile of the account's own losses by stochastic approximation,

        q' = q + step max(m, |q| / 2) (1{L > q} / (1 - level) - 1),

    with the mean absolute loss m, or half of q, as the scale, so that steps fit any account and q goes to 0 with its
    losses when it stops trading. At the quantile the mean of the term is at its least, which is the CVaR: to first
    order an account gains nothing by moving q. (Without q itself in the term it would, by losing more often.)

    Args:
      weight: reward per unit of CVaR, >= 0.
      level: of the quantile, in (0, 1): the worst `1 - level` of the bars count.
      rate: smallest step, in (0, 1).
      warmup: bars that the start counts as, >= 1.
      volatility: usual standard deviation of the account's returns per bar, > 0; q and m start at those of a normal
        return.

    References:
      Rockafellar & Uryasev (2000), "Optimization of Conditional Value-at-Risk", equation 4; Robbins & Monro (1951).
    """
    tail = 1.0 - level
    quantile, size = statistics.NormalDist(0.0, volatility).inv_cdf(level), volatility * (2.0 / math.pi) ** 0.5

    def init() -> QuantileState:
        return QuantileState(_number(quantile), _number(size), jnp.zeros((), jnp.int32))

    def apply(state: QuantileState, reward: jax.Array, outcome: Outcome) -> tuple[jax.Array, QuantileState]:
        step = _step(rate, warmup, state.bars, state.scale)
        loss = -jnp.expm1(outcome.log_growth)
        term = state.quantile + jnp.maximum(loss - state.quantile, 0.0) / tail
        unit = jnp.maximum(state.scale, 0.5 * jnp.abs(state.quantile))
        moved = state.quantile + step * unit * (jnp.where(loss > state.quantile, 1.0 / tail, 0.0) - 1.0)
        followed = state.scale + step * (jnp.abs(loss) - state.scale)
        return reward - weight * term, QuantileState(moved, followed, state.bars + 1)

    return RewardTransform("cvar_penalty", init, apply)


def turnover_penalty(weight: float) -> RewardTransform:
    """Takes `weight` times the bar's traded notional, fraction of equity: like a commission that nobody is paid."""
    return _stateless("turnover_penalty", lambda reward, outcome: reward - weight * outcome.turnover)


def holding_penalty(weight: float) -> RewardTransform:
    """Takes `weight` times the gross exposure at the close, fraction of equity: like a fee for holding positions."""
    return _stateless("holding_penalty", lambda reward, outcome: reward - weight * outcome.leverage)


def scale(factor: float) -> RewardTransform:
    """Multiplies the reward by `factor`, > 0."""
    return _stateless("scale", lambda reward, outcome: factor * reward)


def clip(limit: float) -> RewardTransform:
    """Cuts the reward to `[-limit, limit]`, `limit` > 0."""
    return _stateless("clip", lambda reward, outcome: jnp.clip(reward, -limit, limit))


def _stateless(
    name: str, shaped: Callable[[jax.Array, Outcome], jax.Array], *, replaces: bool = False
) -> RewardTransform:
    """A transform that remembers nothing."""
    return RewardTransform(name, tuple, lambda state, reward, outcome: (shaped(reward, outcome), state), replaces)


def _moments(square: float) -> MomentsState:
    return MomentsState(_number(0.0), _number(square), jnp.zeros((), jnp.int32))


def _number(value: float) -> jax.Array:
    return jnp.asarray(value, jnp.float32)


def _step(rate: float, warmup: int, bars: jax.Array, like: jax.Array) -> jax.Array:
    """Step size `[]` of a running estimate after `bars` bars, in the precision of the estimate."""
    return jnp.maximum(rate, 1.0 / (warmup + bars)).astype(like.dtype)
