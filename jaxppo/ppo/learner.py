"""The compiled training iteration: rollout, advantages, update, on one mesh axis."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from envs.trading import TradingEnv
from envs.types import EnvParams
from jaxppo.config import PPOConfig
from jaxppo.networks.policy import Params, Policy
from jaxppo.ppo.rollout import PathState, Rollout, collect_path, encode_paths, start_paths
from jaxppo.ppo.update import DATA_AXIS, update


@struct.dataclass
class TrainState:
    """Everything that training carries from one iteration to the next; saved and restored whole.

    Attributes:
      params: network parameters, replicated.
      opt_state: optimiser state, replicated.
      paths: `[P]` market paths and their portfolios, sharded over `data`.
      iteration: `[]` int32; keys are folded from (seed, iteration), so a resumed run draws the same numbers.
      seed: `[]` uint32.
    """

    params: Params
    opt_state: optax.OptState
    paths: PathState
    iteration: jax.Array
    seed: jax.Array


@dataclasses.dataclass(frozen=True)
class Learner:
    """Built by `make_learner`.

    Attributes:
      init: `(params, seed, env_params) -> TrainState`.
      iterate: `(state, env_params, progress) -> (state, metrics)`; compiled, donates `state`. `progress` in [0, 1]
        is the share of the budget that is spent, for the learning-rate schedule.
      replicate: puts an `EnvParams` (or any pytree) on every device of the mesh.
      place: puts a host copy of a `TrainState` on the mesh.
      steps_per_iteration: environment steps, P * K * S.
    """

    init: Callable[[Params, int, EnvParams], TrainState]
    iterate: Callable[[TrainState, EnvParams, jax.Array], tuple[TrainState, dict[str, jax.Array]]]
    replicate: Callable[[Any], Any]
    place: Callable[[TrainState], TrainState]
    steps_per_iteration: int


def data_mesh(devices: list[jax.Device]) -> Mesh:
    """A one-dimensional mesh over `devices`."""
    return Mesh(np.asarray(devices), (DATA_AXIS,))


def shuffle_groups(config: PPOConfig, n_devices: int) -> int:
    """Number of shuffle groups: the same for every number of devices that divides it.

    Raises:
      ValueError: the paths of a minibatch cannot be split evenly over the devices.
    """
    per_minibatch = config.paths // config.minibatches
    groups = math.gcd(per_minibatch, 8)
    groups = math.lcm(groups, n_devices)
    if per_minibatch % groups:
        raise ValueError(
            f"ppo.paths / ppo.minibatches = {per_minibatch} must be a multiple of {groups} to be split over "
            f"{n_devices} devices"
        )
    return groups


def make_learner(policy: Policy, env: TradingEnv, config: PPOConfig, mesh: Mesh) -> Learner:
    """Builds the training iteration.

    Args:
      policy: the policy.
      env: the environment, `observation="index"`, `window` at least the policy's context.
      config: hyper-parameters; `micro_batch` must divide the paths of a minibatch on one device.
      mesh: one axis named "data".

    Raises:
      ValueError: the batch cannot be split over the mesh, or the environment keeps too little history.
    """
    n_devices = mesh.devices.size
    n_groups = shuffle_groups(config, n_devices)
    local = config.paths // config.minibatches // n_devices
    if config.micro_batch is not None and local % config.micro_batch and config.micro_batch < local:
        raise ValueError(
            f"ppo.micro_batch {config.micro_batch} must divide the {local} paths of a minibatch on a device"
        )
    if env.window < policy.context:
        raise ValueError(f"env.window {env.window} is shorter than the policy's context of {policy.context} bars")
    optimiser = optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.scale_by_adam(eps=1e-5))
    replicated, sharded = PartitionSpec(), PartitionSpec(DATA_AXIS)
    specs = TrainState(params=replicated, opt_state=replicated, paths=sharded, iteration=replicated, seed=replicated)

    def iterate(state: TrainState, params: EnvParams, progress: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(state.seed), state.iteration)
        key_act, key_start, key_shuffle = jax.random.split(key, 3)
        prepared = encode_paths(policy, state.params, params, state.paths.bar, config.chunk + 1, config.micro_batch)
        keys = _path_keys(key_act, state.paths.path)
        moved, rollout = jax.vmap(
            lambda path, ready, k: collect_path(policy, env, state.params, params, path, ready, k, config.chunk)
        )(state.paths, prepared, keys)
        paths = _restart_ended(env, params, config, moved, _path_keys(key_start, state.paths.path))
        shard = jax.lax.axis_index(DATA_AXIS)
        groups = shard * (n_groups // n_devices) + jnp.arange(n_groups // n_devices)
        net, opt_state, metrics = update(
            state.params,
            state.opt_state,
            optimiser,
            _learning_rate(config, progress),
            policy,
            params,
            rollout,
            config,
            key_shuffle,
            groups,
        )
        new = TrainState(params=net, opt_state=opt_state, paths=paths, iteration=state.iteration + 1, seed=state.seed)
        return new, {**metrics, **_rollout_metrics(rollout), "learning_rate": _learning_rate(config, progress)}

    @jax.jit
    def begin(params: EnvParams, path: jax.Array, keys: jax.Array) -> PathState:
        return jax.vmap(lambda p, k: start_paths(env, params, config.portfolios, p, k))(path, keys)

    def init(net: Params, seed: int, params: EnvParams) -> TrainState:
        net = jax.tree.map(jnp.copy, net)  # `iterate` donates its state, never the caller's arrays
        key = jax.random.fold_in(jax.random.key(seed), 2**31 - 1)
        path = jnp.arange(config.paths, dtype=jnp.int32)
        return place(
            TrainState(
                params=net,
                opt_state=optimiser.init(net),
                paths=begin(params, path, _path_keys(key, path)),
                iteration=jnp.zeros((), jnp.int32),
                seed=jnp.asarray(seed, jnp.uint32),
            )
        )

    def place(state: TrainState) -> TrainState:
        return TrainState(
            **{
                field.name: jax.device_put(getattr(state, field.name), NamedSharding(mesh, getattr(specs, field.name)))
                for field in dataclasses.fields(TrainState)
            }
        )

    compiled = jax.jit(
        jax.shard_map(iterate, mesh=mesh, in_specs=(specs, replicated, replicated), out_specs=(specs, replicated)),
        donate_argnums=0,
    )
    return Learner(
        init=init,
        iterate=compiled,
        replicate=lambda tree: jax.device_put(tree, NamedSharding(mesh, replicated)),
        place=place,
        steps_per_iteration=config.paths * config.portfolios * config.chunk,
    )


def _path_keys(key: jax.Array, path: jax.Array) -> jax.Array:
    """One key per global path index, so that results do not depend on how paths are spread over devices."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, path)


