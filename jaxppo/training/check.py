"""What a training refuses before anything is compiled, and the memory that it needs."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from jaxppo.config import Config
from jaxppo.envs.market.market_data import MarketData
from jaxppo.ppo.learner import Learner, data_mesh, make_learner
from jaxppo.run.build import build
from jaxppo.run.devices import select_devices
from jaxppo.run.memory import check_fits, size_of
from jaxppo.run.setup import pathwise_of
from jaxppo.tracking import TensorBoard, make_loggers
from jaxppo.training.evaluator import backtest_evaluator
from jaxppo.training.experiment import Experiment, trading_experiment
from jaxppo.training.fitting import SMALLER, fitting_iteration
from jaxppo.training.gymnax_experiment import episode_evaluator, gymnax_experiment


class Checked(NamedTuple):
    """A training that would begin.

    Attributes:
      devices: that it is spread over.
      n_parameters: of the network.
      memory: bytes that an iteration needs on each device, estimated.
    """

    devices: list[jax.Device]
    n_parameters: int
    memory: float


def check_training(config: Config, market: MarketData | None) -> Checked:
    """Makes everything that a training is made of, up to where it would be compiled.

    Args:
      config: of the run.
      market: its prices, from `jaxppo.run.data.load_data`; None for an environment that is not trading.

    Raises:
      ConfigError: as `jaxppo.train` does.
    """
    make_loggers(config, (), [TensorBoard()])
    with jax.default_device(select_devices(config)[0]):
        if market is None:
            experiment = gymnax_experiment(config, episode_evaluator)
        else:
            experiment = trading_experiment(build(config, market), backtest_evaluator)
        mesh, pathwise = data_mesh(experiment.devices), pathwise_of(experiment.config)

        def learner_of(experiment: Experiment) -> Learner:
            return make_learner(experiment.task, experiment.ppo, mesh, experiment.risk, pathwise)

        learner = learner_of(experiment)
        found = fitting_iteration(experiment, learner, state_shapes(experiment, learner), learner_of)
    n_parameters = sum(leaf.size for leaf in jax.tree.leaves(experiment.net))
    return Checked(experiment.devices, n_parameters, found.memory)


def state_shapes(experiment: Experiment, learner: Learner) -> Any:
    """Shapes and dtypes of the state of training.

    Args:
      experiment: what is trained.
      learner: that trains it.

    Raises:
      ConfigError: the state alone does not fit the devices.
    """
    shapes = jax.eval_shape(learner.fresh, experiment.net, experiment.config.seed, experiment.params)
    each = size_of((shapes, experiment.params)) / len(experiment.devices)  # at least, as paths are spread over them
    check_fits(each, "the state of training", SMALLER, experiment.devices)
    return shapes
