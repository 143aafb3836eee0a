"""Checks of the arguments that the tests of returns share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.risk.metrics.common import as_float


def check_returns(
    returns: jax.Array | np.ndarray, *, name: str = "returns", axis: int = -1, at_least: int = 2, constant: bool = False
) -> jax.Array:
    """Converts returns to floating point, and refuses those of which no statistic means anything.

    Values are checked only where they are known: under `jit` or `vmap` bad values come out as NaN instead.

    Args:
      returns: array with at least one axis.
      name: of the argument, for the message.
      axis: the time axis.
      at_least: fewest bars.
      constant: whether series without any spread are accepted.

    Raises:
      ValueError: no axis, too few bars, a value that is not finite, or a constant series.
    """
    returns = as_float(jnp.asarray(returns))
    if returns.ndim == 0:
        raise ValueError(f"{name} is a single number; a series of returns per bar is expected")
    n = returns.shape[axis]
    if n < at_least:
        raise ValueError(f"{name} has {n} bars; at least {at_least} are needed")
    if isinstance(returns, jax.core.Tracer):
        return returns
    values = np.asarray(returns)
    bad = ~np.isfinite(values)
    if bad.any():
        where = ", ".join(map(str, np.argwhere(bad)[0]))
        raise ValueError(f"{name}[{where}] is {values[bad][0]}; drop or fill such bars first")
    if not constant and (np.ptp(values, axis=axis) == 0).any():
        raise ValueError(f"{name} are constant; without any spread there is nothing to test")
    return returns


def check_panel(
    returns: jax.Array | np.ndarray, *, name: str = "returns", at_least: int = 2, strategies: int = 1
) -> jax.Array:
    """`check_returns` of a panel of strategies over the same bars.

    Args:
      returns: `[T, N]` return per bar.
      name: of the argument, for the message.
      at_least: fewest bars.
      strategies: fewest columns.

    Raises:
      ValueError: not two axes, or fewer than `strategies` columns; see `check_returns`.
    """
    returns = as_float(jnp.asarray(returns))
    if returns.ndim != 2:
        raise ValueError(f"{name} has shape {returns.shape}; [bars, strategies] is expected")
    if returns.shape[1] < strategies:
        raise ValueError(f"{name} holds {returns.shape[1]} strategies; at least {strategies} are needed")
    return check_returns(returns, name=name, axis=0, at_least=at_least)


def check_count(name: str, value: int, at_least: int) -> None:
    """Refuses what is not a whole number of at least `at_least`.

    Args:
      name: of the argument, for the message.
      value: of the argument.
      at_least: smallest that is allowed.

    Raises:
      ValueError: it is not.
    """
    if value != int(value) or value < at_least:
        raise ValueError(f"{name} is {value}; a whole number of at least {at_least} is expected")


def check_level(level: float) -> None:
    """Refuses a level of confidence outside (0, 1).

    Raises:
      ValueError: it is.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}; it must lie strictly between 0 and 1, for example 0.95")
