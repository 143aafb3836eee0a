"""Compiled training iteration: rollout, targets, update, on one mesh axis."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxppo.config import PathwiseConfig, PPOConfig
from jaxppo.envs.market.kernels import traced_for
from jaxppo.policy.networks.actor_critic import Params
from jaxppo.policy.rollout import DATA_AXIS
from jaxppo.ppo import iteration
from jaxppo.ppo.iteration import Design, Iteration, TrainState
from jaxppo.ppo.phasic import check_phasic
from jaxppo.ppo.targets import no_statistics
from jaxppo.ppo.task import Task
from jaxppo.risk.shaping import RewardShaping


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


def own_device(devices: Sequence[jax.Device]) -> jax.Device:
    """The first of some devices that belongs to this process; the first of all where none does.

    Args:
      devices: at least one, of any processes.
    """
    return next((device for device in devices if device.process_index == jax.process_index()), devices[0])


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


def make_learner(
    task: Task,
    config: PPOConfig,
    mesh: Mesh,
    risk: RewardShaping | None = None,
    pathwise: PathwiseConfig | None = None,
) -> Learner:
    """Builds the training iteration.

    Args:
      task: what is learned.
      config: hyper-parameters; `micro_batch` must divide the paths of a minibatch on one device.
      mesh: one axis named "data".
      risk: objective and constraints, from `jaxppo.risk.shape_rewards`; None for the expected sum of rewards.
      pathwise: learns by the gradient through the market, with these keys; None for PPO.

    Raises:
      ValueError: the batch cannot be split over the mesh, or the problem has no gradient.
    """
    design = _design(task, config, mesh.devices.size, risk)._replace(pathwise=pathwise)
    if pathwise is not None and task.unroll is None:
        raise ValueError("training.learner is pathwise; it needs continuous actions, or those of trading")
    replicated, sharded = PartitionSpec(), PartitionSpec(DATA_AXIS)
    on_paths = ("paths", "accounts")
    names = [field.name for field in dataclasses.fields(TrainState)]
    on_mesh: dict[str, Any] = {name: sharded if name in on_paths else replicated for name in names}
    specs = TrainState(**on_mesh)
    begin, device = jax.jit(task.start), own_device(list(mesh.devices.flat))

    def fresh(net: Params, seed: int | jax.Array, params: Any) -> TrainState:
        keys = iteration.path_keys(iteration.iteration_key(seed, 2**31 - 1), jnp.arange(config.paths))
        risk_state, accounts = ((), ()) if risk is None else risk.start(config.paths, config.portfolios)
        return TrainState(
            params=net,
            opt_state=iteration.first_moments(design, net),
            paths=begin(params, keys),
            values=no_statistics(),
            kl_coefficient=jnp.asarray(config.kl_coefficient, jnp.float32),
            iteration=jnp.zeros((), jnp.int32),
            seed=jnp.asarray(seed, jnp.uint32),
            risk=risk_state,
            accounts=accounts,
            start=jax.tree.map(jnp.copy, net) if pathwise is not None and pathwise.then == "ppo" else (),
        )

    def init(net: Params, seed: int | jax.Array, params: Any) -> TrainState:
        # A copy, as `iterate` donates its state, never the caller's arrays.
        return place(fresh(jax.tree.map(jnp.copy, net), seed, params))

    def place(state: TrainState) -> TrainState:
        return TrainState(**{name: _put(getattr(state, name), NamedSharding(mesh, on_mesh[name])) for name in names})

    def restart(state: TrainState, params: Any, key: jax.Array) -> TrainState:
        paths = task.start(params, jax.random.split(key, config.paths))
        accounts = state.accounts if risk is None else risk.restart(state.accounts)
        return state.replace(paths=paths, accounts=accounts)

    return Learner(
        init=init,
        fresh=fresh,
        iterate=jax.jit(traced_for(device, _on_mesh(design, mesh, specs)), donate_argnums=0),
        step=traced_for(device, _on_one_device(design)),
        replicate=lambda tree: _put(tree, NamedSharding(mesh, replicated)),
        place=place,
        restart=restart,
        steps_per_iteration=config.paths * config.portfolios * config.chunk,
    )


def _put(tree: Any, sharding: NamedSharding) -> Any:
    """Puts arrays on the devices of a mesh; several processes, which all have them, put a part each on their own."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def put(x: Any) -> jax.Array:
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda part: host[part])

    return jax.tree.map(put, tree)


