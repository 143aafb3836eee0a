"""Limits watched at every step: how far an account is, from which level on to warn, and what counts as a breach.

Written for one account; `vmap` over accounts. A monitor changes nothing by itself: training, backtest and whatever else
steps an account hand it the `Outcome` of every bar, and decide what to do about a limit that says `stop`.

A level exactly at a limit is no breach, and one exactly at its warning level is no warning; what exceeds them by less
than `ROUNDING` is rounding. A level that is not a number is a breach.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxppo.envs.execution.portfolio import LEVERAGE_ROUNDING
from jaxppo.envs.trading.types import Outcome

ROUNDING = LEVERAGE_ROUNDING
"""Relative excess over a limit that is let pass."""


class WatchedLimit(NamedTuple):
    """One limit; build with one of the factories below.

    Attributes:
      name: what is limited.
      limit: largest level that is no breach, > 0.
      warning: share of it from which on a level is worth a warning, in (0, 1].
      stop: whether a breach ends a training run, and the trading of an account that is evaluated.
      init: `() -> state` at the start of an episode, a pytree of arrays.
      apply: `(state, outcome) -> (level [], state)` at the close of a bar.
    """

    name: str
    limit: float
    warning: float
    stop: bool
    init: Callable[[], Any]
    apply: Callable[[Any, Outcome], tuple[jax.Array, Any]]

    def warned(self, level: Any) -> Any:
        """Whether levels of any shape, of JAX or NumPy, are beyond the warning level; breaches are."""
        return ~(level <= self.warning * self.limit * (1.0 + ROUNDING))

    def breached(self, level: Any) -> Any:
        """Whether levels are beyond the limit."""
        return ~(level <= self.limit * (1.0 + ROUNDING))


def drawdown(limit: float, *, warning: float = 0.8, stop: bool = False) -> WatchedLimit:
    """Share of the highest equity so far that is lost at the close."""
    return _of_outcome("drawdown", limit, warning, stop, lambda outcome: outcome.drawdown)


def leverage(limit: float, *, warning: float = 0.8, stop: bool = False) -> WatchedLimit:
    """Gross exposure at the close, fraction of equity."""
    return _of_outcome("leverage", limit, warning, stop, lambda outcome: outcome.leverage)


def net(limit: float, *, warning: float = 0.8, stop: bool = False) -> WatchedLimit:
    """Absolute net exposure at the close, fraction of equity."""
    return _of_outcome("net", limit, warning, stop, lambda outcome: jnp.abs(outcome.net))


def concentration(limit: float, *, warning: float = 0.8, stop: bool = False) -> WatchedLimit:
    """Largest absolute weight at the close, fraction of equity."""
    return _of_outcome("concentration", limit, warning, stop, lambda outcome: outcome.concentration)


def turnover(limit: float, *, warning: float = 0.8, stop: bool = False) -> WatchedLimit:
    """Notional traded in one bar, fraction of equity."""
    return _of_outcome("turnover", limit, warning, stop, lambda outcome: outcome.turnover)


def loss(limit: float, *, warning: float = 0.8, stop: bool = False) -> WatchedLimit:
    """Equity lost in one bar, fraction of that before it; 0 for a gain."""
    return _of_outcome("loss", limit, warning, stop, lambda outcome: jnp.maximum(-jnp.expm1(outcome.log_growth), 0.0))


def volatility(
    limit: float, *, periods: float, span: int = 21, warning: float = 0.8, stop: bool = False
) -> WatchedLimit:
    """Volatility of the account per year: the root of `periods` times the moving mean of its squared log returns.

        v' = v + 2 / (span + 1) (r^2 - v)

    An account without positions has none, so it starts at 0: a limit takes some bars to be reached, and one large
    return is no alarm by itself.

    Args:
      limit: per year, fraction of equity, > 0.
      periods: bars per year.
      span: bars of the moving mean, >= 1.
      warning, stop: see `WatchedLimit`.
    """
    _check("volatility", limit, warning)
    if span < 1:
        raise ValueError(f"span is {span}; it must be >= 1")

    def apply(variance: jax.Array, outcome: Outcome) -> tuple[jax.Array, jax.Array]:
        variance = variance + 2.0 / (span + 1.0) * (jnp.square(outcome.log_growth) - variance)
        return jnp.sqrt(periods * variance), variance

    return WatchedLimit("volatility", limit, warning, stop, lambda: jnp.zeros((), jnp.float32), apply)


@dataclasses.dataclass(frozen=True)
class Monitor:
    """Limits that are watched together.

    Attributes:
      limits: each of another name.

    Raises:
      ValueError: a name occurs twice.
    """

    limits: tuple[WatchedLimit, ...] = ()

    def __post_init__(self):
        names = [limit.name for limit in self.limits]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} is watched twice; a limit has one level of warning and one of breach")

    def init(self) -> tuple[Any, ...]:
        """State of one account at the start of an episode."""
        return tuple(limit.init() for limit in self.limits)

    def apply(self, state: tuple[Any, ...], outcome: Outcome) -> tuple[dict[str, jax.Array], tuple[Any, ...]]:
        """Name -> level `[]` after a bar, and the next state."""
        levels, states = {}, []
        for limit, own in zip(self.limits, state, strict=True):
            levels[limit.name], after = limit.apply(own, outcome)
            states.append(after)
        return levels, tuple(states)

    def stops(self, levels: dict[str, jax.Array]) -> jax.Array:
        """Whether a limit that says `stop` is breached, in the shape of the levels; `[]` without limits."""
        found = jnp.zeros((), bool)
        for limit in self.limits:
            found = found | limit.breached(levels[limit.name]) if limit.stop else found
        return found


UNWATCHED = Monitor()
"""No limits."""


def _of_outcome(
    name: str, limit: float, warning: float, stop: bool, level: Callable[[Outcome], jax.Array]
) -> WatchedLimit:
    """A limit of what the bar alone says.

    Raises:
      ValueError: a number outside its range.
    """
    _check(name, limit, warning)
    return WatchedLimit(name, limit, warning, stop, tuple, lambda state, outcome: (level(outcome), state))


def _check(name: str, limit: float, warning: float) -> None:
    if not limit > 0.0:
        raise ValueError(f"limit of {name} is {limit}; it must be > 0")
    if not 0.0 < warning <= 1.0:
        raise ValueError(f"warning of {name} is {warning}; it must be in (0, 1]")