def _restart_ended(
    env: TradingEnv, params: EnvParams, config: PPOConfig, paths: PathState, keys: jax.Array
) -> PathState:
    """Starts a new episode on the paths whose episode is truncated or whose period has no room for another chunk."""

    def one(path: PathState, key: jax.Array) -> PathState:
        ended = (path.time >= params.max_steps_in_episode) | (path.bar + config.chunk > params.last_bar)
        fresh = start_paths(env, params, config.portfolios, path.path, key)
        return jax.tree.map(lambda new, old: jnp.where(ended, new, old), fresh, path)

    return jax.vmap(one)(paths, keys)


def _learning_rate(config: PPOConfig, progress: jax.Array) -> jax.Array:
    """Step size after a share `progress` of the budget."""
    left = jnp.clip(1.0 - progress, 0.0, 1.0)
    factor = {"constant": jnp.ones_like(left), "linear": left, "cosine": 0.5 * (1.0 - jnp.cos(jnp.pi * left))}
    return config.learning_rate * factor[config.schedule]


def _rollout_metrics(rollout: Rollout) -> dict[str, jax.Array]:
    """Means over all portfolios and devices.

    Log return per bar and its spread, turnover, costs, liquidations, and the share of the largest possible exposure.
    """
    mean = jax.lax.pmean(rollout.reward.mean(), DATA_AXIS)
    variance = jax.lax.pmean(jnp.square(rollout.reward - mean).mean(), DATA_AXIS)
    others = {
        "turnover": rollout.turnover.mean(),
        "costs": rollout.costs.mean(),
        "liquidations": rollout.terminated.astype(jnp.float32).sum(),
        "exposure": rollout.seen.account[..., 0].mean(),
    }
    others = jax.lax.pmean(others, DATA_AXIS)
    others["liquidations"] = others["liquidations"] * jax.lax.axis_size(DATA_AXIS)
    return {"reward": mean, "reward_std": jnp.sqrt(variance), **others}
