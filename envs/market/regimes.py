"""Market regimes, known at the close of each bar: bull, bear, sideways, crisis, by rules or by a hidden Markov model.

Everything is causal. The model is fitted on the bars it is given (a run fits it on its training period) and then only
filters: a state is never smoothed, nor a path decoded, with what came later.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.envs.market.features import REGIMES as NAMES
from jaxppo.envs.market.features import ewma_volatility
from jaxppo.envs.market.hidden_markov import HiddenMarkovModel, fit, forward_filter
from jaxppo.envs.market.index import own_returns
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.own_bars import own_bars
from jaxppo.envs.market.windows import rolling_max, rolling_moments, rolling_rank, shift

FIRST_RETURNS = 21
"""Own bars of an asset before its returns are observed: their usual volatility must be known."""
LARGEST_OBSERVATION = 3.0
"""Returns beyond this multiple of the usual volatility count as this: a model of Gaussians would otherwise spend a
state on single outliers, which says nothing about the bars after them."""
BULL, BEAR, SIDEWAYS, CRISIS = range(4)


def rule_regimes(
    market: MarketData,
    *,
    trend_window: int = 63,
    trend_threshold: float = 1.0,
    volatility_window: int = 504,
    volatility_quantile: float = 0.9,
    volatility_span: int = 21,
    drawdown_window: int = 252,
    crisis_drawdown: float = 0.1,
) -> jax.Array:
    """Regimes by rules, on each asset's own bars.

    Crisis: the forecast volatility is in the top of its recent values, and the price is down from its recent high.
    Otherwise the t-statistic of the mean log return decides: bull above the threshold, bear below its negative,
    sideways between. Sideways also until `trend_window` returns are known, and where an asset has never traded.

    Args:
      market: `[T, A]` bars; `jaxppo.envs.market.index.market_index` of a market for the regimes of the market as a whole.
      trend_window: returns in the t-statistic, >= 2.
      trend_threshold: of the t-statistic, >= 0.
      volatility_window: bars with which today's volatility is compared.
      volatility_quantile: in (0, 1); the volatility is high from this rank on.
      volatility_span: span in bars of the volatility forecast.
      drawdown_window: bars of the high.
      crisis_drawdown: fraction below that high, in (0, 1).

    Returns:
      `[T, A, 4]` float32 in the order of `jaxppo.envs.market.features.REGIMES`: 1 for the regime at the close of t, 0 for the others.
    """
    bars = own_bars(market.tradable)
    close = bars.pack(market.close)
    log_price = jnp.log(close)
    change = log_price - shift(log_price, 1)
    mean, squares = rolling_moments(change, trend_window)
    error = jnp.sqrt(jnp.maximum(squares, 1e-20) / (trend_window - 1) / trend_window)
    trend = jnp.where(jnp.arange(market.n_bars)[:, None] >= trend_window, mean / error, 0.0)
    volatility = bars.pack(ewma_volatility(market, volatility_span))
    turbulent = rolling_rank(volatility, volatility_window) > volatility_quantile
    fallen = 1.0 - close / rolling_max(close, drawdown_window) > crisis_drawdown
    regime = jnp.where(trend > trend_threshold, BULL, jnp.where(trend < -trend_threshold, BEAR, SIDEWAYS))
    regime = jnp.where(turbulent & fallen, CRISIS, regime)
    regime = jnp.where(bars.listed, bars.spread(regime), SIDEWAYS)
    return jax.nn.one_hot(regime, len(NAMES))


def market_regime(probability: np.ndarray) -> np.ndarray:
    """The one regime of a market at each close: the likeliest by the mean over the assets whose regime is known.

    Args:
      probability: `[n, A, 4]`, NaN where unknown.

    Returns:
      `[n]` int: position in `jaxppo.envs.market.features.REGIMES`, of equally likely ones the first; -1 where no asset's is known.
    """
    probability = np.asarray(probability, np.float64)
    known = np.isfinite(probability).all(axis=-1)
    total = np.where(known[..., None], probability, 0.0).sum(axis=1)
    return np.where(known.any(axis=1), total.argmax(axis=-1), -1)


def stretches(regimes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each unbroken stretch of one regime begins and ends (exclusive), `[m]` each, of `regimes [n]`."""
    regimes = np.asarray(regimes)
    changes = np.flatnonzero(np.diff(regimes)) + 1
    return np.r_[0, changes][: len(regimes)], np.r_[changes, len(regimes)][: len(regimes)]


