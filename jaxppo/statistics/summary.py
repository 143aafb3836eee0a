"""The out-of-sample figures of one strategy, ready for JSON."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.risk import metrics
from jaxppo.statistics.bootstrap import bootstrap_interval


def summarise(
    returns: jax.Array | np.ndarray, *, periods: float, key: jax.Array, n_resamples: int = 2000, level: float = 0.95
) -> dict[str, Any]:
    """Computes the out-of-sample figures of one strategy, ready for JSON: an undefined or infinite number is None.

    Args:
      returns: `[n]` simple return per bar, net of costs, n >= 1.
      periods: bars per year.
      key: consumed by the bootstrap.
      n_resamples: of the interval of the Sharpe ratio.
      level: of the same interval.

    Returns:
      `sharpe` (annual), `sharpe_ci` (`[low, high]`), `sortino` (annual), `calmar`, `max_drawdown` (positive fraction),
      `cvar_95` (positive fraction of equity per bar), `win_rate` (share of the bars with a gain or a loss),
      `total_return` (fraction), `annual_return` (the same per year, compounded), `volatility` (annual), `n_bars`.

    Raises:
      ValueError: for an empty series.
    """
    returns = jnp.asarray(returns)
    interval = bootstrap_interval(key, returns, sharpe_per_bar, level=level, n_resamples=n_resamples)
    figures = jax.device_get(_figures(returns, periods=float(periods)))
    scale = math.sqrt(periods)
    return {
        "sharpe": json_number(figures["sharpe"]),
        "sharpe_ci": [json_number(end * scale) for end in interval],
        **{name: json_number(figures[name]) for name in ("sortino", "calmar", "max_drawdown", "cvar_95")},
        **{name: json_number(figures[name]) for name in ("win_rate", "total_return", "annual_return", "volatility")},
        "n_bars": int(returns.shape[0]),
    }


def sharpe_per_bar(returns: jax.Array) -> jax.Array:
    """Sharpe ratio that is not annualised, so that one compiled bootstrap serves every bar length."""
    return metrics.sharpe(returns, periods=1.0)


@functools.partial(jax.jit, static_argnames=("periods",))
def _figures(returns: jax.Array, periods: float) -> dict[str, jax.Array]:
    """Scalars of `summarise` that come straight from the returns `[n]`."""
    return {
        "sharpe": metrics.sharpe(returns, periods=periods),
        "sortino": metrics.sortino(returns, periods=periods),
        "calmar": metrics.calmar(returns, periods=periods),
        "max_drawdown": metrics.max_drawdown(returns),
        "cvar_95": metrics.conditional_value_at_risk(returns, level=0.95),
        "win_rate": metrics.win_rate(returns),
        "total_return": metrics.total_return(returns),
        "annual_return": metrics.annual_return(returns, periods=periods),
        "volatility": metrics.volatility(returns, periods=periods),
    }


def json_number(value: Any) -> float | None:
    """Converts a number to a Python float, or None where JSON has no such number."""
    number = float(value)
    return number if math.isfinite(number) else None
