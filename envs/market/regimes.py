"""Market regimes (bull, bear, sideways, crisis) known at the close of each bar, by rules or by a hidden Markov model.

Both are causal. The model is fitted on the bars it is given (a run fits it on its training period) and then only
filters: no state is smoothed with later bars.
"""

from __future__ import annotations

from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from jaxppo.arguments import (
    AtLeastTwo,
    BoundedInt,
    CodeOnly,
    Coefficient,
    OpenFraction,
    PositiveInt,
    checked,
)
from jaxppo.envs.market.features import REGIMES as NAMES
from jaxppo.envs.market.features import ewma_volatility
from jaxppo.envs.market.hidden_markov import HiddenMarkovModel, fit, forward_filter
from jaxppo.envs.market.index import own_returns
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.own_bars import own_bars
from jaxppo.envs.market.precision import matmul
from jaxppo.envs.market.rows import row_number
from jaxppo.envs.market.windows import rolling_max, rolling_moments, rolling_rank, shift

FIRST_RETURNS = 21
"""Own bars of an asset before its first observation; they give its usual volatility."""
LARGEST_OBSERVATION = 3.0
"""Clip of the observations: a Gaussian model would otherwise spend a state on single outliers, which says nothing about
the bars after them."""
TIE = 1e-6
"""A rank is above a quantile by more than this: one that equals it is not, however the division was rounded."""
States = Annotated[int, Field(ge=2, le=6)]
BULL, BEAR, SIDEWAYS, CRISIS = range(4)


@checked
def rule_regimes(
    market: MarketData,
    *,
    trend_window: AtLeastTwo = 63,
    trend_threshold: Coefficient = 1.0,
    volatility_window: PositiveInt = 504,
    volatility_quantile: OpenFraction = 0.9,
    volatility_span: CodeOnly[PositiveInt] = 21,
    drawdown_window: PositiveInt = 252,
    crisis_drawdown: OpenFraction = 0.1,
) -> jax.Array:
    """Classifies regimes by rules on trend, volatility and drawdown of each asset's own bars.

    Crisis: the forecast volatility ranks high among its recent values, and the price is down from its recent high.
    Otherwise the t-statistic of the mean log return decides: bull above the threshold, bear below its negative,
    sideways between. Sideways also until `trend_window` returns are known, and before an asset's first bar.

    Args:
      market: `[T, A]` bars; its `market_index` for the regimes of the market as a whole.
      trend_window: returns in the t-statistic of the trend.
      trend_threshold: bull above this t-statistic, bear below its negative, sideways between.
      volatility_window: bars with which today's volatility is compared.
      volatility_quantile: a crisis needs a volatility above this rank.
      volatility_span: span of the volatility forecast, bars.
      drawdown_window: bars of the recent high.
      crisis_drawdown: a crisis needs a price this fraction below that high.

    Returns:
      `[T, A, 4]` float32, one-hot in the order of `REGIMES`, known at the close of t.
    """
    bars = own_bars(market.tradable)

    def of_asset(close: jax.Array, volatility: jax.Array) -> jax.Array:
        log_price = jnp.log(close)
        mean, squares = rolling_moments(log_price - shift(log_price, 1), trend_window)
        error = jnp.sqrt(jnp.maximum(squares, 1e-20) / (trend_window - 1) / trend_window)
        trend = jnp.where(row_number(close) >= trend_window, mean / error, 0.0)
        turbulent = rolling_rank(volatility, volatility_window) > volatility_quantile + TIE
        fallen = 1.0 - close / rolling_max(close, drawdown_window) > crisis_drawdown
        regime = jnp.where(trend > trend_threshold, BULL, jnp.where(trend < -trend_threshold, BEAR, SIDEWAYS))
        return jnp.where(turbulent & fallen, CRISIS, regime)

    found = bars.computed(of_asset, market.close, ewma_volatility(market, volatility_span))
    regime = jnp.where(bars.listed, found, SIDEWAYS)
    return jax.nn.one_hot(regime, len(NAMES))


