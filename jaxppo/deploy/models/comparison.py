"""Two series of returns over the same bars: is the first better than luck explains?"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.deploy.models.returns import Evaluated, common_bars
from jaxppo.errors import ConfigError
from jaxppo.statistics import paired_test, sharpe_per_bar

FEWEST_BARS = 16
"""Bars that a paired test needs."""
FIGURES = (
    "sharpe", "total_return", "annual_return", "volatility", "max_drawdown", "cvar_95", "turnover", "costs", "n_bars"
)  # fmt: skip
"""Metrics that stand side by side."""


@dataclasses.dataclass(frozen=True)
class Paired:
    """A paired test: the first less the second over the same bars.

    Attributes:
      n_bars: that both have.
      sharpe: difference of the annual Sharpe ratios.
      sharpe_low: end of its interval, 95 %.
      sharpe_high: end of its interval.
      p_value: one-sided, of "the Sharpe ratio of the first is not higher".
      mean: difference of the mean returns per year.
      mean_p_value: one-sided, of "the first does not earn more".
    """

    n_bars: int
    sharpe: float
    sharpe_low: float
    sharpe_high: float
    p_value: float
    mean: float
    mean_p_value: float


def idle_sharpe(returns: jax.Array) -> jax.Array:
    """Sharpe ratio per bar, 0 for an account that did nothing.

    Args:
      returns: `[n]` simple return per bar.
    """
    idle = jnp.all(returns == returns[0])
    # A number in place of the constant series: no NaN has to be left out afterwards.
    return jnp.where(idle, 0.0, sharpe_per_bar(jnp.where(idle, jnp.arange(returns.shape[0]), returns)))


def paired(first: np.ndarray, second: np.ndarray, periods: float) -> Paired:
    """Tests whether one series of returns is better than another over the same bars, by the stationary bootstrap.

    The Sharpe ratio decides, not the mean: the same positions twice as large are no better model.

    Args:
      first: `[n]` simple return per bar, n >= `FEWEST_BARS`.
      second: `[n]`.
      periods: bars per year.

    Returns:
      Both tests; NaN where one is not defined.

    Raises:
      ValueError: the series are the same, too short, or not finite.
    """
    if len(first) < FEWEST_BARS:
        raise ValueError(f"{len(first)} common out-of-sample bars are too few, {FEWEST_BARS} are needed")
    if np.array_equal(first, second):
        raise ValueError("both earn the same in every bar")
    pair = jnp.asarray(first, jnp.float32), jnp.asarray(second, jnp.float32)
    by_sharpe = paired_test(jax.random.key(0), *pair, idle_sharpe)
    by_mean = paired_test(jax.random.key(1), *pair, jnp.mean)
    scale = math.sqrt(periods)
    return Paired(
        len(first),
        by_sharpe.difference * scale,
        by_sharpe.low * scale,
        by_sharpe.high * scale,
        one_sided(by_sharpe.difference, by_sharpe.p_value),
        by_mean.difference * periods,
        one_sided(by_mean.difference, by_mean.p_value),
    )


def one_sided(difference: float, p_value: float) -> float:
    """p-value of "the first is not better".

    Args:
      difference: of the first from the second.
      p_value: two-sided.
    """
    return p_value / 2.0 if difference > 0.0 else 1.0 - p_value / 2.0


def paired_models(first: Evaluated, second: Evaluated) -> Paired:
    """Tests a model against another one over the out-of-sample bars that both have.

    Args:
      first: the model.
      second: the one that it is compared with.

    Raises:
      ValueError: see `paired`; or they have no bars in common.
    """
    ours, theirs = common_bars(first, second)
    if not len(ours):
        spans = " and ".join(f"{one.about['first_bar']} to {one.about['last_bar']}" for one in (first, second))
        raise ValueError(f"no common out-of-sample bars ({spans})")
    return paired(first.returns.model[ours], second.returns.model[theirs], first.about["periods"])


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two versions side by side.

    Attributes:
      first: name and version.
      second: name and version.
      figures: metric -> of the first and of the second, each over its own out-of-sample bars.
      paired: the first less the second over the bars that both have.
      same_prices: whether both were tested on the same table of prices.
    """

    first: str
    second: str
    figures: dict[str, tuple[Any, Any]]
    paired: Paired
    same_prices: bool


def compare_models(first: Evaluated, second: Evaluated) -> Comparison:
    """Sets two versions side by side.

    Args:
      first: a version.
      second: another one.

    Raises:
      ConfigError: they cannot be compared, and why.
    """
    try:
        found = paired_models(first, second)
    except ValueError as error:
        raise ConfigError(f"{first.title} and {second.title} cannot be compared: {error}") from None
    metrics = first.about["metrics"], second.about["metrics"]
    figures = {name: (metrics[0].get(name), metrics[1].get(name)) for name in FIGURES}
    for name in ("dsr", "trials", "effective_trials"):
        figures[name] = (first.about["selection"].get(name), second.about["selection"].get(name))
    prices = first.about["data_fingerprint"] == second.about["data_fingerprint"]
    return Comparison(first.title, second.title, figures, found, prices)
