"""Regimes of a run: by rules, or by a hidden Markov model fitted on its training period."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.arguments import argument_types
from jaxppo.config import RegimesConfig
from jaxppo.envs.market.hidden_markov import HiddenMarkovModel
from jaxppo.envs.market.index import market_index
from jaxppo.envs.market.market_data import MarketData, slice_bars
from jaxppo.envs.market.regimes import NAMES, fit_regimes, hidden_regimes, rule_regimes
from jaxppo.errors import ConfigError
from jaxppo.own_code import call_of, find, said

LEAST_RETURNS = 50
"""Returns per state that a fit needs."""


def find_regimes(
    config: RegimesConfig, market: MarketData, learn_until: int, seed: int, learn_from: int = 0
) -> tuple[jax.Array | None, RegimesConfig]:
    """Finds the probabilities of the regimes at every close, and fills the fitted model into the configuration.

    Args:
      config: how they are found.
      market: all bars.
      learn_until: last bar that a fit may use.
      seed: of the fit's random starts.
      learn_from: first bar that it may use.

    Returns:
      `[T, A, 4]` in the order of `jaxppo.envs.market.features.REGIMES`, None without regimes; the configuration.

    Raises:
      ConfigError: too few bars to fit a model on, or own code that fails or returns something else.
    """
    if config.kind == "none":
        return None, config
    if config.kind == "rules":
        return regimes_by_rules(config, market), config
    if config.kind != "hmm":
        return _by_own_function(config, market), config
    scope, span = _scope(config, market), config.usual_volatility_span
    if config.model is None:
        if learn_until - learn_from < LEAST_RETURNS * config.states:
            raise ConfigError(
                f"regimes.states is {config.states}; a fit needs {LEAST_RETURNS * config.states} bars up to the "
                f"end of the training period, which has {learn_until - learn_from + 1}"
            )
        past = slice_bars(scope.replace(info=market.info), learn_from, learn_until + 1)
        key = jax.random.key(seed)
        model = fit_regimes(key, past, config.states, usual_volatility_span=span, restarts=config.restarts)
        config = config.model_copy(update={"model": _numbers(model)})
    return _for_each_asset(hidden_regimes(_model(config), scope, span), market), config


def regimes_by_rules(config: RegimesConfig, market: MarketData) -> jax.Array:
    """Finds the regimes at every close by rules, whatever the kind of the configuration.

    Args:
      config: windows, thresholds and scope.
      market: all bars.

    Returns:
      `[T, A, 4]` probabilities in the order of `jaxppo.envs.market.features.REGIMES`.
    """
    keys = config.model_dump(include=set(argument_types(rule_regimes)))
    return _for_each_asset(rule_regimes(_scope(config, market), **keys), market)


def _by_own_function(config: RegimesConfig, market: MarketData) -> jax.Array:
    """What a function of a user's own says."""
    key, label = "regimes.kind", f"regimes.kind {config.kind}"
    call = call_of(find(config.kind, key), key, config.options or {}, first=1)
    try:
        found = jnp.asarray(call(market), jnp.float32)
    except Exception as error:  # whatever the code of a user raises is a mistake of the user
        why = (
            " cannot be compiled; it must be written in jax.numpy" if isinstance(error, jax.errors.JAXTypeError) else ""
        )
        raise ConfigError(f"{label}{why}: {said(error)}") from error
    n_bars, n_assets = market.close.shape
    if found.shape not in ((n_bars, len(NAMES)), (n_bars, n_assets, len(NAMES))):
        raise ConfigError(
            f"{label} returns the shape {list(found.shape)}; probabilities of {', '.join(NAMES)} are expected, "
            f"[T, 4] = {[n_bars, len(NAMES)]} or [T, A, 4]"
        )
    return _for_each_asset(found if found.ndim == 3 else found[:, None], market)


def regimes_warmup(config: RegimesConfig) -> int:
    """Bars that the regimes of a configuration need as history."""
    if config.kind == "rules":
        return max(config.trend_window, config.volatility_window, config.drawdown_window)
    return config.usual_volatility_span if config.kind == "hmm" else 0


def _scope(config: RegimesConfig, market: MarketData) -> MarketData:
    """The assets that have regimes: those of the market, or its index alone."""
    return market_index(market) if config.scope == "market" else market


def _for_each_asset(found: jax.Array, market: MarketData) -> jax.Array:
    """Gives every asset `[T, A, 4]` the regimes of the index `[T, 1, 4]`, where there is only that."""
    return jnp.broadcast_to(found, (*market.close.shape, found.shape[-1]))


def _numbers(model: HiddenMarkovModel) -> tuple[float, ...]:
    """Parameters of a model in the order of `RegimesConfig.model`."""
    parts = (model.initial, model.transition, model.mean, model.variance)
    return tuple(float(x) for part in parts for x in np.asarray(part, np.float64).ravel())


def _model(config: RegimesConfig) -> HiddenMarkovModel:
    """The model whose parameters `RegimesConfig.model` lists."""
    n = config.states
    initial, transition, mean, variance = np.split(np.asarray(config.model, np.float32), np.cumsum([n, n * n, n]))
    return HiddenMarkovModel(
        *(jnp.asarray(x) for x in (initial, transition.reshape(n, n), mean[:, None], variance[:, None]))
    )
