"""Walk-forward on real prices, as it comes out: paths, folds, what it is worth, and how fast agents are trained.

    python -m benchmarks.walk_forward hourly us_equity_1h.parquet [--runs FOLDER] [--KEY VALUE ...]
    python -m benchmarks.walk_forward daily us88_1d.parquet [--runs FOLDER] [--KEY VALUE ...]

`hourly` trades SPY, AAPL, IBM, BAC and AIG by training windows of five years and tests of two; `daily` all 88 stocks by
windows of two years and tests of five months. Stocks were chosen later (survivors), so the figure to beat is buying and
holding the same ones. Options are keys of the configuration.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import tempfile
from typing import Any

import jax

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)

import jaxppo
from benchmarks.recording import record
from jaxppo import backtest

CONFIG = "configs/quickstart.yaml"
COMMON = ["--data.calendar", "XNYS", "--data.on_bad_rows", "drop", "--costs.commission_bps", "1"]
JOBS = {
    "hourly": [
        *("--data.symbols", "SPY,AAPL,IBM,BAC,AIG", "--data.purge_bars", "7"),
        *("--walk_forward.train_bars", "8800", "--walk_forward.test_bars", "3500", "--walk_forward.seeds", "3"),
        *("--policy.width", "32", "--policy.heads", "4", "--training.steps", "500000"),
    ],
    "daily": [
        *("--env.position_limit", "0.05", "--walk_forward.train_bars", "504", "--walk_forward.test_bars", "105"),
        *("--walk_forward.seeds", "2", "--policy.width", "16", "--policy.heads", "2", "--policy.layers", "1"),
        *("--policy.window", "16", "--ppo.paths", "8", "--ppo.portfolios", "4", "--ppo.chunk", "32"),
        *("--training.steps", "100000"),
    ],
}
"""Beside the shipped configuration."""


def measured(result: backtest.WalkForward) -> dict[str, Any]:
    """What is recorded of a walk-forward."""
    found, out = result.summary["walk_forward"], result.summary["out_of_sample"]
    names = ("sharpe", "sharpe_ci", "total_return", "max_drawdown", "turnover", "costs", "n_bars")
    baselines = {who: {name: row.get(name) for name in names} for who, row in out["baseline"].items()}
    differences = {who: row["sharpe_difference_ci"] for who, row in out["baseline"].items()}
    kept = ("fold", "seed", "selected", "first", "last", "validation_sharpe", "sharpe", "sharpe_low", "sharpe_high")
    return {
        "span": [out["first_bar"], out["last_bar"], out["n_bars"]],
        "train": result.summary["train"],
        "paths": found["paths"],
        "selected": {name: out[name] for name in names},
        "baselines": baselines,
        "sharpe_differences": differences,
        "selection": found["selection"],
        "luck": result.summary["selection"]["out_of_sample"],
        "folds": [{name: row[name] for name in (*kept, "total_return", "max_drawdown")} for row in found["folds"]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("prices")
    parser.add_argument("--runs", default=None, help="folder for the walk-forward (default: a temporary one)")
    parser.add_argument("--resume", action="store_true", help="go on with the one in --runs, or evaluate it again")
    known, overrides = parser.parse_known_args()
    options = [*COMMON, *JOBS[known.job], "--data.path", known.prices, *overrides]
    config = jaxppo.load_config(CONFIG, options)
    runs = pathlib.Path(tempfile.mkdtemp() if known.runs is None else known.runs)
    result = backtest.walk_forward(config, output=runs / f"walk-forward-{known.job}", resume=known.resume)
    keys = {"config": CONFIG, "options": JOBS[known.job] + COMMON, "devices": len(jax.devices())}
    print(result.text)
    print(record(f"walk_forward_{known.job}", {**keys, **measured(result)}))


if __name__ == "__main__":
    main()