def market_regime(probability: np.ndarray) -> np.ndarray:
    """Reduces the regimes of all assets to one per bar: the likeliest on average over the assets with a known regime.

    Args:
      probability: `[n, A, 4]` probabilities, NaN where unknown.

    Returns:
      `[n]` int, index into `REGIMES`, the first of equally likely ones; -1 where no asset's regime is known.
    """
    probability = np.asarray(probability, np.float64)
    known = np.isfinite(probability).all(axis=-1)
    total = np.where(known[..., None], probability, 0.0).sum(axis=1)
    return np.where(known.any(axis=1), total.argmax(axis=-1), -1)


def stretches(regimes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Splits `[n]` regimes into stretches of one regime: `[m]` first bars and `[m]` bars after the last."""
    regimes = np.asarray(regimes)
    changes = np.flatnonzero(np.diff(regimes)) + 1
    return np.r_[0, changes][: len(regimes)], np.r_[changes, len(regimes)][: len(regimes)]


def standardised_returns(market: MarketData, span: int = 504) -> tuple[jax.Array, jax.Array]:
    """Standardises log returns by the volatility forecast at the bar before, as the hidden Markov model observes them.

    Observations are dimensionless, so that a model fits other assets than those it was fitted on. A return over n bars
    (a halt) is divided by `sqrt(n)` as well.

    Args:
      market: `[T, A]` bars.
      span: span of the volatility forecast, bars, >= 1.

    Returns:
      `[T, A, 1]` observations, clipped to +-`LARGEST_OBSERVATION`, and `[T, A]` bool, where there is one; none for the
      first `FIRST_RETURNS` bars of an asset.
    """
    change, known = own_returns(market)
    bars = own_bars(market.tradable)
    n_elapsed = 1.0 + shift(bars.bars_since, 1).astype(jnp.float32)
    usual = shift(ewma_volatility(market, span), 1)
    known = known & (bars.latest >= FIRST_RETURNS)
    observed = jnp.log1p(change) / (usual * jnp.sqrt(n_elapsed))
    return jnp.clip(observed, -LARGEST_OBSERVATION, LARGEST_OBSERVATION)[..., None], known


@checked
def fit_regimes(
    key: jax.Array,
    market: MarketData,
    states: States = 3,
    *,
    usual_volatility_span: PositiveInt = 504,
    restarts: BoundedInt = 8,
) -> HiddenMarkovModel:
    """Fits one hidden Markov model to the returns of all assets of a market, states in order of mean. Consumes `key`.

    Args:
      key: random key of the restarts.
      market: `[T, A]` bars, all of which are used; a run gives its training period and the bars before it.
      states: hidden states.
      usual_volatility_span: bars of the volatility in whose units returns are observed.
      restarts: random starts of the fit, of which the likeliest counts.

    Raises:
      ValueError: an argument outside its range.
    """
    x, known = standardised_returns(market, usual_volatility_span)
    return fit(key, x.swapaxes(0, 1), known.T, states, n_restarts=restarts).model


def hidden_regimes(model: HiddenMarkovModel, market: MarketData, span: int = 504) -> jax.Array:
    """Filters the probabilities of the four regimes at each close.

    Args:
      model: result of `fit_regimes`.
      market: `[T, A]` bars.
      span: span given to `fit_regimes`, bars.

    Returns:
      `[T, A, 4]` float32 in the order of `REGIMES`, rows sum to 1. Before an asset's first observation they are the
      model's initial probabilities, moved on by its transitions.
    """
    x, known = standardised_returns(market, span)
    return matmul(forward_filter(model, x, known).probabilities, regime_of_states(model))


def regime_of_states(model: HiddenMarkovModel) -> jax.Array:
    """Assigns each state of a model (row) to a regime (column): `[N, 4]` one-hot.

    With three or more states, the one of the largest variance is crisis. Among the others, the largest mean is bull,
    the smallest is bear, and those between are sideways.
    """
    n_states = model.n_states
    mean, variance = model.mean[:, 0], model.variance[:, 0]
    crisis = jnp.arange(n_states) == (jnp.argmax(variance) if n_states > 2 else -1)
    place = jnp.argsort(jnp.argsort(mean, stable=True), stable=True)
    rank = jnp.sum((place[None] < place[:, None]) & ~crisis[None], axis=1)
    others = n_states - (n_states > 2)
    regime = jnp.where(rank == others - 1, BULL, jnp.where(rank == 0, BEAR, SIDEWAYS))
    return jax.nn.one_hot(jnp.where(crisis, CRISIS, regime), len(NAMES))
