"""The agents of a walk-forward as one program: PPO iterations under a `vmap` over agents, each on its own fold."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxppo.backtest.simulate import run_policy
from jaxppo.envs.trading.types import EnvParams
from jaxppo.policy.networks.actor_critic import Params, Policy
from jaxppo.ppo.learner import Learner, TrainState
from jaxppo.ppo.population import batched_options
from jaxppo.run.setup import Setup

AGENTS = "agents"
USABLE = 0.8
"""Share of a device's memory that a program may need."""

Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class FoldParams:
    """Parameters of the folds' environments; what is the same in all of them is kept once.

    Attributes:
      shared: parameters of the first fold.
      own: for each leaf, None where it is shared, else `[folds, ...]`.
    """

    shared: EnvParams
    own: tuple[jax.Array | None, ...]

    @classmethod
    def of(cls, each: Sequence[EnvParams]) -> FoldParams:
        """From those of every fold."""
        columns = zip(*(jax.tree.leaves(params) for params in each), strict=True)
        return cls(each[0], tuple(None if _alike(column) else jnp.stack(column) for column in columns))

    def __getitem__(self, folds: Sequence[int]) -> EnvParams:
        """Those of some folds, to be mapped over by `axes`."""
        leaves, chosen = jax.tree.leaves(self.shared), jnp.asarray(folds)
        taken = [leaf if own is None else own[chosen] for leaf, own in zip(leaves, self.own, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(self.shared), taken)

    def fill(self, shared: Any, mapped: Any) -> EnvParams:
        """A tree with one value for what is shared and another for what is not."""
        return jax.tree.unflatten(
            jax.tree.structure(self.shared), [shared if own is None else mapped for own in self.own]
        )


def _alike(column: Sequence[jax.Array]) -> bool:
    floating = jnp.issubdtype(column[0].dtype, jnp.floating)
    return all(x is column[0] or np.array_equal(x, column[0], equal_nan=floating) for x in column[1:])


@dataclasses.dataclass(frozen=True)
class Population:
    """Programs for a number of agents, spread over devices.

    Attributes:
      start: `(nets, seeds, params) -> states`, leading axis agents.
      iterate: `(states, params, first, count) -> (states, metrics)`: `count` iterations from number `first` on, both
        `[]` int32; metrics `[agents, every]`, of which the first `count` of each agent count. Donates `states`.
      equity: `(nets, params, first) -> [agents, n + 1]`: equity of the policies without randomness over `n` decisions
        from bars `first` `[agents]` on.
      sharding: of everything that has agents as its leading axis.
    """

    start: Callable[[Params, jax.Array, EnvParams], TrainState]
    iterate: Callable[[TrainState, EnvParams, jax.Array, jax.Array], tuple[TrainState, Metrics]]
    equity: Callable[[Params, EnvParams, jax.Array], jax.Array]
    sharding: NamedSharding


def make_population(
    setup: Setup,
    policy: Policy,
    learner: Learner,
    params: FoldParams,
    spent: Callable[[jax.Array], jax.Array],
    every: int,
    n_validation: int,
    devices: Sequence[jax.Device],
) -> Population:
    """Builds the programs; their number of agents, a multiple of that of the devices, is that of their arguments.

    Args:
      setup: environment and rules of the evaluation, which all agents share.
      policy: likewise.
      learner: of one agent.
      params: of all folds.
      spent: iteration `[]` to the share of the budget that is spent before it, `[]`.
      every: most iterations of one call of `iterate`.
      n_validation: decisions of a validation, `n`.
      devices: to spread the agents over.
    """
    mesh, axes = Mesh(np.asarray(devices), (AGENTS,)), params.fill(None, 0)
    mapped, whole = PartitionSpec(AGENTS), PartitionSpec()
    specs = params.fill(whole, mapped)

    def spread(function: Callable[..., Any], in_axes: tuple[Any, ...], in_specs: tuple[Any, ...]) -> Any:
        mapping = jax.vmap(function, in_axes=in_axes)
        return jax.shard_map(mapping, mesh=mesh, in_specs=in_specs, out_specs=mapped, check_vma=False)

    def iterations(
        state: TrainState, params: EnvParams, first: jax.Array, count: jax.Array
    ) -> tuple[TrainState, Metrics]:
        shapes = jax.eval_shape(learner.step, state, params, jnp.float32(0.0))[1]
        empty = {name: jnp.zeros((every, *shape.shape), shape.dtype) for name, shape in shapes.items()}

        def one(i: jax.Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, rows = carry
            state, row = learner.step(state, params, spent(first + i))
            return state, {name: rows[name].at[i].set(value) for name, value in row.items()}

        return jax.lax.fori_loop(0, count, one, (state, empty))

    def equity(net: Params, params: EnvParams, first: jax.Array) -> jax.Array:
        decision, monitor = setup.config.evaluation.decision, setup.monitor
        return run_policy(policy, setup.env, net, params, first, n_validation, decision, monitor).equity

    compiled = functools.partial(jax.jit, compiler_options=batched_options(devices[0]))
    return Population(
        start=compiled(spread(learner.fresh, (0, 0, axes), (mapped, mapped, specs))),
        iterate=compiled(spread(iterations, (0, axes, None, None), (mapped, specs, whole, whole)), donate_argnums=0),
        equity=compiled(spread(equity, (0, axes, 0), (mapped, specs, mapped))),
        sharding=NamedSharding(mesh, mapped),
    )


def memory_needed(compiled: Any) -> int:
    """Bytes that a compiled program needs on a device: arguments, results and what lies between."""
    sizes = compiled.memory_analysis()
    return sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes


def memory_usable(devices: Sequence[jax.Device]) -> float:
    """Bytes that a program may need on each device; unknown is infinite."""
    limit = (devices[0].memory_stats() or {}).get("bytes_limit")
    if limit is None and devices[0].platform == "cpu" and hasattr(os, "sysconf"):
        limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2 / len(devices)
    return float("inf") if limit is None else USABLE * limit
