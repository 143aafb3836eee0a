"""The smallest market, environment, policy and learner that still have every part; each is built once and shared."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from jaxppo.backtest.account import AccountRules, AccountState
from jaxppo.backtest.ledger import Ledger
from jaxppo.backtest.simulate import nothing, simulate_account
from jaxppo.config import PPOConfig
from jaxppo.envs import simulators
from jaxppo.envs.execution.costs import basic_costs
from jaxppo.envs.market.features import group_slices
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.types import EnvParams, Observation
from jaxppo.envs.trading.view import MarketView
from jaxppo.policy.agent import agent
from jaxppo.policy.networks.actor_critic import ActorCritic, Params, make_actor_critic
from jaxppo.policy.networks.config import EncoderConfig
from jaxppo.policy.networks.head import ActionConfig
from jaxppo.policy.networks.mlp import MLPActorCritic, MLPConfig, make_mlp_actor_critic
from jaxppo.policy.protocol import Observed, Policy, Targets
from jaxppo.policy.rollout import DATA_AXIS, Rollout
from jaxppo.ppo.iteration import TrainState
from jaxppo.ppo.learner import Learner, data_mesh, make_learner
from jaxppo.ppo.task import Task
from jaxppo.ppo.trading_task import PathState, trading_task
from jaxppo.risk.monitor import NO_MONITOR, Monitor

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
        levels=(-1.0, -0.5, 0.0, 0.5, 1.0),
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
    return env().make_params(prices, basic_costs(**costs), episode_bars=EPISODE_CHUNKS * PPO.chunk)


@functools.cache
def shared_params() -> EnvParams:
    """`env_params` of the market of seed 0."""
    return env_params(market())


@functools.cache
def policy() -> tuple[ActorCritic, Params]:
    """The network of `encoder_config()` and its first parameters."""
    return make_actor_critic(encoder_config(), ACTION, jax.random.key(0))


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
    return state, stacked(history)


@jax.jit
def roll_out(net: Params, params: EnvParams, key: jax.Array) -> tuple[PathState, PathState, Rollout]:
    """The paths of `PPO` before and after one chunk, and what happened. Consumes `key`."""
    key_start, key_act = jax.random.split(key)
    states = task().start(params, jax.random.split(key_start, PPO.paths))
    return states, *task().collect(net, params, states, jax.random.split(key_act, PPO.paths), jnp.float32(0))


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


# A contextual bandit: everything that PPO needs of a task, compiled in a second.

BANDIT_PPO = PPO.model_copy(
    update={"paths": 32, "portfolios": 2, "chunk": 4, "reward_scale": 1.0, "max_grad_norm": 1e3, "epochs": 4}
)


@struct.dataclass
class BanditParams:
    """Reward `mean + spread * (x_0 + payoff[action] x_1 + noise)` of the context `x` ~ N(0, I), noise ~ N(0, noise^2).

    Attributes:
      payoff: `[3]`.
      mean: `[]`.
      spread: `[]`.
      noise: `[]`.
    """

    payoff: jax.Array
    mean: jax.Array
    spread: jax.Array
    noise: jax.Array


def bandit_params(payoff=(-1.0, 0.0, 1.0), mean=0.0, spread=1.0, noise=0.5) -> BanditParams:
    """`BanditParams` from numbers."""
    return BanditParams(*(jnp.asarray(x, jnp.float32) for x in (payoff, mean, spread, noise)))


@functools.cache
def bandit_policy(quantiles: int = 1) -> tuple[MLPActorCritic, Params]:
    """Three actions on contexts of two numbers."""
    return make_mlp_actor_critic(
        MLPConfig(2, 0, 8, 1, quantiles), ActionConfig("discrete", 3, -1.0, 1.0), jax.random.key(0)
    )


@functools.cache
def bandit_task(config: PPOConfig = BANDIT_PPO, quantiles: int = 1) -> Task:
    """Every step is an episode: it terminates."""
    policy = bandit_policy(quantiles)[0]
    shape = (config.chunk, config.portfolios)

    def one_path(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        key_context, key_act, key_noise = jax.random.split(key, 3)
        uniform = jax.random.uniform(key_act, (*shape, 1))
        return jax.random.normal(key_context, (*shape, 2)), uniform, jax.random.normal(key_noise, shape)

    def collect(
        net: Params, params: BanditParams, states: jax.Array, keys: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, Rollout]:
        del progress
        context, uniform, noise = jax.vmap(one_path)(keys)
        distribution, value = policy.distribution(net, context), policy.value(net, context)
        action = distribution.sample(uniform)
        gain = context[..., 0] + params.payoff[action[..., 0]] * context[..., 1] + params.noise * noise
        rollout = Rollout(
            inputs=context,
            hindsight=None,
            action=action,
            behaviour=distribution,
            log_prob=distribution.log_prob(action),
            value=value,
            value_after=jnp.zeros_like(value),
            reward=params.mean + params.spread * gain,
            terminated=jnp.ones(gain.shape, bool),
            truncated=jnp.zeros(gain.shape, bool),
            info={},
        )
        return states, rollout

    def predict(net: Params, params: BanditParams, rollout: Rollout) -> tuple[Any, jax.Array]:
        return policy.distribution(net, rollout.inputs), policy.value(net, rollout.inputs)

    def metrics(rollout: Rollout) -> dict[str, jax.Array]:
        return {"reward": jax.lax.pmean(rollout.reward.mean(), DATA_AXIS)}

    return Task(lambda params, keys: jnp.zeros(keys.shape), collect, predict, metrics, policy.value_layer, config.chunk)


@functools.cache
def learner_of(kind: str, n_devices: int = 1, **changes: Any) -> Learner:
    """A learner of the "bandit" or of "trading", with changes of its configuration; shared by all tests."""
    task_of, config = {"bandit": (bandit_task, BANDIT_PPO), "trading": (lambda _: task(), PPO)}[kind]
    config = config.model_copy(update=changes)
    return make_learner(task_of(config), config, data_mesh(jax.devices()[:n_devices]))


@functools.cache
def _collect(kind: str, config: PPOConfig) -> Any:
    task_of = {"bandit": bandit_task, "trading": lambda _: task()}[kind]
    return jax.jit(task_of(config).collect)


def next_rollout(kind: str, state: TrainState, params: Any, config: PPOConfig | None = None) -> Rollout:
    """What the next iteration of `learner_of(kind)` on `state` will see: keys are those of (seed, iteration, path)."""
    config = config or {"bandit": BANDIT_PPO, "trading": PPO}[kind]
    key_collect, _ = jax.random.split(jax.random.fold_in(jax.random.key(state.seed), state.iteration))
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key_collect, jnp.arange(config.paths))
    return _collect(kind, config)(state.params, params, state.paths, keys, jnp.float32(0))[1]


def stacked(history: list[dict[str, jax.Array]]) -> dict[str, np.ndarray]:
    """Metrics of several iterations."""
    return jax.tree.map(lambda *xs: np.stack([np.asarray(x) for x in xs]), *history)


def relative_distance(actual: Any, expected: Any) -> float:
    """Norm of the difference of two pytrees over the norm of the second."""
    difference = jax.tree.map(lambda a, b: np.asarray(a, np.float64) - np.asarray(b, np.float64), actual, expected)
    return float(optax.global_norm(difference) / optax.global_norm(expected))


def run_agent(
    network: ActorCritic,
    env: TradingEnv,
    net: Any,
    params: EnvParams,
    first: jax.Array,
    n_bars: int,
    decision: str = "mode",
    monitor: Monitor = NO_MONITOR,
) -> Ledger:
    """The ledger of a network without its randomness."""
    return simulate_account(
        agent(network, net, env, decision), AccountRules(env, 252.0, monitor), params, first, n_bars
    )


def run_rule(
    decide: Callable[..., tuple[jax.Array, jax.Array]],
    inputs: Any,
    env: TradingEnv,
    params: EnvParams,
    first: jax.Array,
    n_bars: int,
    *,
    limited: bool = True,
    monitor: Monitor = NO_MONITOR,
    record: Callable[[AccountState], Any] = nothing,
) -> Ledger:
    """The ledger of `decide(portfolio, observation, row of inputs, constraint)`; inputs have leading axis `n_bars`."""

    def table(params: Any, view: MarketView) -> Any:
        rows, first = params
        n = view.market.n_bars
        return jax.tree.map(
            lambda x: jax.lax.dynamic_update_slice_in_dim(jnp.zeros((n, *x.shape[1:]), x.dtype), x, first, 0), rows
        )

    def apply(params: Any, state: Any, observed: Observed) -> tuple[Targets, Any]:
        seen = (observed.portfolio, observed.observation, observed.row, observed.constraint)
        return Targets(*decide(*seen)), state

    policy = Policy("rule", apply, table=table, params=(jax.tree.map(jnp.asarray, inputs), first))
    return simulate_account(policy, AccountRules(env, 252.0, monitor, limited), params, first, n_bars, record)
