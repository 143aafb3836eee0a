"""What the tests of whole runs share: a configuration and prices so small that a run takes seconds, and the scripts."""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import importlib.util
import json
import os
import pathlib
import types
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
import yaml
from folders import ROOT

from jaxppo import Config
from jaxppo.cli.command import run
from jaxppo.config import EvaluationConfig, validate_config
from jaxppo.config.tracking import TrackingConfig
from jaxppo.envs.market.market_data import MarketData
from jaxppo.ppo.learner import make_learner
from jaxppo.ppo.trading_task import trading_task
from jaxppo.run.build import build as build_run
from jaxppo.run.data import load_data
from jaxppo.training import experiment, fitting, trainer
from jaxppo.training.calls import several_iterations

SHARED_DATA = ROOT.parent / "shared" / "data"
TINY = {
    "seed": 7,
    "data": {"path": "prices.csv", "validation": 0.15},
    "features": {"groups": ["price"], "normalisation_window": 20},
    "env": {"levels": [-0.5, 0.0, 0.5, 1.0]},
    "policy": {"kind": "mlp", "width": 16, "layers": 1, "heads": 2, "window": 4},
    "ppo": {
        "paths": 8,
        "portfolios": 2,
        "chunk": 8,
        "epochs": 1,
        "minibatches": 2,
        "learning_rate": 0.01,
        "schedule": "constant",
    },
    "training": {"steps": 6 * 128, "evaluate_every": 2, "checkpoint_every": 3, "devices": 1},
    "evaluation": {"bootstrap_resamples": 100, "decision": "mean"},
}
STEPS_PER_ITERATION = 8 * 2 * 8
N_BARS = 420


@pytest.fixture(scope="module")
def shared_builds():
    """Runs that differ in their budget, their seed or where they are tracked share tables and compiled functions."""

    def build(config, market):
        training = config.training.model_copy(update=NO_BUDGET)
        same = {"seed": 0, "training": training, "evaluation": EvaluationConfig(), "tracking": TrackingConfig()}
        same = config.model_copy(update=same)
        built = _setup(same, _Same(market))
        decided = {name: getattr(built.config, name) for name in ("policy", "regimes")}
        return dataclasses.replace(built, config=config.model_copy(update=decided))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "load_data", lambda config, folder=None: _market(config.data))
        patch.setattr(trainer, "make_learner", _learner)
        patch.setattr(fitting, "several_iterations", _program)
        patch.setattr(experiment, "trading_task", _task)
        patch.setattr(trainer, "build", build)
        yield


NO_BUDGET = {"steps": 1, "episodes": None, "minutes": None, "evaluate_every": 1, "checkpoint_every": 1}
_market = functools.cache(lambda data: load_data(tiny_config().model_copy(update={"data": data})))
_learner = functools.cache(make_learner)
_program = functools.cache(several_iterations)
_task = functools.cache(trading_task)


@dataclasses.dataclass(frozen=True)
class _Same:
    """A market as a cache key: the same object."""

    market: MarketData

    def __eq__(self, other):
        return self.market is other.market

    def __hash__(self):
        return id(self.market)


@functools.cache
def _setup(config, same):
    return build_run(config, same.market)


def load(path: str) -> types.ModuleType:
    """A Python file of the repository that is not part of a package, by its path from the root."""
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(script: str, *arguments: str | pathlib.Path) -> int:
    """Exit code of a script, run in this process."""
    return run(load(f"scripts/{script}.py").main, [str(argument) for argument in arguments])


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[pathlib.Path], Any]) -> pathlib.Path:
    """A folder of the whole session that one of its processes fills and all read; no test may write into it."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, made = base / name, base / f"{name}.made"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


def merged(**sections: Any) -> dict[str, Any]:
    """`TINY` with some keys changed; a budget replaces the one there."""
    tree = json.loads(json.dumps(TINY))
    for name, value in sections.items():
        if name == "training" and {"steps", "episodes", "minutes"} & set(value):
            del tree["training"]["steps"]
        tree[name] = {**tree.get(name, {}), **value} if isinstance(value, dict) else value
    return tree


def tiny_config(**sections: Any) -> Config:
    """`merged` as a configuration."""
    return validate_config(merged(**sections))


def write_config(folder: pathlib.Path, **sections: Any) -> pathlib.Path:
    """`merged` as `tiny.yaml` beside `prices.csv` in a folder."""
    write_prices(folder / "prices.csv")
    sections["data"] = {"path": str(folder / "prices.csv"), **sections.get("data", {})}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(merged(**sections)), encoding="utf-8")
    return path


def prices(n_bars: int = N_BARS, symbols: tuple[str, ...] = ("AAA", "BBB"), seed: int = 0) -> pd.DataFrame:
    """Clean daily bars of a random walk, long form."""
    draws = np.random.default_rng(seed)
    frames = []
    for symbol in symbols:
        close = 50.0 * np.exp(np.cumsum(draws.normal(0.0003, 0.012, n_bars)))
        open_ = close * np.exp(draws.normal(0.0, 0.005, n_bars))
        reach = 1.0 + np.abs(draws.normal(0.0, 0.004, n_bars))
        frames.append(
            pd.DataFrame(
                {
                    "date": pd.bdate_range("2015-01-01", periods=n_bars).strftime("%Y-%m-%d"),
                    "symbol": symbol,
                    "open": open_,
                    "high": np.maximum(open_, close) * reach,
                    "low": np.minimum(open_, close) / reach,
                    "close": close,
                    "volume": draws.integers(500_000, 5_000_000, n_bars),
                }
            )
        )
    return pd.concat(frames)


def write_prices(path: pathlib.Path, **options: Any) -> pathlib.Path:
    """`prices` as a CSV file."""
    prices(**options).to_csv(path, index=False)
    return path


def snapshot(folder: pathlib.Path) -> dict[str, bytes | None]:
    """Everything under a folder: content of files, None for folders."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def assert_trees_equal(one: Any, other: Any) -> None:
    """Bit-equality of two pytrees of arrays."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(left), np.asarray(right))
