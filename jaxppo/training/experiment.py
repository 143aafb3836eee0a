"""What the host loop trains: a task, how it is scored on the way, and what happens at the end."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxppo.backtest.evaluation import describe, evaluate, limits_of, quick_score, report
from jaxppo.backtest.inspection import attention_figures, inspect_policy
from jaxppo.backtest.selection import configuration_hash, judge, record_evaluation
from jaxppo.config import Config, PPOConfig, dump_config
from jaxppo.policy.networks.actor_critic import Params
from jaxppo.ppo.task import Task
from jaxppo.ppo.trading_task import trading_task
from jaxppo.report.selection import one_line
from jaxppo.risk.monitor import UNWATCHED, Monitor
from jaxppo.risk.shaping import RewardShaping
from jaxppo.run.folder import data_report
from jaxppo.run.objectives import make_reward_shaping
from jaxppo.run.setup import Setup, dropout_rate, first_policy
from jaxppo.training.monitor import breached_in


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
      criterion: the figure of `score` that selects the best checkpoint; higher is better.
      score: `(net, folder, iteration) -> figures`, on what is not trained on; records the look.
      derive: `row -> figures`, derived from an iteration's metrics.
      show: `row -> texts`, figures beside the progress bar; an empty text hides one.
      finish: `(net, summary so far, metrics rows, folder) -> figures` for summary.json; writes the report.
      describe: those figures as text.
      monitor: limits that training accounts are watched for.
      risk: objective and constraints; None for the expected sum of rewards.
    """

    config: Config
    ppo: PPOConfig
    devices: list[jax.Device]
    task: Task
    net: Params
    params: Any
    data: dict[str, Any]
    criterion: str
    score: Callable[[Params, pathlib.Path, int], dict[str, float]]
    derive: Callable[[dict[str, float]], dict[str, float]]
    show: Callable[[dict[str, float]], dict[str, str]]
    finish: Callable[[Params, dict[str, Any], Sequence[dict[str, Any]], pathlib.Path], dict[str, Any]]
    describe: Callable[[dict[str, Any]], str]
    monitor: Monitor = UNWATCHED
    risk: RewardShaping | None = None


def learned_from(setup: Setup) -> dict[str, Any]:
    """Symbols, and the time of the last bar that training or selection has seen; None for a market without times."""
    times, last = setup.market.info.timestamps, setup.periods["validation"].last
    return {"symbols": list(setup.market.info.symbols), "last": str(times[last]) if len(times) else None}


def trading_experiment(setup: Setup) -> Experiment:
    """Trading: the Sharpe ratio on the validation period selects; the test period is evaluated once, at the end."""
    policy, net = first_policy(setup)
    annual, content = setup.periods_per_year, configuration_hash(setup)

    def derive(row: dict[str, float]) -> dict[str, float]:
        return {"sharpe": row["reward"] / max(row["reward_std"], 1e-12) * annual**0.5}

    def show(row: dict[str, float]) -> dict[str, str]:
        shown = {"return": f"{math.expm1(min(row['reward'] * annual, 20.0)):+.1%}/y", "sharpe": f"{row['sharpe']:+.2f}"}
        if "validation_sharpe" in row:
            shown["validation"] = f"{row['validation_sharpe']:+.2f}"
        return shown | {"breached": breached_in(setup.monitor, row)}

    def score(net: Params, folder: pathlib.Path, iteration: int) -> dict[str, float]:
        def look(returns: np.ndarray) -> None:
            record_evaluation(setup, folder, iteration, "validation", returns, content)

        effects = limits_of(setup, policy, net, "validation")
        did = {
            f"mask_{figure}_{name.replace(' ', '_')}": getattr(effect, figure)
            for name, effect in effects.items()
            for figure in ("bound", "exposure_removed", "costs_saved")
        }
        figures = attention_figures(setup, policy, net, "validation")
        return quick_score(setup, policy, net, "validation", look) | figures | did

    def finish(
        net: Params, summary: dict[str, Any], rows: Sequence[dict[str, Any]], folder: pathlib.Path
    ) -> dict[str, Any]:
        result = evaluate(setup, policy, net)
        looked = inspect_policy(setup, policy, net)
        limits, text = summary.get("constraints", {}), dump_config(setup.config)
        iteration = summary["validation"]["best_iteration"]
        worth = judge(setup, folder, iteration, result.ledgers["agent"].returns, content, result.baselines)
        report(setup, result, looked, list(rows), text, folder / "report.html", limits, worth)
        return {"out_of_sample": result.summary, "selection": worth}

    return Experiment(
        config=setup.config,
        ppo=setup.ppo,
        devices=setup.devices,
        task=trading_task(policy, setup.env, setup.ppo, dropout_rate(setup.config), setup.monitor),
        net=net,
        params=setup.period_params("train"),
        data={**data_report(setup.market), "learned_from": learned_from(setup)},
        criterion="sharpe",
        score=score,
        derive=derive,
        show=show,
        finish=finish,
        describe=lambda summary: f"{describe(summary['out_of_sample'])}\n{one_line(summary['selection'])}",
        monitor=setup.monitor,
        risk=make_reward_shaping(setup.config, annual),
    )
