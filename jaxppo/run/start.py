"""The network of a run before it learns: as it is drawn, or fitted to the linear policy of feature portfolios."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.config.base import FeaturePortfoliosStart
from jaxppo.config.sizing import SizingConfig
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.risk_parts import risk_parts
from jaxppo.envs.market.safe import ratio
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.types import EnvParams
from jaxppo.errors import ConfigError
from jaxppo.policy.feature_portfolios import FEWEST, KNOWN_AFTER, YEAR, Portfolios, mixture, portfolios
from jaxppo.policy.networks.actor_critic import ActorCritic, Params
from jaxppo.ppo.imitation import imitate
from jaxppo.run.setup import Setup, first_policy

Start = Callable[[Params, EnvParams, int], Params]
"""`(parameters as drawn, market with the training period, seed) -> parameters before learning`."""


def make_start(setup: Setup, network: ActorCritic) -> Start:
    """What `policy.start` does to the parameters of a network.

    The mixture of feature portfolios is fitted on the gains of the training period, and the network is fitted to its
    decisions there.

    Args:
      setup: of the run.
      network: encoder and head.
    """
    keys, env, ppo = setup.config.policy.start, setup.env, setup.ppo
    if keys is None:
        return lambda net, params, seed: net
    values, periods = keys.values, setup.periods_per_year
    charges = (values.spread, values.commission_bps * 1e-4)
    found = portfolios(setup.market, periods, values.target, values.span, *charges)
    unit = _unit(setup.market, env, setup.config.sizing, periods)

    def start(net: Params, params: EnvParams, seed: int) -> Params:
        wanted = _decisions(found, params, unit, values, periods, env)
        key = jax.random.fold_in(jax.random.key(seed), 1)
        return imitate(network, net, env, params, wanted, key, n_bars=ppo.chunk)

    return start


def started_policy(setup: Setup) -> tuple[ActorCritic, Params]:
    """The run's policy, and its parameters before learning.

    Args:
      setup: of the run; with `policy.start` that of its training.
    """
    network, net = first_policy(setup)
    if setup.config.policy.start is None:
        return network, net
    return network, make_start(setup, network)(net, setup.period_params("train"), setup.config.seed)


def _unit(market: MarketData, env: TradingEnv, sizing: tuple[SizingConfig, ...], periods: float) -> jax.Array:
    """Weight `[T, A]` that a decision of the position limit stands for: a part of the budget of risk if it is one."""
    budget = next((item.values for item in sizing if item.kind == "risk_units"), None)
    if budget is None:
        return jnp.full(market.close.shape, env.position_limit)
    return risk_parts(market, periods, budget.target, budget.span, budget.largest)


def check_start(setup: Setup, params: EnvParams) -> None:
    """Refuses a start that a training period or the features cannot show.

    Args:
      setup: of the run.
      params: the market, with the training period.

    Raises:
      ConfigError: names what is missing.
    """
    if setup.config.policy.start is None:
        return
    groups = ("trend", "cross_section", *(() if isinstance(setup.market.carry, tuple) else ("carry",)))
    missing = [group for group in groups if group not in setup.config.features.groups]
    if missing:
        raise ConfigError(f"policy.start follows {', '.join(groups)}; add {', '.join(missing)} to features.groups")
    n_bars = int(_counted(params, setup.market.n_bars).sum())
    if n_bars < FEWEST:
        raise ConfigError(
            f"policy.start is fitted on the bars of the training period after bar {YEAR}: there are {n_bars}, it needs "
            f"{FEWEST}"
        )


def _counted(params: EnvParams, n_bars: int) -> np.ndarray:
    """Bars `[T]` whose gains are known within the training period."""
    return _inside(params, n_bars, YEAR, KNOWN_AFTER)


def _inside(params: EnvParams, n_bars: int, least: int, later: int) -> np.ndarray:
    """Bars `[T]` from `least` on that lie in a training period, and `later` bars after them too."""
    row = np.arange(n_bars)[:, None]
    first, last = (np.atleast_1d(np.asarray(bar))[None] for bar in (params.first_bar, params.last_bar))
    return np.any((row >= np.maximum(first, least)) & (row + later <= last), axis=-1)


def _decisions(
    found: Portfolios,
    params: EnvParams,
    unit: jax.Array,
    values: FeaturePortfoliosStart,
    periods: float,
    env: TradingEnv,
) -> jax.Array:
    """Decisions `[T, A]` of the mixture that the training period gives, within the levels; 0 elsewhere."""
    weights = mixture(found.gains, jnp.asarray(_counted(params, len(found.gains))), periods, values.target)
    parts = ratio(jnp.einsum("tak,k->ta", found.held, weights), unit, 0.0)
    trained = jnp.asarray(_inside(params, len(found.gains), 0, 0))[:, None]
    return jnp.where(trained, jnp.clip(parts, env.levels[0], env.levels[-1]) * env.position_limit, 0.0)
