"""Repeating a run's evaluation from its checkpoint, also on other prices or costs."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from jaxppo.backtest.evaluation import evaluate, report
from jaxppo.config import dump_config, load_config
from jaxppo.networks.policy import make_policy
from jaxppo.training import run_folder
from jaxppo.training.checkpoints import Checkpoints
from jaxppo.training.setup import build, load_data


def run(
    folder: str | pathlib.Path,
    *,
    data: str | pathlib.Path | None = None,
    output: str | pathlib.Path | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Evaluates the best checkpoint of a run.

    Args:
      folder: the run.
      data: another price file, evaluated as a whole, all symbols; default: the run's own test period.
      output: folder for summary.json and report.html; None writes nothing.
      overrides: dotted keys, as for `load_config`, for example other costs.

    Returns:
      The `out_of_sample` entry of a summary.

    Raises:
      ConfigError: not a run, or a setting that does not fit it.
      envs.DataError: the prices cannot be used.
    """
    folder, _ = run_folder.open_folder(folder)
    if data is not None:
        overrides = ["--data.path", str(data), "--data.symbols", "null", *overrides]
    config = load_config(folder / "config.yaml", overrides)
    setup = build(config, load_data(config), split=data is None)
    target = None if output is None else run_folder.choose_folder(output, "backtest")
    policy, net = make_policy(setup.encoder, setup.action, jax.random.key(config.seed))
    best = Checkpoints(folder / "checkpoints" / "best", 1)
    try:
        net = best.restore({"params": net})[0]["params"]
    finally:
        best.close()
    result = evaluate(setup, policy, net)
    if target is not None:
        run_folder.write_json(target / "summary.json", {"out_of_sample": result.summary})
        report(setup, result, [], dump_config(config), target / "report.html")
    return result.summary


def describe(summary: dict[str, Any]) -> str:
    """The out-of-sample figures as a short table; takes the `out_of_sample` entry."""
    lines = [f"out of sample, {summary['n_bars']} bars, {summary['first_bar']} to {summary['last_bar']}"]
    lines.append(f"{'':18}{'Sharpe (interval)':>28}{'return':>10}{'drawdown':>10}{'turnover/y':>12}{'costs':>9}")
    for name, row in {"agent": summary, **summary["baseline"]}.items():
        low, high = row["sharpe_ci"]
        sharpe = f"{_number(row['sharpe'])} ({_number(low)} .. {_number(high)})"
        lines.append(
            f"{name:18}{sharpe:>28}{row['total_return']:>10.1%}{row['max_drawdown']:>10.1%}"
            f"{row['turnover']:>12.1f}{row['costs']:>9.2%}"
        )
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"
