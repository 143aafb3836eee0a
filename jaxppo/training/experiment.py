"""What the host loop trains, and the evaluator that it is given: training knows nothing of how policies are tested."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from jaxppo.config import Config, PPOConfig
from jaxppo.policy.networks.actor_critic import ActorCritic, Params
from jaxppo.ppo.task import Task
from jaxppo.ppo.trading_task import trading_task
from jaxppo.risk.monitor import NO_MONITOR, Monitor
from jaxppo.risk.shaping import RewardShaping
from jaxppo.run.data import recorded_path
from jaxppo.run.folder import data_report
from jaxppo.run.memory import check_fits, size_of
from jaxppo.run.objectives import make_reward_shaping
from jaxppo.run.setup import Setup, dropout_rate, first_policy
from jaxppo.run.start import check_start, started_policy
from jaxppo.training.monitor import breached_in


def hardly_trained(iterations: int) -> str:
    """Sentence on a run of too few iterations."""
    counted = f"{iterations:,} iteration{'' if iterations == 1 else 's'}"
    return f"Hardly trained ({counted}): the figures say nothing of what training would reach."


class Evaluator(NamedTuple):
    """Pure functions that score a network while it is trained, and evaluate it at the end.

    Attributes:
      criterion: the figure of `score` that selects the best checkpoint; higher is better.
      score: `(net, folder, iteration) -> figures` on validation data; records the evaluation as a trial.
      finish: `(net, summary so far, metrics rows, folder) -> entries of summary.json`, on test data that nothing was
        trained or selected on; writes the report. An entry `curves`, a `jaxppo.tracking.Curves`, goes to the loggers
        instead.
      describe: the summary as text.
    """

    criterion: str
    score: Callable[[Params, pathlib.Path, int], dict[str, float]]
    finish: Callable[[Params, dict[str, Any], Sequence[dict[str, Any]], pathlib.Path], dict[str, Any]]
    describe: Callable[[dict[str, Any]], str]


WITH_OPTIMISER = 4
"""Size of parameters, gradient and both moments of Adam, multiples of the parameters."""
MakeEvaluator = Callable[[Any, Any], Evaluator]
"""`(setup, network) -> evaluator`; `jaxppo.training.evaluator.backtest_evaluator` is that of a trading run."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What `jaxppo.training.trainer` needs of a run; everything else about markets and environments is behind it.

    Attributes:
      config: the resolved configuration.
      ppo: hyper-parameters with the device's choices filled in.
      devices: devices to train on.
      task: what is learned.
      net: the network's first parameters.
      params: parameters of the training environment.
      data: report on the data, for metadata.json; has a `fingerprint`.
      evaluator: selects the checkpoint, and evaluates it at the end.
      derive: `row -> figures`, derived from an iteration's metrics.
      show: `row -> texts`, figures beside the progress bar; an empty text hides one.
      monitor: limits on monitored metrics of the training accounts.
      risk: objective and constraints; None for the expected sum of rewards.
      smaller: `(micro-batch, rematerialise) -> experiment`, the same in less memory; None where nothing is encoded.
    """

    config: Config
    ppo: PPOConfig
    devices: list[jax.Device]
    task: Task
    net: Params
    params: Any
    data: dict[str, Any]
    evaluator: Evaluator
    derive: Callable[[dict[str, float]], dict[str, float]]
    show: Callable[[dict[str, float]], dict[str, str]]
    monitor: Monitor = NO_MONITOR
    risk: RewardShaping | None = None
    smaller: Callable[[int, str], Experiment] | None = None


def learned_from(setup: Setup) -> dict[str, Any]:
    """Symbols, and the time of the last bar that training or selection has seen; None for a market without times."""
    times, last = setup.market.info.timestamps, setup.periods["validation"].last
    return {"symbols": list(setup.market.info.symbols), "last": str(times[last]) if len(times) else None}


def trading_experiment(setup: Setup, make_evaluator: MakeEvaluator) -> Experiment:
    """Trains the network of a trading run.

    Args:
      setup: market, environment and configuration.
      make_evaluator: makes the evaluator of the setup and the network.
    """
    check_start(setup, setup.period_params("train"))
    shapes = jax.eval_shape(lambda: first_policy(setup)[1])
    check_fits(WITH_OPTIMISER * size_of(shapes), "the network", "policy.width, policy.layers", setup.devices)
    network, net = started_policy(setup)
    annual, evaluator = setup.periods_per_year, make_evaluator(setup, network)
    validated = f"validation_{evaluator.criterion}"

    def derive(row: dict[str, float]) -> dict[str, float]:
        return {"sharpe": row["reward"] / max(row["reward_std"], 1e-12) * annual**0.5}

    def show(row: dict[str, float]) -> dict[str, str]:
        shown = {"return": f"{math.expm1(min(row['reward'] * annual, 20.0)):+.1%}/y", "sharpe": f"{row['sharpe']:+.2f}"}
        if validated in row:
            shown["validation"] = f"{row[validated]:+.2f}"
        return shown | {"breached": breached_in(setup.monitor, row)}

    def task_of(network: ActorCritic, ppo: PPOConfig) -> Task:
        return trading_task(network, setup.env, ppo, dropout_rate(setup.config), setup.monitor)

    def smaller(micro_batch: int, rematerialise: str) -> Experiment:
        ppo = setup.ppo.model_copy(update={"micro_batch": micro_batch})
        encoder = dataclasses.replace(setup.encoder, rematerialise=rematerialise)
        task = task_of(first_policy(dataclasses.replace(setup, encoder=encoder))[0], ppo)
        return dataclasses.replace(experiment, ppo=ppo, task=task)

    experiment = Experiment(
        config=setup.config,
        ppo=setup.ppo,
        devices=setup.devices,
        task=task_of(network, setup.ppo),
        net=net,
        params=setup.period_params("train"),
        data={
            **data_report(setup.market),
            "learned_from": learned_from(setup),
            "path": recorded_path(setup.config),
        },
        evaluator=evaluator,
        derive=derive,
        show=show,
        monitor=setup.monitor,
        risk=make_reward_shaping(setup.config, annual),
        smaller=smaller,
    )
    return experiment
