"""The smallest market, environment, policy and learner that still have every part; each is built once and shared."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from envs import simulators
from envs.execution import make_costs
from envs.features import group_slices
from envs.market import MarketData
from envs.trading import TradingEnv
from envs.types import EnvParams, Observation
from jaxppo.config import PPOConfig
from jaxppo.networks.encoder import EncoderConfig
from jaxppo.networks.policy import ActionConfig, Params, Policy, make_policy
from jaxppo.ppo.learner import Learner, TrainState, data_mesh, make_learner
from jaxppo.ppo.task import Rollout, Task
from jaxppo.ppo.trading_task import PathState, trading_task

GROUPS = ("price", "volume")
N_BARS = 300
N_ASSETS = 2
N_ACTIONS = 6
EPISODE_CHUNKS = 2

PPO = PPOConfig(
    paths=16,
    portfolios=3,
    chunk=8,
    epochs=2,
    minibatches=2,
    learning_rate=1e-2,
    schedule="constant",
    gamma=0.9,
    gae_lambda=0.9,
)


def encoder_config(**changes: Any) -> EncoderConfig:
    """A transformer of one block over `GROUPS`."""
    sizes = tuple(columns.stop - columns.start for columns in group_slices(GROUPS).values())
    config = EncoderConfig(
        kind="transformer",
        groups=sizes,
        width=8,
        layers=1,
        heads=2,
        window=4,
        expansion=2,
        asset_attention=True,
        dtype=jnp.dtype("float32"),
    )
    return dataclasses.replace(config, **changes)


ACTION = ActionConfig("discrete", N_ACTIONS, -1.0, 1.0)


@functools.cache
def env() -> TradingEnv:
    """Two assets, levels -1 to 1 in halves, indexed observations, random starting positions."""
    return TradingEnv(
        n_assets=N_ASSETS,
        observation="index",
        window=encoder_config().context,
        start="random",
        groups=GROUPS,
        normalisation_window=10,
    )


def market(seed: int = 0, *, drift: float = 0.0, volatility: float = 0.01, half_spread: float = 1e-4) -> MarketData:
    """A simulated market; the parameters are those of `simulators.gbm`."""
    key = jax.random.key(seed)
    return simulators.gbm(key, N_BARS, N_ASSETS, drift=drift, volatility=volatility, half_spread=half_spread)


def env_params(prices: MarketData, **costs: float) -> EnvParams:
    """Episodes of `EPISODE_CHUNKS` chunks; costs by name, the half-spread alone by default."""
    return env().make_params(prices, make_costs(**costs), episode_bars=EPISODE_CHUNKS * PPO.chunk)


@functools.cache
def shared_params() -> EnvParams:
    """`env_params` of the market of seed 0."""
    return env_params(market())


@functools.cache
def policy() -> tuple[Policy, Params]:
    """The network of `encoder_config()` and its first parameters."""
    return make_policy(encoder_config(), ACTION, jax.random.key(0))


@functools.cache
def task() -> Task:
    """`policy()` trading in `env()`."""
    return trading_task(policy()[0], env(), PPO)


@functools.cache
def learner(n_devices: int) -> Learner:
    """Compiled at its first iteration, then shared by all tests of the process."""
    return make_learner(task(), PPO, data_mesh(jax.devices()[:n_devices]))


def start(params: EnvParams, *, seed: int = 0, n_devices: int = 1) -> tuple[TrainState, EnvParams]:
    """A fresh train state, and the parameters replicated for its mesh."""
    placed = learner(n_devices).replicate(params)
    return learner(n_devices).init(policy()[1], seed, placed), placed


def train(
    params: EnvParams, iterations: int, *, seed: int = 0, n_devices: int = 1
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Trains from scratch: the last state, and the metrics of every iteration stacked."""
    state, placed = start(params, seed=seed, n_devices=n_devices)
    history = []
    for _ in range(iterations):
        state, metrics = learner(n_devices).iterate(state, placed, jnp.float32(0))
        history.append(metrics)
    return state, jax.tree.map(lambda *xs: np.stack([np.asarray(x) for x in xs]), *history)


@jax.jit
def roll_out(net: Params, params: EnvParams, key: jax.Array) -> tuple[PathState, PathState, Rollout]:
    """The paths of `PPO` before and after one chunk, and what happened. Consumes `key`."""
    key_start, key_act = jax.random.split(key)
    states = task().start(params, jax.random.split(key_start, PPO.paths))
    return states, *task().collect(net, params, states, jax.random.split(key_act, PPO.paths))


def observation(seed: int, *shape: int, n_assets: int = N_ASSETS, n_actions: int = N_ACTIONS) -> Observation:
    """Random observations of batch shape `shape`, a third of the actions masked."""
    rng = np.random.default_rng(seed)
    mask = rng.random((*shape, n_assets, n_actions)) < 2 / 3
    mask[..., 0] = True
    return Observation(
        bar=jnp.zeros(shape, jnp.int32),
        asset=jnp.asarray(rng.normal(size=(*shape, n_assets, 3)), jnp.float32),
        account=jnp.asarray(rng.normal(size=(*shape, 3)), jnp.float32),
        mask=jnp.asarray(mask),
    )


def relative_distance(actual: Any, expected: Any) -> float:
    """Norm of the difference of two pytrees over the norm of the second."""
    difference = jax.tree.map(lambda a, b: np.asarray(a, np.float64) - np.asarray(b, np.float64), actual, expected)
    return float(optax.global_norm(difference) / optax.global_norm(expected))
