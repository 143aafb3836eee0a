"""What every test of returns asks of them before it computes."""

from __future__ import annotations

import jax
import numpy as np

from jaxppo.risk.metrics.common import as_float


def check_returns(
    returns: jax.Array, *, name: str = "returns", axis: int = -1, at_least: int = 2, constant: bool = False
) -> jax.Array:
    """`returns` as a floating-point array, refused where no statistic of them means anything.

    Values are looked at only where they are known: under `jit` or `vmap` bad values come out as NaN instead.

    Args:
      returns: array with at least one axis.
      name: of the argument, for the message.
      axis: the time axis.
      at_least: fewest bars.
      constant: whether series without any spread are accepted.

    Raises:
      ValueError: no axis, too few bars, a value that is not finite, or a constant series.
    """
    returns = as_float(returns)
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


def check_panel(returns: jax.Array, *, name: str = "returns", at_least: int = 2, strategies: int = 1) -> jax.Array:
    """`check_returns` of a panel `[T, N]` of N strategies over the same T bars.

    Raises:
      ValueError: not two axes, or fewer than `strategies` columns; see `check_returns`.
    """
    returns = as_float(returns)
    if returns.ndim != 2:
        raise ValueError(f"{name} has shape {returns.shape}; [bars, strategies] is expected")
    if returns.shape[1] < strategies:
        raise ValueError(f"{name} holds {returns.shape[1]} strategies; at least {strategies} are needed")
    return check_returns(returns, name=name, axis=0, at_least=at_least)


def check_count(name: str, value: int, at_least: int) -> int:
    """An integer of at least `at_least`.

    Raises:
      ValueError: it is not.
    """
    if value != int(value) or value < at_least:
        raise ValueError(f"{name} is {value}; a whole number of at least {at_least} is expected")
    return int(value)
