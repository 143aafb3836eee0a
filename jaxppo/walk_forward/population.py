"""The agents of a walk-forward as one program: PPO iterations under a `vmap` over agents, each on its own fold."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxppo.backtest.agent_account import agent_of, rules_of
from jaxppo.backtest.simulate import simulate_account
from jaxppo.envs.trading.types import EnvParams
from jaxppo.policy.networks.actor_critic import ActorCritic, Params
from jaxppo.ppo.iteration import TrainState
from jaxppo.ppo.learner import Learner
from jaxppo.ppo.population import batched_options
from jaxppo.walk_forward.job import Job

AGENTS = "agents"

Metrics = dict[str, jax.Array]
Values = dict[str, jax.Array]
"""Hyper-parameters of an agent by dotted key, `[]` each."""


@dataclasses.dataclass(frozen=True)
class Population:
    """Programs for a number of agents, spread over devices.

    Attributes:
      start: `(nets, seeds, params) -> states`, leading axis agents.
      iterate: jitted `(states, params, values, first, count) -> (states, metrics)`: `count` iterations from number
        `first` on, both `[]` int32, with the hyper-parameters `values`, each `[agents]`; metrics
        `[agents, most_at_once]`, of which the first `count` of each agent count. Donates `states`.
      equity: `(nets, params, first) -> [agents, n + 1]`: equity of the policies without randomness over `n` decisions
        from bars `first` `[agents]` on.
      sharding: of everything that has agents as its leading axis.
    """

    start: Callable[[Params, jax.Array, EnvParams], TrainState]
    iterate: Any
    equity: Callable[[Params, EnvParams, jax.Array], jax.Array]
    sharding: NamedSharding


def make_population(
    job: Job, network: ActorCritic, make: Callable[[Values], Learner], devices: Sequence[jax.Device]
) -> Population:
    """Builds the programs; their number of agents, a multiple of that of the devices, is that of their arguments.

    Args:
      job: what is trained; the environment and the rules of evaluation are those of its `setup`.
      network: encoder and head of all agents.
      make: `values -> learner` of one agent.
      devices: to spread the agents over.
    """
    mesh, axes = Mesh(np.asarray(devices), (AGENTS,)), job.params.fill(None, 0)
    mapped, whole = PartitionSpec(AGENTS), PartitionSpec()
    specs, share = job.params.fill(whole, mapped), job.steps / job.budget

    def spread(function: Callable[..., Any], in_axes: tuple[Any, ...], in_specs: tuple[Any, ...]) -> Any:
        mapping = jax.vmap(function, in_axes=in_axes)
        return jax.shard_map(mapping, mesh=mesh, in_specs=in_specs, out_specs=mapped, check_vma=False)

    def iterations(
        state: TrainState, params: EnvParams, values: Values, first: jax.Array, count: jax.Array
    ) -> tuple[TrainState, Metrics]:
        learner = make(values)
        shapes = jax.eval_shape(learner.step, state, params, jnp.float32(0.0))[1]
        empty = {name: jnp.zeros((job.most_at_once, *shape.shape), shape.dtype) for name, shape in shapes.items()}

        def one(i: jax.Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, rows = carry
            state, row = learner.step(state, params, (first + i) * share)
            return state, {name: rows[name].at[i].set(value) for name, value in row.items()}

        return jax.lax.fori_loop(0, count, one, (state, empty))

    def equity(net: Params, params: EnvParams, first: jax.Array) -> jax.Array:
        policy, rules = agent_of(job.setup, network, net), rules_of(job.setup)
        return simulate_account(policy, rules, params, first, job.n_validation).equity

    compiled = functools.partial(jax.jit, compiler_options=batched_options(devices[0]))
    return Population(
        start=compiled(spread(make({}).fresh, (0, 0, axes), (mapped, mapped, specs))),
        iterate=compiled(
            spread(iterations, (0, axes, 0, None, None), (mapped, specs, mapped, whole, whole)), donate_argnums=0
        ),
        equity=compiled(spread(equity, (0, axes, 0), (mapped, specs, mapped))),
        sharding=NamedSharding(mesh, mapped),
    )
