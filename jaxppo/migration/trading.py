"""A checkpoint as a policy in a trading environment: it reads what the environment showed it in training."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces

from jaxppo.envs.market.precision import matmul
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.spaces import MultiDiscrete
from jaxppo.envs.trading.types import N_ACCOUNT_FEATURES, N_ASSET_FEATURES, EnvParams
from jaxppo.errors import ConfigError
from jaxppo.migration.network import Network, Params, Scale, decide, scaled
from jaxppo.migration.spaces import Space
from jaxppo.policy.protocol import Encoding, Observed, Policy, Targets

BLOCK = 256
"""Bars of one encoder pass."""
AT_ONCE = 16
"""Windows that are read side by side: they overlap, so that all of a block would need its memory many times."""
BATCH_SIZE = 64


def trading_policy(network: Network, params: Params, env: TradingEnv, name: str) -> Policy:
    """The policy that a checkpoint is in an environment.

    What the first layer makes of the window of features depends on the market alone: it is computed once per bar.

    Args:
      network: static part.
      params: numbers.
      env: as it was trained on.
      name: for tables and messages.

    Raises:
      ConfigError: observations or actions of the environment are not those of the checkpoint.
    """
    n_features = len(env.features.names)
    window = env.window * env.n_assets * n_features
    needed = Space("Box", (window + env.n_assets * N_ASSET_FEATURES + N_ACCOUNT_FEATURES,))
    if network.observation != needed:
        raise ConfigError(
            f"{name} was trained on observations {network.observation}, the environment shows {needed}: {env.n_assets} "
            f"assets, window {env.window}, {n_features} features of groups {', '.join(env.groups)}"
        )
    actions, bounds = _action_space(env)
    same = bounds is None or (np.all(params.low == bounds[0]) and np.all(params.high == bounds[1]))
    if network.action != actions or not same:
        raise ConfigError(
            f"{name} was trained with actions {network.action}, the environment has {env.actions} actions {actions} "
            f"of levels {list(env.levels)}"
        )
    if network.maskable and env.actions == "hierarchical":
        raise ConfigError(
            f"{name} is of MaskablePPO, whose masks are of single actions; hierarchical ones depend on each other"
        )
    return _policy(network, env)._replace(name=name, params=params)


def _action_space(env: TradingEnv) -> tuple[Space, tuple[float, float] | None]:
    """Actions of an environment, and the bounds of continuous ones."""
    space = env.action_space()
    if isinstance(space, MultiDiscrete):
        return Space("MultiDiscrete", (len(space.categories),), tuple(space.categories)), None
    if isinstance(space, spaces.Discrete):
        return Space("Discrete", (), (int(space.n),)), None
    return Space("Box", tuple(space.shape)), (float(space.low), float(space.high))


@functools.lru_cache(maxsize=128)
def _policy(network: Network, env: TradingEnv) -> Policy:
    """A policy without parameters; the same one for the same arguments, so that it is compiled once."""
    n_own = env.n_assets * N_ASSET_FEATURES + N_ACCOUNT_FEATURES
    n_market = network.n_inputs - n_own
    of_market, of_account = slice(0, n_market), slice(n_market, None)

    def part(params: Params, rows: slice, x: jax.Array) -> jax.Array:
        """Share of the inputs `rows` in the actor's first layer."""
        scale = params.scale.part(rows) if isinstance(params.scale, Scale) else params.scale
        return matmul(scaled(scale, x), params.actor[0].weight[rows])

    def encode(params: Params, features: jax.Array, first: jax.Array, n_bars: int) -> jax.Array:
        def one(features: jax.Array, bar: jax.Array) -> jax.Array:
            shape = (env.window, *features.shape[1:])
            seen = jax.lax.dynamic_slice(features, (bar - env.window + 1, 0, 0), shape).astype(jnp.float32)
            # An environment of indexed observations has NaN for what is unknown, one of windows has 0.
            return part(params, of_market, jnp.where(jnp.isnan(seen), 0.0, seen).ravel())

        def market(features: jax.Array, first: jax.Array) -> jax.Array:
            bars = first + jnp.arange(n_bars)
            return jax.lax.map(lambda bar: one(features, bar), bars, batch_size=min(AT_ONCE, n_bars))

        return jax.vmap(market)(features, first)

    def apply(params: Params, state: Any, observed: Observed) -> tuple[Targets, Any]:
        seen = observed.observation
        assert seen is not None, "a checkpoint decides on what its environment shows it"
        own = jnp.concatenate([seen.asset.ravel(), seen.account])
        mask = seen.mask.reshape(-1) if network.maskable else None
        action = decide(network, params, observed.encoded + part(params, of_account, own), mask)
        return Targets(*env.decode(action, observed.portfolio, observed.constraint)), state

    def features(params: EnvParams) -> jax.Array:
        return params.features

    encoding = Encoding(features, encode, BLOCK, BATCH_SIZE)
    return Policy("sb3", apply, warmup=env.first_decision, encoding=encoding)
