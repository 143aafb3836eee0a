"""Limits on what trading does, measured on every batch and penalised bar by bar.

A constraint measures the batch in the user's unit, and says how far each bar is beyond the limit, as a share of the
limit. The mean of these excesses over the bars is the relative violation `(measured - limit) / limit` (of the drawdown,
which is counted by episodes, once these have ended at an even pace), so that one unit of any multiplier weighs the same
relative violation. All run under `shard_map`, on the bars `[P, S, K]` of one device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.arguments import CodeOnly, OpenFraction, PositiveFloat, PositiveFraction, PositiveRatio, checked
from jaxppo.policy.rollout import DATA_AXIS
from jaxppo.risk import batch
from jaxppo.risk.episodes import Episode, Sample

SMALLEST_SHARE = 1e-3
"""A volatility below this share of its limit counts as that: far from where any multiplier is not zero."""


class Traded(struct.PyTreeNode):
    """A rollout as constraints read it.

    Attributes:
      returns: `[P, S, K]` simple return of the equity.
      leverage: `[P, S, K]` gross exposure at the close, fraction of equity.
      turnover: `[P, S, K]` traded notional, fraction of equity.
      before: `[P, S, K]` running episode before each bar.
      after: `[P, S, K]` running episode after each bar.
      finished: episodes that have ended.
    """

    returns: jax.Array
    leverage: jax.Array
    turnover: jax.Array
    before: Episode
    after: Episode
    finished: Sample


class Constraint(NamedTuple):
    """A limit `measure(rollout) <= limit` as pure functions.

    Attributes:
      name: for metrics and messages.
      limit: > 0, in the unit of `measure`.
      measure: `Traded -> []`, the same on every device.
      excess: `Traded -> [P, S, K]`, relative excess of each bar beyond the limit.
      episodic: whether finished episodes are measured instead of bars.
    """

    name: str
    limit: float
    measure: Callable[[Traded], jax.Array]
    excess: Callable[[Traded], jax.Array]
    episodic: bool = False


@checked
def leverage(limit: PositiveRatio) -> Constraint:
    """Limits the mean gross exposure in training.

    Args:
      limit: largest value, multiple of equity.
    """
    return Constraint("leverage", limit, lambda seen: _mean(seen.leverage), lambda seen: seen.leverage / limit - 1.0)


@checked
def turnover(limit: PositiveRatio, periods: CodeOnly[PositiveFloat]) -> Constraint:
    """Limits the traded notional in training.

    Args:
      limit: largest value, per year, multiple of equity.
      periods: bars per year.
    """
    scale = periods / limit
    return Constraint(
        "turnover", limit, lambda seen: periods * _mean(seen.turnover), lambda seen: scale * seen.turnover - 1.0
    )


@checked
def volatility(limit: PositiveRatio, periods: CodeOnly[PositiveFloat]) -> Constraint:
    """Limits the volatility of the account in training.

    It is the standard deviation of the simple returns of all bars of the batch. The excess of a bar follows from
    `sqrt(V) = min_s (V / s + s) / 2` at its minimiser, the measured volatility: linear in the squared deviations of the
    bars, and as steep as their root.

    Args:
      limit: largest value, per year, fraction of equity.
      periods: bars per year.
    """

    def square(seen: Traded) -> jax.Array:
        return periods * jnp.square(seen.returns - _mean(seen.returns))

    def excess(seen: Traded) -> jax.Array:
        squared = square(seen)
        measured = jnp.maximum(jnp.sqrt(_mean(squared)), SMALLEST_SHARE * limit)
        return 0.5 * (squared / measured + measured) / limit - 1.0

    return Constraint("volatility", limit, lambda seen: jnp.sqrt(_mean(square(seen))), excess)


@checked
def cvar(limit: PositiveFraction, level: OpenFraction = 0.95) -> Constraint:
    """Limits the mean loss of the worst bars in training.

    The excess of a bar follows from the loss of Rockafellar and Uryasev, `v + (loss - v)^+ / (1 - level)` at its
    minimiser v, the value at risk of the batch.

    Args:
      limit: largest value, fraction of equity lost in a bar.
      level: the worst `1 - level` of the bars count.
    """

    def loss(seen: Traded) -> jax.Array:
        threshold, _ = batch.tail_mean(seen.returns, jnp.ones_like(seen.returns, bool), level)
        return -threshold + jnp.maximum(threshold - seen.returns, 0.0) / (1.0 - level)

    return Constraint("cvar", limit, lambda seen: _mean(loss(seen)), lambda seen: loss(seen) / limit - 1.0)


@checked
def max_drawdown(limit: PositiveFraction) -> Constraint:
    """Limits the mean of the largest drawdown of a training episode.

    The excess of a bar follows from the rise of the running maximum of the drawdown, which adds up to the largest one
    over an episode, times the mean length of an episode, so that it is a rate per bar like those of the other
    constraints.

    Args:
      limit: largest value, fraction of the peak equity.
    """

    def measure(seen: Traded) -> jax.Array:
        return batch.mean(seen.finished.episode.drawdown, seen.finished.counted)

    def excess(seen: Traded) -> jax.Array:
        length = batch.mean(seen.finished.episode.bars, seen.finished.counted)
        return length * (seen.after.drawdown - seen.before.drawdown) / limit - 1.0

    return Constraint("max_drawdown", limit, measure, excess, episodic=True)


def _mean(x: jax.Array) -> jax.Array:
    return jax.lax.pmean(x.mean(), DATA_AXIS)
