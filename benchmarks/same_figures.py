"""Are the figures of this checkout those of another commit?

    python -m benchmarks.same_figures COMMIT [--only NAME ...]

Runs the same small jobs in both checkouts, each in a process of its own, and compares every number that they leave:
the quick start, a Monte Carlo job and a walk-forward of it, a run with every mask, a book of rules, and the reference
problems. Names of figures are not compared, so that a figure may be renamed; their values and their order are.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.against_commit import ROOT, checkout, git
from benchmarks.recording import record

WALL_CLOCK = ("seconds", "steps_per_second", "compile_seconds", "paths_per_second", "wall_seconds", "batch_seconds")
SMALL = ("--training.evaluate_every", "2")
RUNS = "same_figures"
BOOK = """[{book: {strategies: [agent, buy_and_hold, {trend: {lookback: 120}}, {mean_reversion: {window: 20}},
 inverse_volatility]}}]"""
REFERENCE = """
import json, sys
import jax, jax.numpy as jnp
try:
    from jaxppo.envs import reference
except ImportError:
    from envs import reference
found = {}
for name in reference.__all__:
    problem = getattr(reference, name)
    if not isinstance(problem, type):
        continue
    try:
        problem = problem()
        key, env, params = jax.random.key(3), problem.env, problem.params
        observation, state = env.reset(key, params)
        rewards = []
        for step in range(12):
            action = problem.optimal_action(state)
            observation, state, reward, *_ = env.step(jax.random.fold_in(key, step), state, action, params)
            rewards.append(float(reward))
        found[name] = [float(jnp.sum(problem.optimal_value())), *rewards]
    except TypeError as error:
        found[name] = [str(error)[:60]]
print(json.dumps(found))
"""


def jobs(runs: str) -> dict[str, list[str]]:
    """Name -> command, in order; later jobs read the folders of earlier ones."""
    quick = ["scripts/train.py", "--config", "configs/quickstart.yaml", *SMALL]
    walk = ["scripts/walk_forward.py", "--config", "configs/quickstart.yaml", *SMALL, "--steps", "32768"]
    folds = ["--walk_forward.train_bars", "1500", "--walk_forward.test_bars", "800"]
    again = ["scripts/backtest.py", "--run", f"{runs}/quickstart", "--costs.commission-bps", "7"]
    paths = ["scripts/monte_carlo.py", "--run", f"{runs}/quickstart", "--paths", "128", "--bars", "200"]
    limits, target = (["scripts/train.py", "--config", f"configs/{name}.yaml", *SMALL] for name in ("limits", "target"))
    commands = {
        "quickstart": [*quick, "--steps", "65536"],
        "backtest": again,
        "monte_carlo": paths,
        "walk_forward": [*walk, *folds],
        "limits": [*limits, "--steps", "32768"],
        "target": [*target, "--steps", "32768"],
        "book": [*quick, "--steps", "32768", "--sizing", BOOK],
    }
    found = {name: [*command, "--output", f"{runs}/{name}"] for name, command in commands.items()}
    return {**found, "reference": ["-c", REFERENCE]}


def numbers(value: Any) -> Iterator[float]:
    """All numbers of a parsed JSON document in its order, wall-clock times left out."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name not in WALL_CLOCK:
                yield from numbers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner)
    elif isinstance(value, bool) or value is None:
        yield float(bool(value))
    elif isinstance(value, (int, float)):
        yield float(value)


def figures_of(folder: pathlib.Path) -> dict[str, list[float]]:
    """File -> all numbers that a job left in it."""
    found = {}
    for path in sorted(folder.rglob("*.json")):
        if path.name == "summary.json":
            found[str(path.relative_to(folder))] = list(numbers(json.loads(path.read_text())))
    for path in sorted(folder.rglob("metrics.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found[str(path.relative_to(folder))] = list(numbers(rows))
    for path in sorted(folder.rglob("*.parquet")):
        table = pd.read_parquet(path).select_dtypes("number")
        digest = hashlib.sha256(np.ascontiguousarray(table.to_numpy(np.float64)).tobytes()).digest()
        sums = [float(x) for x in table.to_numpy(np.float64).sum(axis=0)]
        found[str(path.relative_to(folder))] = [float(int.from_bytes(digest[:6], "big")), *sums]
    return found


def run_jobs(root: pathlib.Path, only: list[str]) -> dict[str, dict[str, list[float]]]:
    """Job -> file -> numbers, of one checkout."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with tempfile.TemporaryDirectory() as folder:
        runs = pathlib.Path(folder) / RUNS
        runs.mkdir()
        found = {}
        for name, command in jobs(str(runs)).items():
            if only and name not in only:
                continue
            done = subprocess.run([sys.executable, *command], cwd=root, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{name} in {root} failed:\n{done.stderr[-4000:]}")
            if name == "reference":
                found[name] = {key: list(numbers(row)) for key, row in json.loads(done.stdout).items()}
            else:
                found[name] = figures_of(runs / name)
            print(root.name, name, sum(map(len, found[name].values())), "numbers", flush=True)
        return found


def compare(ours: dict[str, list[float]], theirs: dict[str, list[float]]) -> dict[str, Any]:
    """How many numbers there are, how many are not bit-equal, and the largest relative difference; NaN equals NaN."""
    if {name: len(row) for name, row in ours.items()} != {name: len(row) for name, row in theirs.items()}:
        counts = {name: (len(ours.get(name, ())), len(theirs.get(name, ()))) for name in {**ours, **theirs}}
        return {"other_numbers_here_and_there": {name: pair for name, pair in counts.items() if pair[0] != pair[1]}}
    total, different, worst = 0, 0, 0.0
    for name, row in ours.items():
        for here, there in zip(row, theirs[name], strict=True):
            total += 1
            if here != there and not (math.isnan(here) and math.isnan(there)):
                different += 1
                worst = max(worst, abs(here - there) / max(abs(there), 1e-12))
    return {"numbers": total, "not_bit_equal": different, "largest_relative_difference": worst}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--save", metavar="FILE", help="only run COMMIT, and write its numbers")
    parser.add_argument("--saved", metavar="FILE", help="numbers of COMMIT from --save, in place of running it again")
    chosen = parser.parse_args()
    if chosen.saved:
        theirs = json.loads(pathlib.Path(chosen.saved).read_text())
    else:
        with checkout(chosen.commit) as other:
            theirs = run_jobs(other, chosen.only)
    if chosen.save:
        pathlib.Path(chosen.save).write_text(json.dumps(theirs))
        return
    ours = run_jobs(ROOT, chosen.only)
    found = {name: compare(ours[name], theirs[name]) for name in ours}
    print(json.dumps(found, indent=2))
    content = {"commits": {"this": git("rev-parse", "HEAD"), "other": git("rev-parse", chosen.commit)}, "jobs": found}
    print(f"wrote {record('same_figures', content)}")


if __name__ == "__main__":
    main()