def _design(task: Task, config: PPOConfig, n_devices: int, risk: RewardShaping | None) -> Design:
    """Raises ValueError where the batch cannot be split over the devices, or the epochs of the encoder do not fit."""
    check_phasic(task, config)
    n_groups = shuffle_groups(config, n_devices) // n_devices
    local = config.paths // config.minibatches // n_devices
    for n_paths, of in ((local, "of a minibatch on a device"), (config.paths // n_devices, "of a device")):
        if config.micro_batch is not None and n_paths % min(config.micro_batch, n_paths):
            raise ValueError(f"ppo.micro_batch {config.micro_batch} must divide the {n_paths} paths {of}")
    optimiser = optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.scale_by_adam(eps=1e-5))
    return Design(task, config, risk, optimiser, n_devices, n_groups)


def _on_mesh(design: Design, mesh: Mesh, specs: TrainState) -> Iteration:
    """The iteration on the devices of a mesh; `specs` say how the state is spread over them."""
    replicated, sharded = PartitionSpec(), PartitionSpec(DATA_AXIS)
    ins, outs = (specs, replicated, replicated), (specs, replicated)
    # The functions of any environment do not say what varies over devices: that is checked in PPO's update only.
    collect = jax.shard_map(
        partial(iteration.collect, design), mesh=mesh, in_specs=ins, out_specs=(sharded, sharded), check_vma=False
    )
    spread = (specs, sharded, sharded, replicated, replicated)
    learn = jax.shard_map(partial(iteration.learn, design), mesh=mesh, in_specs=spread, out_specs=outs)
    ascend = jax.shard_map(partial(iteration.ascend, design), mesh=mesh, in_specs=ins, out_specs=outs, check_vma=False)

    def by_ppo(state: TrainState, params: Any, progress: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        return learn(state, *collect(state, params, progress), params, progress)

    return _by_learner(design.pathwise, ascend, by_ppo)


def _on_one_device(design: Design) -> Iteration:
    """The iteration without a mesh."""

    def by_ppo(state: TrainState, params: Any, progress: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        rolled = iteration.collect(design, state, params, progress)
        return iteration.learn(design, state, *rolled, params, progress)

    def alone(one: Iteration) -> Iteration:
        mapped = jax.vmap(one, in_axes=(0, None, None), axis_name=DATA_AXIS, axis_size=1)

        def run(state: TrainState, params: Any, progress: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
            out = mapped(jax.tree.map(lambda x: x[None], state), params, progress)
            return jax.tree.map(lambda x: x[0], out)

        return run

    return _by_learner(design.pathwise, alone(partial(iteration.ascend, design)), alone(by_ppo))


def _by_learner(pathwise: PathwiseConfig | None, ascend: Iteration, by_ppo: Iteration) -> Iteration:
    """PPO's iteration or the pathwise one; the one, then the other, where PPO goes on after a share of the budget."""
    if pathwise is None:
        return by_ppo
    if pathwise.then == "none":
        return ascend
    share = pathwise.then_from

    def one_or_other(state: TrainState, params: Any, progress: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        found = [set(jax.eval_shape(one, state, params, progress)[1]) for one in (ascend, by_ppo)]

        def with_all(one: Iteration) -> Any:
            """All metrics; 0 for those of the other learner."""

            def run(state: TrainState) -> tuple[TrainState, dict[str, jax.Array]]:
                new, metrics = one(state, params, progress)
                return new, {name: metrics.get(name, jnp.zeros(())) for name in sorted(found[0] | found[1])}

            return run

        return jax.lax.cond(progress < share, with_all(ascend), with_all(by_ppo), state)

    return one_or_other
