"""Is it as fast as it was at another commit?

    python -m benchmarks.against_commit COMMIT [--turns 4] [--portfolios 1] [--monte-carlo KIND]

The transformer of `benchmarks.throughput` (window 64, width 64, 64 paths x 128 bars), this checkout and the other in
turns, every turn a process of its own that compiles and then takes 12 iterations; its median counts. With
`--monte-carlo` a turn is a whole job of `benchmarks.monte_carlo` with 10,000 paths of a rule instead.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from benchmarks.recording import record

ROOT = pathlib.Path(__file__).resolve().parents[1]
PATHS = 10_000
TURN = """
import json, time, jax, jax.numpy as jnp
from benchmarks.throughput import trading_learner
learner, state, params = trading_learner("chunk", 64, 64, {portfolios}, 4, 64)
seconds = []
for _ in range(13):
    started = time.perf_counter()
    state, metrics = learner.iterate(state, params, jnp.float32(0.0))
    jax.block_until_ready((state, metrics))
    seconds.append(time.perf_counter() - started)
print(json.dumps(seconds[1:]))
"""


def one_turn(root: pathlib.Path, portfolios: int) -> list[float]:
    """Seconds of the iterations of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", TURN.format(portfolios=portfolios)]
    done = subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def one_job(root: pathlib.Path, kind: str) -> list[float]:
    """Seconds of a Monte Carlo job of a checkout, without its compilation."""
    command = [sys.executable, "-m", "benchmarks.monte_carlo", "--job", kind, "--paths", str(PATHS)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True, text=True)
    return [json.loads(done.stdout.splitlines()[-1])["seconds"]]


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def checkout(commit: str) -> Iterator[pathlib.Path]:
    """A checkout of another commit, removed again at the end."""
    with tempfile.TemporaryDirectory() as folder:
        other = pathlib.Path(folder) / "checkout"
        git("worktree", "add", "--detach", str(other), commit)
        try:
            yield other
        finally:
            git("worktree", "remove", "--force", str(other))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--portfolios", type=int, default=1)
    parser.add_argument("--monte-carlo", metavar="KIND", choices=("equal_weight", "trend"))
    chosen = parser.parse_args()
    seconds: dict[str, list[list[float]]] = {"this": [], "other": []}
    with checkout(chosen.commit) as other:
        for _ in range(chosen.turns):
            for name, root in (("other", other), ("this", ROOT)):
                turn = one_job(root, chosen.monte_carlo) if chosen.monte_carlo else one_turn(root, chosen.portfolios)
                seconds[name].append(turn)
                print(name, round(statistics.median(seconds[name][-1]), 3), flush=True)
    medians = {name: [statistics.median(turn) for turn in turns] for name, turns in seconds.items()}
    speed = [old / new for old, new in zip(medians["other"], medians["this"], strict=True)]
    print("speed, of the other commit's:", [round(x, 3) for x in speed])
    content = {
        "commits": {"this": git("rev-parse", "HEAD"), "other": git("rev-parse", chosen.commit)},
        **({"monte_carlo": chosen.monte_carlo} if chosen.monte_carlo else {"portfolios": chosen.portfolios}),
        "speed_over_other": {"median": statistics.median(speed), "turns": speed},
        "median_seconds": medians,
        "seconds": seconds,
    }
    name = (
        f"against_commit_{'monte_carlo_' if chosen.monte_carlo else ''}{git('rev-parse', '--short=7', chosen.commit)}"
    )
    print(f"wrote {record(name, content)}")


if __name__ == "__main__":
    main()
