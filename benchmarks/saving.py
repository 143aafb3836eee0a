"""What do saving and its checksums cost a training?

    python -m benchmarks.saving [--turns 4] [--steps 200000]

The training of `configs/quickstart.yaml`, with and without checksums in turns. What is counted in each: the time in
checkpoints (best and last), checksums, and the wait for rows of `metrics.jsonl` to be on the disk, as a share of the
loop of iterations and evaluations, compilation apart.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jaxppo
from benchmarks.recording import record
from jaxppo.run import checkpoints
from jaxppo.run.checkpoints import Checkpoints
from jaxppo.training import loggers, loop, trainer
from jaxppo.training.loggers import MetricsLog

ROOT = pathlib.Path(__file__).resolve().parents[1]


def counting(seconds: dict[str, float], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose time is added to `seconds[name]`."""

    @functools.wraps(function)
    def counted(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            seconds[name] += time.perf_counter() - began

    return counted


def no_digest(*_: Any) -> str:
    return ""


def one_turn(config: jaxppo.Config, *, checksums: bool) -> dict[str, float]:
    """Seconds of a training: of the loop, and therein of saving and of checksums.

    Args:
      config: of the run.
      checksums: whether they are computed.
    """
    seconds = {"loop": 0.0, "saving": 0.0, "checksums": 0.0, "compiling": 0.0}
    digest = counting(seconds, "checksums", checkpoints._digest) if checksums else no_digest
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(checkpoints, "_digest", digest),
        mock.patch.object(loggers, "_without_clock", loggers._without_clock if checksums else no_digest),
        mock.patch.object(Checkpoints, "save", counting(seconds, "saving", Checkpoints.save)),
        mock.patch.object(MetricsLog, "sync", counting(seconds, "saving", MetricsLog.sync)),
        mock.patch.object(loop, "_compile", counting(seconds, "compiling", loop._compile)),
        mock.patch.object(trainer, "train_until_spent", counting(seconds, "loop", trainer.train_until_spent)),
        mock.patch.object(trainer, "_finish", return_value={"train": {}}),
    ):
        evaluator = jaxppo.training.evaluator.backtest_evaluator
        jaxppo.train(
            config,
            output=pathlib.Path(folder) / "run",
            progress=False,
            evaluator=lambda setup, network: evaluator(setup, network)._replace(describe=lambda summary: ""),
        )
    return {**seconds, "loop": seconds["loop"] - seconds["compiling"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200_000)
    chosen = parser.parse_args()
    config = jaxppo.load_config(ROOT / "configs" / "quickstart.yaml", ["--training.steps", str(chosen.steps)])
    turns: dict[str, list[dict[str, float]]] = {"with": [], "without": []}
    one_turn(config, checksums=True)  # fills the caches of compilation
    for _ in range(chosen.turns):
        for name in turns:
            turns[name].append(one_turn(config, checksums=name == "with"))
            print(name, {key: round(value, 3) for key, value in turns[name][-1].items()}, flush=True)
    saving = [turn["saving"] / turn["loop"] for turn in turns["with"]]
    sums = [turn["checksums"] / turn["loop"] for turn in turns["with"]]
    content = {
        "steps": chosen.steps,
        "share_of_training": {"saving": statistics.median(saving), "checksums": statistics.median(sums)},
        "turns": {"saving": saving, "checksums": sums},
        "seconds": turns,
    }
    print(content["share_of_training"])
    print(f"wrote {record('saving', content)}")


if __name__ == "__main__":
    main()
