"""An iteration that fits its devices: the largest micro-batch that does, or what would help, before it is compiled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from jaxppo.errors import ConfigError
from jaxppo.policy.networks.config import REMATERIALISE
from jaxppo.ppo.learner import Learner
from jaxppo.run.memory import GIB, check_fits, estimated_memory, memory_of, memory_usable
from jaxppo.run.progress import announce
from jaxppo.training.calls import like_call, metric_names, several_iterations
from jaxppo.training.experiment import Experiment
from jaxppo.training.monitor import stopping_metrics

SMALLER = "ppo.micro_batch, ppo.paths, ppo.chunk, ppo.portfolios or policy.width"
"""Keys that make an iteration smaller."""
Remake = Callable[[Experiment], Learner]
"""Makes the learner of an experiment."""


class Fitting(NamedTuple):
    """An iteration, which is not compiled yet.

    Attributes:
      experiment: what is trained, perhaps in smaller micro-batches.
      learner: that trains it.
      traced: program of iterations, see `jaxppo.training.calls`.
      metrics: names of the figures of an iteration.
      memory: bytes that it needs on each device, estimated.
    """

    experiment: Experiment
    learner: Learner
    traced: Any
    metrics: tuple[str, ...]
    memory: float


def fitting_iteration(experiment: Experiment, learner: Learner, state: Any, remake: Remake) -> Fitting:
    """Traces an iteration; where `ppo.micro_batch` is absent, on accelerators, with the largest one that fits.

    One that was asked for stays, and on a CPU `ppo_for_devices` chooses by the cache.

    Args:
      experiment: what is trained.
      learner: that trains it.
      state: of training, or its shapes.
      remake: makes the learner of the same experiment in less memory.

    Raises:
      ConfigError: it cannot fit the devices, with the estimate and what would make it fit.
    """
    announce("tracing an iteration")
    devices = experiment.devices
    found = _traced(experiment, learner, state)
    if experiment.config.ppo.micro_batch is None and devices[0].platform != "cpu":
        usable, present = memory_usable(devices), experiment.config.policy.rematerialise
        whole = found.memory
        for micro_batch in _micro_batches(experiment) if whole > usable else ():
            found = _smaller(experiment, micro_batch, present, state, remake)
            if found.memory <= usable:
                break
        if found.experiment is not experiment:
            logging.getLogger(__name__).warning(
                "ppo.micro_batch %d: all paths of a minibatch at once need about %.1f GiB, with it %.1f",
                found.experiment.ppo.micro_batch, whole / GIB, found.memory / GIB,
            )  # fmt: skip
    if found.memory > memory_of(devices) and (helps := _what_fits(experiment, state, remake)):
        raise ConfigError(
            f"an iteration needs about {found.memory / GIB:,.1f} GiB, and {devices[0].device_kind} has "
            f"{memory_of(devices) / GIB:,.1f}; it would fit with {helps}"
        )
    check_fits(found.memory, "an iteration", SMALLER, devices)
    return found


def _traced(experiment: Experiment, learner: Learner, state: Any) -> Fitting:
    params = learner.replicate(experiment.params)
    program = several_iterations(learner, stopping_metrics(experiment.monitor))
    traced = program.trace(state, params, *like_call())
    needed = estimated_memory(traced.jaxpr.jaxpr) / len(experiment.devices)
    return Fitting(experiment, learner, traced, metric_names(learner, state, params), needed)


def _smaller(experiment: Experiment, micro_batch: int, rematerialise: str, state: Any, remake: Remake) -> Fitting:
    assert experiment.smaller is not None, "`_micro_batches` has none then"
    smaller = experiment.smaller(micro_batch, rematerialise)
    return _traced(smaller, remake(smaller), state)


def _micro_batches(experiment: Experiment) -> Iterator[int]:
    """Micro-batches that divide the paths of a minibatch on a device, below that of the experiment, largest first."""
    ppo = experiment.ppo
    local = ppo.paths // ppo.minibatches // len(experiment.devices)
    if experiment.smaller is not None:
        yield from (n for n in range((ppo.micro_batch or local) - 1, 0, -1) if local % n == 0)


def _what_fits(experiment: Experiment, state: Any, remake: Remake) -> str:
    """The keys with which an experiment would fit, of those that change memory and speed alone; empty for none."""
    policy, there = experiment.config.policy, memory_of(experiment.devices)
    settings = REMATERIALISE[REMATERIALISE.index(policy.rematerialise) :] if policy.kind == "transformer" else ("none",)
    local = experiment.ppo.paths // experiment.ppo.minibatches // len(experiment.devices)
    sizes = (min(experiment.ppo.micro_batch or local, local), *_micro_batches(experiment))
    for setting in settings if experiment.smaller is not None else ():
        if _smaller(experiment, sizes[-1], setting, state, remake).memory > there:
            continue
        fits = (n for n in sizes if _smaller(experiment, n, setting, state, remake).memory <= there)
        rematerialised = f" and policy.rematerialise {setting}" if setting != policy.rematerialise else ""
        return f"ppo.micro_batch {next(fits)}{rematerialised}"
    return ""
