"""What a process does that does not lead a training: it computes its part of what process 0 says, and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxppo.policy.networks.actor_critic import Params
from jaxppo.ppo.learner import Learner
from jaxppo.run.processes import Group
from jaxppo.training.calls import arguments, like_call, several_iterations
from jaxppo.training.experiment import Experiment
from jaxppo.training.interrupts import stop_requested
from jaxppo.training.monitor import stopping_metrics


class Followed(NamedTuple):
    """What a process knows at the end of a training that it did not lead.

    Attributes:
      folder: of the run, as process 0 calls it.
      params: network parameters that process 0 returns.
      last_params: those after the last iteration.
      signal: number of the signal that stopped training; None for a finished run.
    """

    folder: str
    params: Params
    last_params: Params
    signal: int | None


def follow(experiment: Experiment, group: Group, make_learner: Callable[[Experiment, int], Learner]) -> Followed:
    """Follows the orders of process 0 until it says that the training has ended.

    Args:
      experiment: what is trained; the same as that of process 0.
      group: the processes.
      make_learner: `(experiment, halvings) -> learner`.
    """
    learner = make_learner(experiment, 0)
    state: Any = None
    iterate: Any = None
    params: Any = None
    with stop_requested() as stop:
        group.stop_with(stop)
        while True:
            order = group.hear()
            match order["do"]:
                case "begin":
                    state = learner.init(experiment.net, experiment.config.seed, experiment.params)
                case "restore":
                    state = learner.place(group.share(state))
                case "compile":
                    if order["micro_batch"] != experiment.ppo.micro_batch:
                        assert experiment.smaller is not None, "process 0 has made the same experiment smaller"
                        experiment = experiment.smaller(order["micro_batch"], experiment.config.policy.rematerialise)
                    learner = make_learner(experiment, order["halvings"])
                    params = learner.replicate(experiment.params)
                    program = several_iterations(learner, stopping_metrics(experiment.monitor))
                    iterate = program.trace(state, params, *like_call()).lower().compile()
                case "iterate":
                    state, *_ = jax.block_until_ready(iterate(state, params, *arguments(order["spent"])))
                case "save":
                    group.gather(state)
                case "end":
                    net = group.share(experiment.net)
                    return Followed(order["folder"], net, jax.device_get(state.params), order["signal"])
