"""The linear policy of feature portfolios: positions that follow features, mixed by what each has earned so far.

A feature's portfolio holds that feature in parts of a budget of risk: 1 is one part. The mixture is fitted on all gains
known before, as a portfolio of portfolios whose Sharpe ratios and correlations are shrunk; none is held short. Twelve
weights are about what decades of daily prices leave room for.

Reference: Brandt, Santa-Clara, Valkanov (2009), Parametric portfolio policies, Review of Financial Studies 22.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.envs.market.features import Group, compute_features, feature_names
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.raw_features import TREND_SCALES
from jaxppo.envs.market.risk_parts import risk_parts
from jaxppo.envs.market.safe import ratio

FOLLOWED = (
    *(f"trend_{bars}" for bars in (5, 21, 63, 126, 252)),
    *(f"macd_{fast}_{slow}" for fast, slow in TREND_SCALES),
    "rank_252",
)
"""Features with a portfolio, beside a constant, and `carry` and `rank_carry` where there is carry."""
YEAR = 252
"""Bars at the start of a market whose gains are not counted: the longest trend has no history there."""
KNOWN_AFTER = 2
"""Bars from a decision to the close at which its gain is known."""
FEWEST = 63
"""Gains that a mixture is fitted on, at least."""
PRIOR_YEARS = 5.0
"""Years that the mean Sharpe ratio of all portfolios counts for in that of each one."""
LARGEST = 10.0
"""Weight of one part, multiple of equity, before it is divided by the root of the number of assets."""


class Portfolios(NamedTuple):
    """The portfolios of a market.

    Attributes:
      held: `[T, A, K]` weights of the K portfolios after the close of each bar, fractions of equity.
      gains: `[T, K]` net return of what is decided at each close, from its fill to the next one: known two bars later.
    """

    held: jax.Array
    gains: jax.Array


def feature_table(market: MarketData) -> jax.Array:
    """Features `[T, A, K]` with a portfolio, the constant 1 first; 0 where unknown.

    Args:
      market: unbatched.
    """
    with_carry = not isinstance(market.carry, tuple)
    groups: tuple[Group, ...] = ("trend", "cross_section", "carry") if with_carry else ("trend", "cross_section")
    names = FOLLOWED + (("carry", "rank_carry") if with_carry else ())
    every = feature_names(groups)
    table = compute_features(market, groups=groups)[..., np.asarray([every.index(name) for name in names])]
    return jnp.concatenate([jnp.ones_like(table[..., :1]), table], axis=-1)


def earned(market: MarketData) -> jax.Array:
    """Return `[T, A]` of what a decision at the close of t holds: from its fill, at the open of t + 1, to the next one.

    Known at the open of bar t + 2; 0 in the last two rows.

    Args:
      market: unbatched.
    """
    return jnp.zeros_like(market.open).at[:-2].set(market.open[2:] / market.open[1:-1] - 1.0)


def portfolios(
    market: MarketData, periods: float, target: float, span: int, spread: float, commission: float
) -> Portfolios:
    """The portfolio of each feature, charged for its own trades.

    Args:
      market: unbatched.
      periods: bars per year.
      target: volatility per year of all parts of the budget together, fraction of equity.
      span: bars of the forecast of volatility.
      spread: share of the half-spread that a fill pays.
      commission: fraction of the traded notional.
    """
    held = feature_table(market) * risk_parts(market, periods, target, span, LARGEST)[..., None]
    traded = jnp.abs(jnp.diff(held, axis=0, prepend=jnp.zeros_like(held[:1])))
    gains = jnp.einsum("tak,ta->tk", held, earned(market))
    gains -= jnp.einsum("tak,ta->tk", traded, spread * market.half_spread + commission)
    return Portfolios(held, gains)


def mixture(gains: jax.Array, counted: jax.Array, periods: float, target: float) -> jax.Array:
    """Weights `[K]` of portfolios, fitted on the gains that count: `max(C^-1 m, 0)`, scaled to a volatility.

    C is their covariance with its off-diagonal halved; m their means, whose Sharpe ratios are shrunk towards the mean
    of all. 0 for a portfolio that has held nothing.

    Args:
      gains: `[T, K]` a bar.
      counted: `[T]` bool.
      periods: bars per year.
      target: volatility per year of the mixture in these gains, fraction of equity.
    """
    n = jnp.maximum(counted.sum(), 1)
    mean = jnp.where(counted[:, None], gains, 0.0).sum(axis=0) / n
    apart = jnp.where(counted[:, None], gains - mean[None], 0.0)
    covariance = apart.T @ apart / n * periods
    moved = jnp.diag(covariance) > 0.0
    deviation = jnp.where(moved, jnp.sqrt(jnp.diag(covariance)), 1.0)
    years, sharpe = counted.sum() / periods, mean * periods / deviation
    typical = jnp.sum(sharpe) / jnp.maximum(moved.sum(), 1)
    sharpe = jnp.where(moved, (sharpe * years + typical * PRIOR_YEARS) / (years + PRIOR_YEARS), 0.0)
    shrunk = 0.5 * covariance / jnp.outer(deviation, deviation) + 0.5 * jnp.eye(len(mean))
    weights = jnp.where(moved, jnp.maximum(jnp.linalg.solve(shrunk, sharpe), 0.0) / deviation, 0.0)
    return weights * ratio(jnp.asarray(target), jnp.sqrt(jnp.maximum(weights @ covariance @ weights, 0.0)), 0.0)


def refitted(found: Portfolios, fits: np.ndarray, periods: float, target: float) -> jax.Array:
    """Targets `[T, A]` of mixtures fitted again and again, each on the gains known at its bar; 0 before the first.

    Args:
      found: the portfolios.
      fits: bars at whose closes the mixture is fitted, increasing.
      periods: bars per year.
      target: volatility per year, fraction of equity.
    """
    n_bars = len(found.gains)
    counts = (np.arange(n_bars) >= YEAR) & (np.arange(n_bars) + KNOWN_AFTER <= fits[:, None])
    fit = functools.partial(mixture, found.gains, periods=periods, target=target)
    weights = jax.lax.map(lambda counted: fit(counted), jnp.asarray(counts))
    weights = jnp.concatenate([jnp.zeros((1, found.gains.shape[1])), weights])
    latest = np.searchsorted(fits, np.arange(n_bars), side="right")
    return jnp.einsum("tak,tk->ta", found.held, weights[jnp.asarray(latest)])
