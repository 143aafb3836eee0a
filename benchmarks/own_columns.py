"""A signal that is planted in a column of one's own, learned from a configuration file alone.

    python -m benchmarks.own_columns [--steps N] [--seeds N]

Four assets, 2,500 daily bars, no costs. The move of bar t + 1 is `0.1 s_t` of its deviation, with the column `s`
standard normal and known at the close of t; nothing else of the prices helps. The best position in an asset is
proportional to `s_t`. The Sharpe ratio of the agent in the test period is divided by that of this position, and of the
nearest one that the action space has.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile
from typing import Any

import numpy as np
import pandas as pd
import yaml

import jaxppo
from benchmarks.recording import record

SYMBOLS, N_BARS, DEVIATION, STRENGTH, PERIODS = ("A", "B", "C", "D"), 2500, 0.01, 0.1, 252.0
CONFIG: dict[str, Any] = {
    "data": {"path": "prices.csv", "train": 0.6, "validation": 0.2},
    "features": {"groups": ["price"], "columns": {"signal": ["score"]}},
    "env": {"actions": "continuous", "levels": [-1.0, 1.0], "risk_aversion": 40.0},
    "costs": {"commission_bps": 0.0, "spread_multiplier": 0.0, "slippage": 0.0, "impact": 0.0, "borrow_rate": 0.0},
    "policy": {"kind": "linear", "window": 2},
    "ppo": {"paths": 32, "portfolios": 8, "chunk": 64},
    "training": {"evaluate_every": 5, "learner": "pathwise"},
}


def planted(seed: int) -> pd.DataFrame:
    """Prices in long form, with the column; an order that is decided at one close fills at the next open."""
    rng = np.random.default_rng(seed)
    score = rng.standard_normal((N_BARS, len(SYMBOLS)))
    known = np.vstack([np.zeros(len(SYMBOLS)), score[:-1]])
    moves = DEVIATION * (STRENGTH * known + np.sqrt(1 - STRENGTH**2) * rng.standard_normal(score.shape))
    close = 50.0 * np.exp(np.cumsum(moves, axis=0))
    opened = np.vstack([np.full(len(SYMBOLS), 50.0), close[:-1]])
    reach = 1.0 + np.abs(rng.normal(0.0, 0.002, score.shape))
    days = pd.bdate_range("2010-01-04", periods=N_BARS)
    parts = [
        pd.DataFrame(
            {
                "date": days,
                "symbol": symbol,
                "open": opened[:, i],
                "high": np.maximum(opened, close)[:, i] * reach[:, i],
                "low": np.minimum(opened, close)[:, i] / reach[:, i],
                "close": close[:, i],
                "volume": 1e7,
                "score": score[:, i],
            }
        )
        for i, symbol in enumerate(SYMBOLS)
    ]
    return pd.concat(parts)


def best(prices: pd.DataFrame, first: pd.Timestamp, limit: float | None) -> float:
    """Sharpe ratio a year of positions proportional to the column, cut at `limit` deviations of it."""
    wide = {name: prices.pivot(index="date", columns="symbol", values=name) for name in ("open", "close", "score")}
    moves = (wide["close"] / wide["open"] - 1.0).shift(-1)
    held = wide["score"] if limit is None else wide["score"].clip(-limit, limit)
    gains = (held * moves).sum(axis=1)[wide["score"].index >= first].iloc[:-1]
    return float(gains.mean() / gains.std() * PERIODS**0.5)


def learned(seed: int, steps: int, folder: pathlib.Path) -> dict[str, float]:
    """Trains from a file, and compares the test period."""
    prices = planted(seed)
    prices.to_csv(folder / "prices.csv", index=False)
    tree = {**CONFIG, "seed": seed, "training": {**CONFIG["training"], "steps": steps}}
    tree["data"] = {**CONFIG["data"], "path": str(folder / "prices.csv")}
    (folder / "signal.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    jaxppo.train(jaxppo.load_config(folder / "signal.yaml"), output=folder / "run")
    summary = json.loads((folder / "run" / "summary.json").read_text(encoding="utf-8"))
    first = prices["date"].unique()[int(0.8 * N_BARS)]
    found = {"agent": summary["out_of_sample"]["sharpe"], "best": best(prices, first, None)}
    return found | {"best_within_two_deviations": best(prices, first, 2.0)}


def main() -> None:
    """Trains once a seed, and records the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500_000, help="environment steps of each training")
    parser.add_argument("--seeds", type=int, default=3, help="prices and trainings")
    given = parser.parse_args()
    runs = []
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(learned(seed, given.steps, pathlib.Path(folder)))
        print(runs[-1], flush=True)
    mean = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
    record("own_columns", {"steps": given.steps, "runs": runs, "mean": mean, "share": mean["agent"] / mean["best"]})


if __name__ == "__main__":
    main()
