"""Repeating a run's evaluation from its checkpoint, also on other prices or costs."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from jaxppo.backtest.capacity import costs_and_capital
from jaxppo.backtest.evaluation import ReportExtras, evaluate, report
from jaxppo.backtest.inspection import inspect_policy
from jaxppo.backtest.selection import adjust_for_selection, configuration_hash, record_evaluation
from jaxppo.backtest.shipping import decided
from jaxppo.envs.market.market_data import MarketData
from jaxppo.run import folder as run_folder
from jaxppo.run.build import unfinished_note
from jaxppo.run.checkpoints import Checkpoints
from jaxppo.run.files import write_json
from jaxppo.run.lock import owned
from jaxppo.run.saved import SavedRun, load_run


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
    with jax.default_device(saved.setup.devices[0]), contextlib.ExitStack() as owner:
        target = None if output is None else run_folder.make_folder(output, "backtest")
        if target is not None:
            owner.enter_context(owned(target, empty=True))
        return _evaluate(saved, target, capacity)


def _evaluate(saved: SavedRun, target: pathlib.Path | None, capacity: bool) -> dict[str, Any]:
    """Evaluates an opened run; writes summary and report into a folder, if there is one."""
    saved, setup = decided(saved), saved.setup
    result = evaluate(setup, saved.network, saved.params, ship=saved.ship, changed=saved.trained is not None)
    if capacity:
        result.summary["capacity"] = costs_and_capital(saved)
    returns, iteration = result.ledgers["agent"].returns, best_iteration(saved.folder)
    test = record_evaluation(setup, saved.folder, iteration, "test", returns, configuration_hash(setup))
    adjusted = adjust_for_selection(setup, saved.folder, test, returns, result.baselines)
    if target is not None:
        write_json(target / "summary.json", {"out_of_sample": result.summary, "selection": adjusted})
        note = unfinished_note(saved.folder)
        extras = ReportExtras(
            adjusted,
            inspection=inspect_policy(setup, saved.network, saved.params),
            warnings=(note,) if note else (),
            title=saved.title,
        )
        report(setup, result, target / "report.html", extras)
    return result.summary