def standardised_returns(market: MarketData, span: int = 504) -> tuple[jax.Array, jax.Array]:
    """What the hidden Markov model observes: log returns in units of the volatility that was usual before.

    Dimensionless, so that a model can be used on other assets than those it was fitted on. The usual volatility is the
    exponential average of `span` bars up to the bar before; a return over a halt counts by its length.
    Within `LARGEST_OBSERVATION`; none for the first bars of an asset.

    Returns:
      `[T, A, 1]` observations and `[T, A]` bool, where there is one.
    """
    change, known = own_returns(market)
    bars = own_bars(market.tradable)
    waited = 1.0 + shift(bars.bars_since, 1).astype(jnp.float32)
    usual = shift(ewma_volatility(market, span), 1)
    # The first returns have nothing to be measured by.
    known = known & (jnp.cumsum(market.tradable, axis=0) > FIRST_RETURNS)
    observed = jnp.log1p(change) / (usual * jnp.sqrt(waited))
    return jnp.clip(observed, -LARGEST_OBSERVATION, LARGEST_OBSERVATION)[..., None], known


def fit_regimes(
    key: jax.Array, market: MarketData, n_states: int = 3, *, span: int = 504, n_restarts: int = 8
) -> HiddenMarkovModel:
    """One hidden Markov model of the returns of all assets of a market, states in order of mean. Consumes `key`.

    Args:
      key: randomness of the restarts.
      market: the bars to fit on, all of them; a run gives its training period with what lies before it.
      n_states: 2 to 6.
      span: see `standardised_returns`.
      n_restarts: random starts of which the likeliest counts.

    Raises:
      ValueError: `n_states` outside 2 to 6.
    """
    x, known = standardised_returns(market, span)
    return fit(key, x.swapaxes(0, 1), known.T, n_states, n_restarts=n_restarts).model


def hidden_regimes(model: HiddenMarkovModel, market: MarketData, span: int = 504) -> jax.Array:
    """Filtered probabilities of the four regimes.

    Args:
      model: from `fit_regimes`.
      market: `[T, A]` bars.
      span: that of the fit.

    Returns:
      `[T, A, 4]` float32 in the order of `jaxppo.envs.market.features.REGIMES`, rows sum to 1. An asset that has not traded yet has
      those of the model's start, moved on bar by bar.
    """
    x, known = standardised_returns(market, span)
    filtered = jax.vmap(lambda a, b: forward_filter(model, a, b).probabilities, in_axes=1, out_axes=1)(x, known)
    return filtered @ regime_of_states(model)


def regime_of_states(model: HiddenMarkovModel) -> jax.Array:
    """`[N, 4]`: 1 where a state (row) counts as a regime.

    From three states on, that of the largest variance is the crisis. Of the others, in order of mean, the last is bull
    and, if there are two or more, the first is bear; those between are sideways.
    """
    n_states = model.n_states
    mean, variance = model.mean[:, 0], model.variance[:, 0]
    crisis = jnp.arange(n_states) == (jnp.argmax(variance) if n_states > 2 else -1)
    place = jnp.argsort(jnp.argsort(mean, stable=True), stable=True)
    rank = jnp.sum((place[None] < place[:, None]) & ~crisis[None], axis=1)
    others = n_states - (n_states > 2)
    regime = jnp.where(rank == others - 1, BULL, jnp.where(rank == 0, BEAR, SIDEWAYS))
    return jax.nn.one_hot(jnp.where(crisis, CRISIS, regime), len(NAMES))
