"""The programs of a job, compiled for as many agents at a time as fit the memory."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxppo.policy.networks.actor_critic import ActorCritic
from jaxppo.run.memory import check_fits, memory_needed, memory_usable
from jaxppo.run.setup import first_policy
from jaxppo.training.hyperparameters import learner_with
from jaxppo.walk_forward.job import Job
from jaxppo.walk_forward.population import Population, make_population


@dataclasses.dataclass(frozen=True)
class Programs:
    """A job, compiled.

    Attributes:
      network: encoder and head of all agents.
      population: its programs.
      iterate: `population.iterate` for `size` agents.
      size: agents in a batch.
      compile_seconds: wall time of compiling.
    """

    network: ActorCritic
    population: Population
    iterate: Callable[..., Any]
    size: int
    compile_seconds: float


def compile_job(
    job: Job,
    devices: Sequence[jax.Device],
    most: int | None,
    *,
    exactly: bool = False,
    batch_key: str = "walk_forward.batch_size",
) -> Programs:
    """Compiles a job for batches of as many agents as fit the memory, all of them if possible.

    Args:
      job: what is trained.
      devices: to spread the agents over.
      most: agents in a batch at most; None leaves it to the memory.
      exactly: batches of `most` agents, whatever the memory, on as many devices as divide them.
      batch_key: key of the configuration that makes batches smaller, for messages.
    """
    n_agents, began = len(job.agents), time.monotonic()
    if most is None:
        devices = devices[:n_agents]
        most = n_agents + len(devices) - 1
    elif exactly:
        devices = devices[: max(n for n in range(1, len(devices) + 1) if most % n == 0)]
    else:
        devices = devices[:most]
    network, net = first_policy(job.setup)
    population = make_population(
        job, network, lambda values: learner_with(job.setup, network, values, devices[0]), devices
    )
    # What a program needs is known once it is compiled: the batch shrinks until it fits, but never below the devices.
    while True:
        size = most if exactly else batch_size(n_agents, most, len(devices))
        params = job.params[[0] * size]
        nets = jax.tree.map(lambda x, size=size: jnp.broadcast_to(x, (size, *x.shape)), net)
        states = jax.eval_shape(population.start, nets, jnp.zeros(size, jnp.uint32), params)
        values = {key: jax.ShapeDtypeStruct((size,), jnp.float32) for key in job.values[0]}
        placed = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=population.sharding), (states, values)
        )
        compiled = population.iterate.lower(placed[0], params, placed[1], jnp.int32(0), jnp.int32(1)).compile()
        needed = memory_needed(compiled)
        share = memory_usable(devices) / needed
        if exactly or share >= 1.0 or size == len(devices):
            smaller = f"{batch_key}, ppo.micro_batch, ppo.paths, ppo.chunk or policy.width"
            check_fits(needed, f"an iteration of {size} agents", smaller, devices)
            return Programs(network, population, compiled, size, time.monotonic() - began)
        most = max(int(size * share), len(devices))


def batch_size(n_agents: int, most: int, n_devices: int) -> int:
    """Size of a batch where as few as possible, of equal size, hold all agents.

    Args:
      n_agents: agents of the job.
      most: agents in a batch at most, >= `n_devices`.
      n_devices: that the size is a multiple of.
    """
    largest = most // n_devices * n_devices
    n_batches = -(-n_agents // largest)
    return -(-n_agents // (n_batches * n_devices)) * n_devices
