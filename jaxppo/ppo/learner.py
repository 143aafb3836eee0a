"""Compiled training iteration: rollout, targets, update, on one mesh axis."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxppo.config import PPOConfig
from jaxppo.policy.networks.actor_critic import Params
from jaxppo.policy.rollout import DATA_AXIS, Rollout
from jaxppo.ppo import losses
from jaxppo.ppo.targets import ValueStatistics, make_targets, no_statistics, preserve_outputs
from jaxppo.ppo.task import Task
from jaxppo.ppo.update import Batch, Coefficients, Objective, update
from jaxppo.risk.shaping import RewardShaping

INTEGRAL_GAIN = 0.3
"""Gain of the integral rule of the KL coefficient, per iteration."""


class TrainState(struct.PyTreeNode):
    """State that training carries from one iteration to the next; saved and restored whole.

    Attributes:
      params: network parameters, replicated.
      opt_state: optimiser state, replicated.
      paths: `[P]` states of the task, sharded over `data`.
      values: scale of the critic's values, replicated.
      kl_coefficient: `[]` weight of the KL penalty.
      iteration: `[]` int32; keys are folded from (seed, iteration), so a resumed run draws the same numbers.
      seed: `[]` uint32.
      risk: state of reward shaping, such as multipliers, replicated; empty without.
      accounts: `[P, K]` reward shaping's accounts of running episodes, sharded over `data`; empty without.
    """

    params: Params
    opt_state: optax.OptState
    paths: Any
    values: ValueStatistics
    kl_coefficient: jax.Array
    iteration: jax.Array
    seed: jax.Array
    risk: Any = ()
    accounts: Any = ()


@dataclasses.dataclass(frozen=True)
class Learner:
    """Functions of a training run, built by `make_learner`.

    Attributes:
      init: `(params, seed, env_params) -> TrainState`, on the mesh.
      fresh: `init` without placement, to be wrapped like `step`.
      iterate: `(state, env_params, progress) -> (state, metrics)`; compiled, donates `state`. `progress` is the spent
        share of the budget, in [0, 1], for the schedules.
      step: `iterate` on one device, without a mesh and not compiled: to be wrapped in `vmap` over seeds and `scan`.
      replicate: puts the environment's parameters (or any pytree) on every device of the mesh.
      place: puts a host copy of a `TrainState` on the mesh.
      restart: `(state, env_params, key) -> state` with fresh episodes in place of the running ones; consumes the key.
      steps_per_iteration: environment steps, P * K * S.
    """

    init: Callable[[Params, int | jax.Array, Any], TrainState]
    fresh: Callable[[Params, int | jax.Array, Any], TrainState]
    iterate: Callable[[TrainState, Any, jax.Array], tuple[TrainState, dict[str, jax.Array]]]
    step: Callable[[TrainState, Any, jax.Array], tuple[TrainState, dict[str, jax.Array]]]
    replicate: Callable[[Any], Any]
    place: Callable[[TrainState], TrainState]
    restart: Callable[[TrainState, Any, jax.Array], TrainState]
    steps_per_iteration: int


def data_mesh(devices: list[jax.Device]) -> Mesh:
    """A one-dimensional mesh over `devices`."""
    return Mesh(np.asarray(devices), (DATA_AXIS,))


def shuffle_groups(config: PPOConfig, n_devices: int) -> int:
    """Number of shuffle groups of a minibatch: the same for every number of devices that divides it.

    Args:
      config: paths and minibatches.
      n_devices: that the paths are spread over, >= 1.

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


class _Design(NamedTuple):
    """Static choices that the parts of an iteration share.

    Attributes:
      task: what is learned.
      config: hyper-parameters.
      risk: objective and constraints; None without.
      optimiser: gradient to direction.
      n_devices: that the paths are spread over.
      n_groups: shuffle groups on each device.
    """

    task: Task
    config: PPOConfig
    risk: RewardShaping | None
    optimiser: optax.GradientTransformation
    n_devices: int
    n_groups: int


