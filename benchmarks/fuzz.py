"""Does every damaged configuration and price file end in one line, in time, without touching anything else?

    python -m benchmarks.fuzz [--configurations 250] [--prices 300] [--seed 0]

A configuration goes through `scripts/train.py` up to where it would begin to compile the training, a price file through
`load_market`. A fault is a traceback, more than one line, more than 10 s of the processor, a market whose prices cannot
be right, or a file that was not there before.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import importlib.util
import os
import pathlib
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import yaml

from benchmarks.mutations import Outcome, Reached, mutated_config, mutated_prices, outcome_of, prices
from benchmarks.recording import record
from jaxppo import envs
from jaxppo.cli import run
from jaxppo.config import Config
from jaxppo.envs.market.check import check_market
from jaxppo.training import trainer

ROOT = pathlib.Path(__file__).resolve().parents[1]
TREE: dict[str, Any] = {
    "seed": 7,
    "data": {"path": "prices.csv", "validation": 0.2},
    "features": {"groups": ["price"], "normalisation_window": 10},
    "env": {"levels": [-0.5, 0.0, 0.5, 1.0]},
    "masks": ["no_short", {"volatility_cap": {"target": 0.3}}],
    "sizing": [{"volatility_target": {"target": 0.2}}],
    "monitor": [{"drawdown": {"limit": 0.5}}],
    "policy": {"kind": "mlp", "width": 16, "layers": 1, "heads": 2, "window": 4},
    "ppo": {"paths": 8, "portfolios": 2, "chunk": 8, "epochs": 1, "minibatches": 2},
    "training": {"steps": 128, "devices": 1},
}
"""A configuration without mistakes, beside `prices.csv`."""


def script(name: str) -> Callable[..., int | None]:
    """The `main` of a script."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None, "the scripts lie beside the benchmarks"  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@contextlib.contextmanager
def nothing_trains(before: str = "trading_experiment") -> Iterator[None]:
    """Ends a training where no mistake was found: before the network is made, or before another step of the trainer."""
    reached = mock.Mock(side_effect=Reached)
    with mock.patch.object(trainer, before, reached), mock.patch.object(trainer, "gymnax_experiment", reached):
        yield


def content(folder: pathlib.Path) -> dict[str, int]:
    """Files and folders under a folder, and when they were last written."""
    return {str(path.relative_to(folder)): path.lstat().st_mtime_ns for path in folder.rglob("*")}


def fuzz_configuration(seed: int, folder: pathlib.Path) -> Outcome:
    """What a training makes of the mutated configuration of a seed.

    Args:
      seed: of the mutation.
      folder: the working directory; holds `prices.csv`.
    """
    path = folder / "mutated.yaml"
    path.write_bytes(mutated_config(np.random.default_rng(seed), TREE, Config))
    before = content(folder)
    found = outcome_of(lambda: run(script("train"), ["--config", str(path), "--output", str(folder / "run")]))
    return _untouched(found, before, content(folder))


def fuzz_prices(seed: int, folder: pathlib.Path) -> Outcome:
    """What the loader makes of the mutated price file of a seed.

    Args:
      seed: of the mutation.
      folder: for the file; nothing else may be in it.
    """
    suffix, data = mutated_prices(np.random.default_rng(seed), prices())
    path = folder / f"prices{suffix}"
    path.write_bytes(data)
    before = content(folder)

    def load() -> None:
        market = envs.load_market(path)
        try:
            check_market(market)
        except envs.DataError as error:
            raise AssertionError(f"accepted, though {error}") from None

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = _untouched(outcome_of(load), before, content(folder))
    path.unlink()
    return found


def _untouched(found: Outcome, before: dict[str, int], after: dict[str, int]) -> Outcome:
    """The outcome, or a fault where something was written."""
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    return found._replace(kind="fault", text=f"wrote {sorted(changed)}") if changed else found


def _written(folder: pathlib.Path, tree: dict[str, Any]) -> pathlib.Path:
    """A configuration as a file."""
    path = folder / "mutated.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def many(of: Callable[[int], Outcome], seeds: range) -> dict[str, Any]:
    """Counts the outcomes of seeds, and prints the faults."""
    found = {}
    for seed in seeds:
        found[seed] = outcome = of(seed)
        if outcome.kind == "fault":
            print(f"seed {seed}: {outcome.text}", flush=True)
    return {
        "tried": len(found),
        **collections.Counter(outcome.kind for outcome in found.values()),
        "faults": {str(seed): outcome.text for seed, outcome in found.items() if outcome.kind == "fault"},
        "seconds": {
            "longest": max((outcome.seconds for outcome in found.values()), default=0.0),
            "all": sum(outcome.seconds for outcome in found.values()),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configurations", type=int, default=250)
    parser.add_argument("--prices", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="of the first mutation")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, nothing_trains():
        folder = pathlib.Path(name)
        os.chdir(folder)
        prices(300).to_csv("prices.csv", index=False)
        warm = outcome_of(lambda: run(script("train"), ["--config", str(_written(folder, TREE)), "--output", "run"]))
        assert warm.kind == "accepted", f"the configuration to mutate is wrong: {warm.text}"
        of_config = functools.partial(fuzz_configuration, folder=folder)
        configurations = many(of_config, range(chosen.seed, chosen.seed + chosen.configurations))
        (folder / "prices").mkdir()
        of_prices = functools.partial(fuzz_prices, folder=folder / "prices")
        tables = many(of_prices, range(chosen.seed, chosen.seed + chosen.prices))
        os.chdir(ROOT)
    print({name: {k: v for k, v in part.items() if k != "faults"} for name, part in
           (("configurations", configurations), ("prices", tables))})  # fmt: skip
    print(f"wrote {record('fuzz', {'configurations': configurations, 'prices': tables})}")


if __name__ == "__main__":
    main()
