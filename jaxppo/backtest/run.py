"""Repeating a run's evaluation from its checkpoint, also on other prices or costs."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from jaxppo.backtest.capacity import costs_and_capital
from jaxppo.backtest.evaluation import ReportExtras, evaluate, report
from jaxppo.backtest.inspection import inspect_policy
from jaxppo.backtest.selection import adjust_for_selection, configuration_hash, record_evaluation
from jaxppo.envs.market.market_data import MarketData
from jaxppo.run import folder as run_folder
from jaxppo.run.checkpoints import Checkpoints
from jaxppo.run.saved import load_run


def best_iteration(folder: pathlib.Path) -> int:
    """Iteration of the checkpoint that was best on validation."""
    best = Checkpoints(folder / "checkpoints" / "best", 1)
    try:
        return int(best.latest or 0)
    finally:
        best.close()


def run(
    folder: str | pathlib.Path,
    *,
    data: str | pathlib.Path | None = None,
    output: str | pathlib.Path | None = None,
    overrides: Sequence[str] = (),
    market: MarketData | None = None,
    capacity: bool = False,
) -> dict[str, Any]:
    """Evaluates the best checkpoint of a run, and records the evaluation in the register of trials beside the run.

    Args:
      folder: the run.
      data: see `load_run`; default: the run's own test period.
      output: folder for summary.json and report.html; None writes nothing.
      overrides: see `load_run`.
      market: see `load_run`.
      capacity: whether to trade at other costs and with other capital too; that is not recorded as trials, since
        nothing is chosen by it.

    Returns:
      The `out_of_sample` entry of a summary, with `capacity` if asked, see `costs_and_capital`.

    Raises:
      ConfigError: not a run, or a setting that does not fit it.
      envs.DataError: the prices cannot be used.
    """
    run_folder.check_output(output)
    saved = load_run(folder, data=data, overrides=overrides, market=market)
    setup = saved.setup
    with jax.default_device(setup.devices[0]):
        result = evaluate(setup, saved.network, saved.params)
        if capacity:
            result.summary["capacity"] = costs_and_capital(saved)
        returns, iteration = result.ledgers["agent"].returns, best_iteration(saved.folder)
        test = record_evaluation(setup, saved.folder, iteration, "test", returns, configuration_hash(setup))
        adjusted = adjust_for_selection(setup, saved.folder, test, returns, result.baselines)
        if output is not None:
            target = run_folder.make_folder(output, "backtest")
            run_folder.write_json(target / "summary.json", {"out_of_sample": result.summary, "selection": adjusted})
            inspection = inspect_policy(setup, saved.network, saved.params)
            extras = ReportExtras(adjusted, inspection=inspection, title=saved.title)
            report(setup, result, target / "report.html", extras)
    return result.summary
