"""Monitored metrics: limits on what every bar does to an account, with a warning level and a breach.

Written for one account; `vmap` over accounts. A monitor changes nothing by itself: training, backtest and whatever else
steps an account hand it the `Outcome` of every bar, and decide what to do about a breach of a limit that says `stop`.

A value exactly at a limit is no breach, and one exactly at its warning level is no warning; an excess of less than
`ROUNDING` is rounding. A value that is not a number is a breach.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxppo.arguments import (
    CodeOnly,
    OpenFraction,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    PositiveRatio,
    checked,
)
from jaxppo.envs.execution.portfolio import LEVERAGE_ROUNDING
from jaxppo.envs.trading.types import Outcome

ROUNDING = LEVERAGE_ROUNDING
"""Relative excess over a limit that counts as rounding."""


class MonitoredLimit(NamedTuple):
    """Limit on one monitored metric; build with one of the factories below.

    Attributes:
      name: of the metric.
      limit: largest value that is no breach, > 0.
      warning: share of the limit beyond which a value is worth a warning.
      stop: whether a breach ends a training run, and the trading of an account that is evaluated.
      init: `() -> state` at the start of an episode, a pytree of arrays.
      apply: `(state, outcome) -> (value [], state)` at the close of a bar.
    """

    name: str
    limit: float
    warning: float
    stop: bool
    init: Callable[[], Any]
    apply: Callable[[Any, Outcome], tuple[jax.Array, Any]]

    def warned(self, value: Any) -> Any:
        """Whether values of any shape, of JAX or NumPy, are beyond the warning level; breaches are."""
        return ~(value <= self.warning * self.limit * (1.0 + ROUNDING))

    def breached(self, value: Any) -> Any:
        """Whether values are beyond the limit."""
        return ~(value <= self.limit * (1.0 + ROUNDING))


@checked
def drawdown(limit: OpenFraction, *, warning: PositiveFraction = 0.8, stop: bool = False) -> MonitoredLimit:
    """Monitors the share of the highest equity so far that is lost at the close of a bar.

    Args:
      limit: largest drawdown that is no breach.
      warning: share of the limit beyond which a value is worth a warning.
      stop: whether a breach ends a training run, and in an evaluation closes all positions for good.
    """
    return _of_outcome("drawdown", limit, warning, stop, lambda outcome: outcome.drawdown)


@checked
def leverage(limit: PositiveRatio, *, warning: PositiveFraction = 0.8, stop: bool = False) -> MonitoredLimit:
    """Monitors gross exposure at the close.

    Args:
      limit: largest gross exposure that is no breach, fraction of equity.
      warning: share of the limit beyond which a value is worth a warning.
      stop: whether a breach ends a training run, and in an evaluation closes all positions for good.
    """
    return _of_outcome("leverage", limit, warning, stop, lambda outcome: outcome.leverage)


@checked
def net(limit: PositiveRatio, *, warning: PositiveFraction = 0.8, stop: bool = False) -> MonitoredLimit:
    """Monitors absolute net exposure at the close.

    Args:
      limit: largest absolute net exposure that is no breach, fraction of equity.
      warning: share of the limit beyond which a value is worth a warning.
      stop: whether a breach ends a training run, and in an evaluation closes all positions for good.
    """
    return _of_outcome("net", limit, warning, stop, lambda outcome: jnp.abs(outcome.net))


@checked
def concentration(limit: PositiveRatio, *, warning: PositiveFraction = 0.8, stop: bool = False) -> MonitoredLimit:
    """Monitors the largest absolute weight at the close.

    Args:
      limit: largest absolute weight that is no breach, fraction of equity.
      warning: share of the limit beyond which a value is worth a warning.
      stop: whether a breach ends a training run, and in an evaluation closes all positions for good.
    """
    return _of_outcome("concentration", limit, warning, stop, lambda outcome: outcome.concentration)


@checked
def turnover(limit: PositiveRatio, *, warning: PositiveFraction = 0.8, stop: bool = False) -> MonitoredLimit:
    """Monitors the notional traded in one bar.

    Args:
      limit: largest notional that is no breach, fraction of equity.
      warning: share of the limit beyond which a value is worth a warning.
      stop: whether a breach ends a training run, and in an evaluation closes all positions for good.
    """
    return _of_outcome("turnover", limit, warning, stop, lambda outcome: outcome.turnover)


@checked
def loss(limit: OpenFraction, *, warning: PositiveFraction = 0.8, stop: bool = False) -> MonitoredLimit:
    """Monitors the equity lost in one bar; 0 for a gain.

    Args:
      limit: largest loss that is no breach, fraction of the equity before the bar.
      warning: share of the limit beyond which a value is worth a warning.
      stop: whether a breach ends a training run, and in an evaluation closes all positions for good.
    """
    return _of_outcome("loss", limit, warning, stop, lambda outcome: jnp.maximum(-jnp.expm1(outcome.log_growth), 0.0))


@checked
def volatility(
    limit: PositiveRatio,
    *,
    periods: CodeOnly[PositiveFloat],
    span: PositiveInt = 21,
    warning: PositiveFraction = 0.8,
    stop: bool = False,
) -> MonitoredLimit:
    """Monitors the volatility of the account: the root of `periods` times the moving mean of its squared log returns.

        v' = v + 2 / (span + 1) (r^2 - v)

    An account without positions has none, so the estimate starts at 0: a limit takes some bars to be reached, and one
    large return is no alarm by itself.

    Args:
      limit: largest volatility that is no breach, per year, fraction of equity.
      periods: bars per year.
      span: bars of the estimate.
      warning: share of the limit beyond which a value is worth a warning.
      stop: whether a breach ends a training run, and in an evaluation closes all positions for good.
    """

    def apply(variance: jax.Array, outcome: Outcome) -> tuple[jax.Array, jax.Array]:
        variance = variance + 2.0 / (span + 1.0) * (jnp.square(outcome.log_growth) - variance)
        return jnp.sqrt(periods * variance), variance

    return MonitoredLimit("volatility", limit, warning, stop, lambda: jnp.zeros((), jnp.float32), apply)


@dataclasses.dataclass(frozen=True)
class Monitor:
    """Limits that are monitored together.

    Attributes:
      limits: each on another metric.

    Raises:
      ValueError: a name occurs twice.
    """

    limits: tuple[MonitoredLimit, ...] = ()

    def __post_init__(self) -> None:
        names = [limit.name for limit in self.limits]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} is monitored twice; a metric has one limit")

    def init(self) -> tuple[Any, ...]:
        """State of one account at the start of an episode."""
        return tuple(limit.init() for limit in self.limits)

    def apply(self, state: tuple[Any, ...], outcome: Outcome) -> tuple[dict[str, jax.Array], tuple[Any, ...]]:
        """Measures a bar.

        Args:
          state: of the account.
          outcome: of the bar.

        Returns:
          Name -> value `[]` of each metric, and the next state.
        """
        metrics, states = {}, []
        for limit, before in zip(self.limits, state, strict=True):
            metrics[limit.name], after = limit.apply(before, outcome)
            states.append(after)
        return metrics, tuple(states)

    def stops(self, metrics: dict[str, jax.Array]) -> jax.Array:
        """Whether a limit that says `stop` is breached, in the shape of the metrics; `[]` without limits."""
        found = jnp.zeros((), bool)
        for limit in self.limits:
            found = found | limit.breached(metrics[limit.name]) if limit.stop else found
        return found


NO_MONITOR = Monitor()
"""No limits."""


def _of_outcome(
    name: str, limit: float, warning: float, stop: bool, value: Callable[[Outcome], jax.Array]
) -> MonitoredLimit:
    """A limit on a metric that the bar alone gives."""
    return MonitoredLimit(name, limit, warning, stop, tuple, lambda state, outcome: (value(outcome), state))
