"""The regimes of a run: by its configuration, with a hidden Markov model fitted on its training period."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.config import ConfigError, RegimesConfig
from jaxppo.envs.market.hidden_markov import HiddenMarkovModel
from jaxppo.envs.market.index import market_index
from jaxppo.envs.market.market_data import MarketData, slice_bars
from jaxppo.envs.market.regimes import fit_regimes, hidden_regimes, rule_regimes

LEAST_RETURNS = 50
"""Returns per state that a fit needs."""


def find_regimes(
    config: RegimesConfig, market: MarketData, learn_until: int, seed: int, learn_from: int = 0
) -> tuple[jax.Array | None, RegimesConfig]:
    """Probabilities of the regimes at every close, and the configuration with the fitted model filled in.

    Args:
      config: how they are found.
      market: all bars.
      learn_until: last bar that a fit may use.
      seed: of the fit's random starts.
      learn_from: first bar that it may use.

    Returns:
      `[T, A, 4]` in the order of `jaxppo.envs.market.features.REGIMES`, None without regimes; the configuration.

    Raises:
      ConfigError: too few bars to fit a model on.
    """
    if config.kind == "none":
        return None, config
    seen = market_index(market) if config.scope == "market" else market
    if config.kind == "rules":
        found = rule_regimes(
            seen,
            trend_window=config.trend_window,
            trend_threshold=config.trend_threshold,
            volatility_window=config.volatility_window,
            volatility_quantile=config.volatility_quantile,
            drawdown_window=config.drawdown_window,
            crisis_drawdown=config.crisis_drawdown,
        )
    else:
        span = config.usual_volatility_span
        if config.model is None:
            if learn_until - learn_from < LEAST_RETURNS * config.states:
                raise ConfigError(
                    f"regimes.states is {config.states}; a fit needs {LEAST_RETURNS * config.states} bars up to the "
                    f"end of the training period, which has {learn_until - learn_from + 1}"
                )
            past = slice_bars(seen.replace(info=market.info), learn_from, learn_until + 1)
            model = fit_regimes(jax.random.key(seed), past, config.states, span=span, n_restarts=config.restarts)
            config = config.model_copy(update={"model": _numbers(model)})
        found = hidden_regimes(_model(config), seen, span)
    return jnp.broadcast_to(found, (*market.close.shape, found.shape[-1])), config


def _numbers(model: HiddenMarkovModel) -> tuple[float, ...]:
    """Parameters in the order of `RegimesConfig.model`."""
    parts = (model.initial, model.transition, model.mean, model.variance)
    return tuple(float(x) for part in parts for x in np.asarray(part, np.float64).ravel())


def _model(config: RegimesConfig) -> HiddenMarkovModel:
    n = config.states
    initial, transition, mean, variance = np.split(np.asarray(config.model, np.float32), np.cumsum([n, n * n, n]))
    return HiddenMarkovModel(
        *(jnp.asarray(x) for x in (initial, transition.reshape(n, n), mean[:, None], variance[:, None]))
    )
