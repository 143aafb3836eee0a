"""Training of several seeds, and of several values of hyper-parameters, in one compiled program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxppo.policy.networks.actor_critic import Params
from jaxppo.ppo.learner import Learner

AGENTS = "agents"
"""Axis of a mesh that agents are spread over."""


def batched_options(device: jax.Device) -> dict[str, str]:
    """Compiler options for a `vmap` over agents."""
    # On a CPU jaxlib 0.10.2 to 0.11.2 hands reductions of seven and more axes, which an axis of agents makes of six, to
    # a library that crashes on some of them: https://github.com/jax-ml/jax/issues/39257.
    return {"xla_cpu_experimental_ynn_fusion_type": ""} if device.platform == "cpu" else {}


class Varied(NamedTuple):
    """Learners of agents that differ in hyper-parameters.

    Attributes:
      make: values of one agent, `[]` each, to its learner on one device: a configuration may hold them in the place of
        numbers.
      values: of N agents, `[N]` each, by name.
    """

    make: Callable[[dict[str, jax.Array]], Learner]
    values: dict[str, jax.Array]


def train_population(
    learner: Learner | Varied,
    first_net: Callable[[jax.Array], Params],
    params: Any,
    seeds: Sequence[int],
    n_iterations: int,
    *,
    refresh: Callable[[jax.Array], Any] | None = None,
    evaluate: Callable[[Params], Any] | None = None,
    every: int = 1,
) -> tuple[Params, dict[str, jax.Array], Any]:
    """Trains one agent per seed: a scan over iterations under a vmap over agents, on as many devices as divide them.

    Args:
      learner: from `make_learner`, on one device; or learners of agents that differ in hyper-parameters too.
      first_net: key to first parameters; the key is folded from the seed.
      params: parameters of the environment.
      seeds: N integers.
      n_iterations: iterations of each agent, a multiple of `every`.
      refresh: key to fresh environment parameters, on which every iteration begins new episodes; None for `params` and
        episodes that go on.
      evaluate: network parameters to figures, after each `every` iterations; None for no evaluation.
      every: iterations between two evaluations, >= 1.

    Returns:
      Network parameters `[N, ...]`, the learner's metrics `[N, n_iterations]`, and the figures of the evaluations
      `[N, n_iterations // every, ...]`, None without.

    Raises:
      ValueError: `n_iterations` is not a multiple of `every`.
    """
    varied = learner if isinstance(learner, Varied) else Varied(lambda values: learner, {})
    program = population_program(varied.make, params, n_iterations, refresh=refresh, evaluate=evaluate, every=every)
    nets = [first_net(jax.random.fold_in(jax.random.key(seed), 1)) for seed in seeds]
    nets = jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets)
    return program(nets, jnp.asarray(seeds), varied.values)


def population_program(
    make: Callable[[dict[str, jax.Array]], Learner],
    params: Any,
    n_iterations: int,
    *,
    refresh: Callable[[jax.Array], Any] | None = None,
    evaluate: Callable[[Params], Any] | None = None,
    every: int = 1,
) -> Any:
    """The program of `train_population`, jitted: `(nets, seeds, values) -> (nets, metrics, figures)`, of N agents.

    Args:
      make: as in `Varied`.
      params: and all that follow as in `train_population`.

    Raises:
      ValueError: `n_iterations` is not a multiple of `every`.
    """
    if n_iterations % every:
        raise ValueError(f"n_iterations is {n_iterations}; it must be a multiple of every = {every}")

    def one_agent(net: Params, seed: jax.Array, values: dict[str, jax.Array]) -> Any:
        key_data, learner = jax.random.fold_in(jax.random.key(seed), 2), make(values)
        state = learner.fresh(net, seed, params)

        def block(state: Any, start: jax.Array) -> Any:
            def iterate(state: Any, offset: jax.Array) -> Any:
                data = params
                if refresh is not None:
                    key_fresh, key_paths = jax.random.split(jax.random.fold_in(key_data, start + offset))
                    data = refresh(key_fresh)
                    state = learner.restart(state, data, key_paths)
                return learner.step(state, data, (start + offset) / n_iterations)

            state, metrics = jax.lax.scan(iterate, state, jnp.arange(every))
            return state, (metrics, None if evaluate is None else evaluate(state.params))

        state, (metrics, figures) = jax.lax.scan(block, state, jnp.arange(0, n_iterations, every))
        return state.params, jax.tree.map(lambda x: x.reshape(n_iterations), metrics), figures

    def all_agents(nets: Params, seeds: jax.Array, values: dict[str, jax.Array]) -> Any:
        devices = _dividing(jax.devices(), len(seeds))
        mesh, spec = Mesh(np.asarray(devices), (AGENTS,)), PartitionSpec(AGENTS)
        spread = jax.shard_map(jax.vmap(one_agent), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
        return spread(nets, seeds, values)

    return jax.jit(all_agents, compiler_options=batched_options(jax.devices()[0]))


def _dividing(devices: Sequence[jax.Device], n: int) -> Sequence[jax.Device]:
    """As many of the devices as divide a number of agents."""
    return devices[: max(k for k in range(1, len(devices) + 1) if n % k == 0)]
