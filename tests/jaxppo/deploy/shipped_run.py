"""A tiny run that trades under many limits, and its prices as the records of a feed."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pandas as pd
from tiny_run import STEPS_PER_ITERATION, command, write_config

SYMBOLS = ("AAA", "BBB")
LIMITED = {
    "data": {"funding": "rate"},
    "features": {
        "columns": {"news": {"columns": ["sentiment"], "lag": 1}},
        "functions": {"slope": {"function": "own_parts:slope", "options": {"span": 7}, "warmup": 7}},
    },
    "policy": {"kind": "own_networks:Convolution", "options": {"size": 2}},
    "env": {"actions": "continuous", "levels": [-1.0, 1.0], "position_limit": 1.0},
    "costs": {"lot_size": 1.0, "minimum_notional": 100.0, "max_leverage": 1.5},
    "masks": [
        {"volatility_cap": {"target": 0.15, "span": 10}},
        {"holding_period": {"minimum": 2, "maximum": 15}},
        {"turnover": {"limit": 0.8, "window": 3}},
        {"liquidity": {"participation": 0.5, "span": 5}},
        {"risk_budget": {"gross": 1.2, "volatility": 0.3, "span": 12}},
        {"own_parts:calm_only": {"level": 0.012}},
    ],
    "sizing": [{"own_parts:shrunk": {"factor": 0.9}}, {"volatility_target": {"target": 0.12, "span": 12}}],
    "monitor": [{"drawdown": {"limit": 0.2, "stop": True}}],
}


def make_run(folder: pathlib.Path, **sections: Any) -> pathlib.Path:
    """A run of two iterations in a folder, beside `prices.csv`."""
    training = {"steps": 2 * STEPS_PER_ITERATION, "evaluate_every": 1, "checkpoint_every": 1}
    config = write_config(folder, **{**LIMITED, "training": training, **sections})
    add_columns(folder / "prices.csv")
    assert command("train", "--config", config, "--output", folder / "run") == 0
    return folder / "run"


def add_columns(path: pathlib.Path) -> None:
    """Adds a column of one's own and one of funding to a price file in long form; a third of the cells are empty."""
    frame, rng = pd.read_csv(path), np.random.default_rng(5)
    score = rng.normal(size=len(frame))
    score[rng.random(len(frame)) >= 0.66] = np.nan
    rate = np.where(rng.random(len(frame)) < 0.66, rng.normal(0, 1e-3, len(frame)), np.nan)
    frame.assign(sentiment=score, rate=rate).to_csv(path, index=False)


def records_of(path: pathlib.Path) -> list[dict[str, Any]]:
    """The records of a price file in long form, in order of time."""
    frame = pd.read_csv(path)
    names = [name for name in frame.columns if name not in ("date", "symbol")]
    return [
        {"time": str(date), "bars": {row["symbol"]: {name: row[name] for name in names} for _, row in part.iterrows()}}
        for date, part in frame.groupby("date", sort=True)
    ]
