"""The evaluator of a trading run, made of backtests: the one place in training that knows how policies are tested."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxppo.backtest.agent_account import limits_of
from jaxppo.backtest.evaluation import ReportExtras, describe, evaluate, quick_score, report
from jaxppo.backtest.inspection import attention_figures, inspect_policy
from jaxppo.backtest.selection import adjust_for_selection, configuration_hash, record_evaluation
from jaxppo.policy.networks.actor_critic import ActorCritic, Params
from jaxppo.report.results import selected_of
from jaxppo.report.selection import one_line
from jaxppo.run.setup import Setup
from jaxppo.tracking import Curves
from jaxppo.training.experiment import Evaluator, hardly_trained


def backtest_evaluator(
    setup: Setup, network: ActorCritic, sections: Mapping[str, str] = MappingProxyType({})
) -> Evaluator:
    """Selects by the Sharpe ratio on the validation period, and evaluates the test period once, at the end.

    Args:
      setup: market, environment and configuration.
      network: encoder and head.
      sections: more of the report, title -> HTML.
    """
    content = configuration_hash(setup)

    def score(net: Params, folder: pathlib.Path, iteration: int) -> dict[str, float]:
        def record(returns: np.ndarray) -> None:
            record_evaluation(setup, folder, iteration, "validation", returns, content)

        effects = {
            f"mask_{figure}_{name.replace(' ', '_')}": getattr(effect, figure)
            for name, effect in limits_of(setup, network, net, "validation").items()
            for figure in ("bound", "exposure_removed", "costs_saved")
        }
        attention = attention_figures(setup, network, net, "validation")
        return quick_score(setup, network, net, "validation", record) | attention | effects

    def finish(
        net: Params, summary: dict[str, Any], rows: Sequence[dict[str, Any]], folder: pathlib.Path
    ) -> dict[str, Any]:
        result = evaluate(setup, network, net)
        iteration, returns = summary["validation"]["best_iteration"], result.ledgers["agent"].returns
        test = record_evaluation(setup, folder, iteration, "test", returns, content)
        adjusted = adjust_for_selection(setup, folder, test, returns, result.baselines)
        done, selected = summary["train"], selected_of(summary["validation"])
        few = (hardly_trained(done["iterations"]),) if done.get("hardly_trained") else ()
        seen = inspect_policy(setup, network, net)
        constraints = summary.get("constraints", {})
        extras = ReportExtras(adjusted, constraints, rows, seen, sections, warnings=few, selected=selected)
        report(setup, result, folder / "report.html", extras)
        equity = {name: np.asarray(ledger.equity) for name, ledger in result.ledgers.items()}
        return {"out_of_sample": result.summary, "selection": adjusted, "curves": Curves(result.times, equity)}

    def as_text(summary: dict[str, Any]) -> str:
        return f"{describe(summary['out_of_sample'])}\n{one_line(summary['selection'])}"

    return Evaluator("sharpe", score, finish, as_text)
