"""Limits on what trading does, measured on every batch and charged to its bars.

A constraint measures the batch in the user's unit, and says of every bar how far it is beyond the limit, as a share of
the limit. The mean of these signals over the bars is the relative violation `(measured - limit) / limit` (of the
drawdown, which is counted by episodes, once these have ended at an even pace), so that one unit of any multiplier
weighs the same relative violation. All run under `shard_map`, on the bars `[P, S, K]` of one device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.policy.rollout import DATA_AXIS
from jaxppo.risk import batch
from jaxppo.risk.episodes import Episode, Sample

SMALLEST_SHARE = 1e-3
"""Of its limit: a volatility below counts as that, far from where any multiplier is not zero."""


@struct.dataclass
class Traded:
    """What constraints see of a rollout.

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
    """`measure(rollout) <= limit` as pure functions.

    Attributes:
      name: for metrics and messages.
      limit: > 0, in the unit of `measure`.
      measure: `Traded -> []`, the same on every device.
      excess: `Traded -> [P, S, K]`, see the module's docstring.
      episodic: whether the measurement is one of finished episodes; else it is one of bars.
    """

    name: str
    limit: float
    measure: Callable[[Traded], jax.Array]
    excess: Callable[[Traded], jax.Array]
    episodic: bool = False


def leverage(limit: float) -> Constraint:
    """Mean gross exposure, multiple of equity."""
    _check_limit(limit)
    return Constraint("leverage", limit, lambda seen: _mean(seen.leverage), lambda seen: seen.leverage / limit - 1.0)


def turnover(limit: float, periods: float) -> Constraint:
    """Traded notional per year, multiple of equity.

    Args:
      limit: > 0.
      periods: bars per year.
    """
    _check_limit(limit)
    scale = periods / limit
    return Constraint(
        "turnover", limit, lambda seen: periods * _mean(seen.turnover), lambda seen: scale * seen.turnover - 1.0
    )


def volatility(limit: float, periods: float) -> Constraint:
    """Standard deviation of the simple returns of all bars of the batch, per year.

    The signal is that of `sqrt(V) = min_s (V / s + s) / 2` at its minimiser, the measured volatility: linear in the
    squared deviations of the bars, and as steep as their root.

    Args:
      limit: > 0, fraction of equity.
      periods: bars per year.
    """
    _check_limit(limit)

    def square(seen: Traded) -> jax.Array:
        return periods * jnp.square(seen.returns - _mean(seen.returns))

    def excess(seen: Traded) -> jax.Array:
        squared = square(seen)
        measured = jnp.maximum(jnp.sqrt(_mean(squared)), SMALLEST_SHARE * limit)
        return 0.5 * (squared / measured + measured) / limit - 1.0

    return Constraint("volatility", limit, lambda seen: jnp.sqrt(_mean(square(seen))), excess)


def cvar(limit: float, level: float = 0.95) -> Constraint:
    """Mean loss of the worst `1 - level` of the bars of the batch.

    The signal is that of Rockafellar and Uryasev, `v + (loss - v)^+ / (1 - level)` at its minimiser v, the value at
    risk of the batch.

    Args:
      limit: > 0, fraction of equity lost in a bar.
      level: confidence in (0, 1).

    Raises:
      ValueError: an argument outside its range.
    """
    _check_limit(limit)
    batch.checked_level(level)

    def loss(seen: Traded) -> jax.Array:
        threshold, _ = batch.tail_mean(seen.returns, jnp.ones_like(seen.returns, bool), level)
        return -threshold + jnp.maximum(threshold - seen.returns, 0.0) / (1.0 - level)

    return Constraint("cvar", limit, lambda seen: _mean(loss(seen)), lambda seen: loss(seen) / limit - 1.0)


def max_drawdown(limit: float) -> Constraint:
    """Mean over finished training episodes of their largest drawdown.

    The signal of a bar is the rise of the running maximum of the drawdown, which adds up to the largest one over an
    episode, times the mean length of an episode, so that it is a rate per bar like those of the other constraints.

    Args:
      limit: > 0, fraction of the peak equity.
    """
    _check_limit(limit)

    def measure(seen: Traded) -> jax.Array:
        return batch.mean(seen.finished.episode.drawdown, seen.finished.counted)

    def excess(seen: Traded) -> jax.Array:
        length = batch.mean(seen.finished.episode.bars, seen.finished.counted)
        return length * (seen.after.drawdown - seen.before.drawdown) / limit - 1.0

    return Constraint("max_drawdown", limit, measure, excess, episodic=True)


def _mean(x: jax.Array) -> jax.Array:
    return jax.lax.pmean(x.mean(), DATA_AXIS)


def _check_limit(limit: float) -> None:
    if not limit > 0.0:
        raise ValueError(f"limit is {limit}; it must be > 0")
