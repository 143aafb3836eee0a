"""What several training iterations in one call save, beside one a call with its figures fetched after each.

    python -m benchmarks.calls [--turns 8]

Three sizes take turns in one process: 4 paths of 8 bars, the planted market, and the quick start. Run it alone on the
machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.recording import record
from jaxppo.config import load_config
from jaxppo.ppo import data_mesh, make_learner
from jaxppo.run.build import build
from jaxppo.run.data import load_data
from jaxppo.run.setup import pathwise_of
from jaxppo.training.calls import arguments, several_iterations
from jaxppo.training.evaluator import backtest_evaluator
from jaxppo.training.experiment import trading_experiment

SMALL = ["planted", "--ppo.paths", "4", "--ppo.chunk", "8", "--simulation.n_bars", "2000"]
SIZES = {"small": (SMALL, 64), "planted": (["planted"], 32), "quick start": (["quickstart"], 4)}
"""Name -> configuration with overrides, and iterations of a turn."""


def programs_of(words: list[str], n: int) -> dict[str, Callable[[], None]]:
    """Functions of one turn, n iterations each, which carry their state on: one a call, and all in one.

    Args:
      words: configuration and overrides.
      n: iterations.
    """
    config = load_config(words[0], words[1:])
    experiment = trading_experiment(build(config, load_data(config)), backtest_evaluator)
    learner = make_learner(
        experiment.task, experiment.ppo, data_mesh(experiment.devices), experiment.risk, pathwise_of(config)
    )
    params, program = learner.replicate(experiment.params), several_iterations(learner, ())
    states: dict[str, Any] = {name: learner.init(experiment.net, 0, experiment.params) for name in ("one", "several")}

    def one() -> None:
        for _ in range(n):
            states["one"], metrics = learner.iterate(states["one"], params, np.float32(0.0))
            _ = {name: float(value) for name, value in jax.device_get(metrics).items()}

    def several() -> None:
        states["several"], rows, _ = program(states["several"], params, *arguments([0.0] * n))
        jax.device_get(rows)

    return {"one": one, "several": several}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=8)
    turns = parser.parse_args().turns
    found = {}
    for size, (words, n) in SIZES.items():
        programs, seconds = programs_of(words, n), {"one": [], "several": []}
        for turn in range(turns + 1):
            for name, run in programs.items():
                began = time.perf_counter()
                run()
                if turn:  # the first one compiles
                    seconds[name].append((time.perf_counter() - began) / n)
        ratios = [one / several for one, several in zip(seconds["one"], seconds["several"], strict=True)]
        found[size] = {"iterations": n, "faster": statistics.median(ratios), "of_turns": ratios, "seconds": seconds}
        print(f"{size}: {n} in one call are {found[size]['faster']:.2f} times as fast", flush=True)
    print(record("calls", {"sizes": found}))


if __name__ == "__main__":
    main()
