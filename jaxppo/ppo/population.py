"""Training of several seeds in one compiled program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxppo.policy.networks.actor_critic import Params
from jaxppo.ppo.learner import Learner


def batched_options(device: jax.Device) -> dict[str, str]:
    """Compiler options for a `vmap` over agents."""
    # On a CPU jaxlib 0.10.2 to 0.11.2 hands reductions of seven and more axes, which an axis of agents makes of six, to
    # a library that crashes on some of them: https://github.com/jax-ml/jax/issues/39257.
    return {"xla_cpu_experimental_ynn_fusion_type": ""} if device.platform == "cpu" else {}


def train_population(
    learner: Learner,
    first_net: Callable[[jax.Array], Params],
    params: Any,
    seeds: Sequence[int],
    n_iterations: int,
    *,
    refresh: Callable[[jax.Array], Any] | None = None,
    evaluate: Callable[[Params], Any] | None = None,
    every: int = 1,
) -> tuple[Params, dict[str, jax.Array], Any]:
    """Trains one agent per seed: a scan over iterations under a vmap over seeds.

    Args:
      learner: from `make_learner`, on one device.
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
    if n_iterations % every:
        raise ValueError(f"n_iterations is {n_iterations}; it must be a multiple of every = {every}")

    def one_agent(net: Params, seed: jax.Array) -> Any:
        key_data = jax.random.fold_in(jax.random.key(seed), 2)
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

    nets = [first_net(jax.random.fold_in(jax.random.key(seed), 1)) for seed in seeds]
    nets = jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets)
    options = batched_options(jax.devices()[0])
    return jax.jit(jax.vmap(one_agent), compiler_options=options)(nets, jnp.asarray(seeds))