def make_learner(task: Task, config: PPOConfig, mesh: Mesh, risk: RewardShaping | None = None) -> Learner:
    """Builds the training iteration.

    Args:
      task: what is learned.
      config: hyper-parameters; `micro_batch` must divide the paths of a minibatch on one device.
      mesh: one axis named "data".
      risk: objective and constraints, from `jaxppo.risk.shape_rewards`; None for the expected sum of rewards.

    Raises:
      ValueError: the batch cannot be split over the mesh.
    """
    design = _design(task, config, mesh.devices.size, risk)
    collect, learn = partial(_collect, design), partial(_learn, design)
    replicated, sharded = PartitionSpec(), PartitionSpec(DATA_AXIS)
    on_paths = ("paths", "accounts")
    names = [field.name for field in dataclasses.fields(TrainState)]
    on_mesh: dict[str, Any] = {name: sharded if name in on_paths else replicated for name in names}
    specs = TrainState(**on_mesh)
    begin = jax.jit(task.start)

    def fresh(net: Params, seed: int | jax.Array, params: Any) -> TrainState:
        keys = _path_keys(_iteration_key(seed, 2**31 - 1), jnp.arange(config.paths))
        risk_state, accounts = ((), ()) if risk is None else risk.start(config.paths, config.portfolios)
        return TrainState(
            params=net,
            opt_state=design.optimiser.init(net),
            paths=begin(params, keys),
            values=no_statistics(),
            kl_coefficient=jnp.asarray(config.kl_coefficient, jnp.float32),
            iteration=jnp.zeros((), jnp.int32),
            seed=jnp.asarray(seed, jnp.uint32),
            risk=risk_state,
            accounts=accounts,
        )

    def init(net: Params, seed: int | jax.Array, params: Any) -> TrainState:
        # A copy, as `iterate` donates its state, never the caller's arrays.
        return place(fresh(jax.tree.map(jnp.copy, net), seed, params))

    def place(state: TrainState) -> TrainState:
        return TrainState(
            **{name: jax.device_put(getattr(state, name), NamedSharding(mesh, on_mesh[name])) for name in names}
        )

    def restart(state: TrainState, params: Any, key: jax.Array) -> TrainState:
        paths = task.start(params, jax.random.split(key, config.paths))
        accounts = state.accounts if risk is None else risk.restart(state.accounts)
        return state.replace(paths=paths, accounts=accounts)

    def step(state: TrainState, params: Any, progress: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        def one(state: TrainState) -> tuple[TrainState, dict[str, jax.Array]]:
            return learn(state, *collect(state, params, progress), params, progress)

        alone = jax.vmap(one, axis_name=DATA_AXIS, axis_size=1)
        return jax.tree.map(lambda x: x[0], alone(jax.tree.map(lambda x: x[None], state)))

    # The functions of any environment do not say what varies over devices: that is checked in the update only.
    sharded_collect = jax.shard_map(
        collect, mesh=mesh, in_specs=(specs, replicated, replicated), out_specs=(sharded, sharded), check_vma=False
    )
    sharded_learn = jax.shard_map(
        learn, mesh=mesh, in_specs=(specs, sharded, sharded, replicated, replicated), out_specs=(specs, replicated)
    )

    def iterate(state: TrainState, params: Any, progress: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        return sharded_learn(state, *sharded_collect(state, params, progress), params, progress)

    return Learner(
        init=init,
        fresh=fresh,
        iterate=jax.jit(iterate, donate_argnums=0),
        step=step,
        replicate=lambda tree: jax.device_put(tree, NamedSharding(mesh, replicated)),
        place=place,
        restart=restart,
        steps_per_iteration=config.paths * config.portfolios * config.chunk,
    )


def _design(task: Task, config: PPOConfig, n_devices: int, risk: RewardShaping | None) -> _Design:
    """Raises ValueError where the batch cannot be split over the devices."""
    n_groups = shuffle_groups(config, n_devices) // n_devices
    local = config.paths // config.minibatches // n_devices
    for n_paths, of in ((local, "of a minibatch on a device"), (config.paths // n_devices, "of a device")):
        if config.micro_batch is not None and n_paths % min(config.micro_batch, n_paths):
            raise ValueError(f"ppo.micro_batch {config.micro_batch} must divide the {n_paths} paths {of}")
    optimiser = optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.scale_by_adam(eps=1e-5))
    return _Design(task, config, risk, optimiser, n_devices, n_groups)


def _collect(design: _Design, state: TrainState, params: Any, progress: jax.Array) -> tuple[Any, Rollout]:
    """Rollout of this device's paths."""
    shard, n_local = jax.lax.axis_index(DATA_AXIS), design.config.paths // design.n_devices
    keys = _path_keys(_iteration_keys(state)[0], shard * n_local + jnp.arange(n_local))
    return design.task.collect(state.params, params, state.paths, keys, progress)


def _learn(
    design: _Design, state: TrainState, paths: Any, rollout: Rollout, params: Any, progress: jax.Array
) -> tuple[TrainState, dict[str, jax.Array]]:
    """State and metrics after the update on this device's rollout, which ended at `paths`."""
    task, config, risk = design.task, design.config, design.risk
    reported, risk_state, accounts = task.metrics(rollout), state.risk, state.accounts
    risk_metrics: dict[str, jax.Array] = {}
    if risk is not None:
        rollout, risk_state, accounts, risk_metrics = risk.apply(risk_state, accounts, rollout)
    targets, values, target_metrics = make_targets(rollout, config, state.values)
    net = state.params
    if config.value_normalisation == "popart":
        # The outputs of the first network mean nothing: they are only kept from exceeding the targets' spread.
        small = values.replace(mean=jnp.zeros(()), variance=jnp.maximum(values.variance, 1.0))
        units = jax.tree.map(lambda a, b: jnp.where(state.values.weight > 0, a, b), values, small)
        net = preserve_outputs(net, task.value_layer, state.values, units)
    coefficients = _coefficients(config, progress, state.kl_coefficient)
    groups = jax.lax.axis_index(DATA_AXIS) * design.n_groups + jnp.arange(design.n_groups)
    batch, objective = Batch(rollout, targets), Objective(task, params, coefficients, config)
    key_shuffle = _iteration_keys(state)[1]
    net, opt_state, metrics = update(net, state.opt_state, design.optimiser, batch, objective, key_shuffle, groups)
    new = state.replace(
        params=net,
        opt_state=opt_state,
        paths=paths,
        values=values,
        kl_coefficient=_next_coefficient(config, state.kl_coefficient, metrics),
        iteration=state.iteration + 1,
        risk=risk_state,
        accounts=accounts,
    )
    weights = {"learning_rate": coefficients.learning_rate, "entropy_coefficient": coefficients.entropy}
    if config.kl_penalty != "none":
        weights["kl_coefficient"] = coefficients.kl
    return new, {**metrics, **target_metrics, **reported, **weights, **risk_metrics}


def _iteration_keys(state: TrainState) -> jax.Array:
    """Keys `[2]` of an iteration: of the rollout and of the shuffles."""
    return jax.random.split(_iteration_key(state.seed, state.iteration))


def _iteration_key(seed: int | jax.Array, iteration: int | jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), iteration)


def _path_keys(key: jax.Array, path: jax.Array) -> jax.Array:
    """One key per global path index, so that results do not depend on how paths are spread over devices."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, path)


def _coefficients(config: PPOConfig, progress: jax.Array, kl: jax.Array) -> Coefficients:
    """Step size and weights of the loss after a share `progress` of the budget."""
    entropy = config.entropy_final + (config.entropy_coefficient - config.entropy_final) * schedule_left(
        config.entropy_schedule, progress
    )
    return Coefficients(config.learning_rate * schedule_left(config.schedule, progress), entropy, kl)


def schedule_left(schedule: str, progress: jax.Array) -> jax.Array:
    """Value `[]` of a schedule that starts at 1.

    Args:
      schedule: "constant", or "linear" or "cosine" to 0.
      progress: `[]` spent share of the budget, >= 0.
    """
    left = jnp.clip(1.0 - progress, 0.0, 1.0)
    return {"constant": jnp.ones_like(left), "linear": left, "cosine": 0.5 * (1.0 - jnp.cos(jnp.pi * left))}[schedule]


def _next_coefficient(config: PPOConfig, coefficient: jax.Array, metrics: dict[str, jax.Array]) -> jax.Array:
    """The KL coefficient of the next iteration."""
    if config.kl_penalty == "doubling":
        return losses.doubled_or_halved(coefficient, metrics["kl_after"], config.kl_target)
    if config.kl_penalty == "integral":
        return losses.log_integral(coefficient, metrics["kl_after"], config.kl_target, INTEGRAL_GAIN)
    return coefficient
