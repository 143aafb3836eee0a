"""Where do the seconds of the first command go, from start to end, and did another commit take more?

    python -m benchmarks.quickstart [--against COMMIT] [--turns 2] [--config configs/quickstart.yaml] [--steps N]

Every turn is a process of its own, that of the README's first command without a cache of compiled programs; this
checkout and the other take turns. Of every phase that the command announces: wall time, and the CPU time of the process
(which counts where others use the machine too). `compiled` is XLA's time and its programs, wherever they fall. Medians
over the turns.
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
from typing import Any

from benchmarks.against_commit import ROOT, checkout, git
from benchmarks.recording import record

COMPILED = "/jax/core/compile/backend_compile_duration"
TURN = f"""
import json, sys, time, resource

marks, compiled = [], []

def mark(phase):
    used = resource.getrusage(resource.RUSAGE_SELF)
    marks.append((phase, time.perf_counter(), used.ru_utime + used.ru_stime))

class Phases:
    announce, hide = staticmethod(mark), staticmethod(lambda: None)

mark("imports")
import jax
from jaxppo.cli import run
from jaxppo.cli.commands.train import main
from jaxppo.run import progress

progress._shown.set(Phases)
progress.Progress.announce = lambda self, phase: mark(phase)
jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **of: compiled.append(seconds) if name == "{COMPILED}" else None
)
mark("data")
code = run(main)
mark("end")
spent = {{}}
for (phase, wall, cpu), (_, next_wall, next_cpu) in zip(marks, marks[1:]):
    before = spent.get(phase, (0.0, 0.0))
    spent[phase] = (before[0] + next_wall - wall, before[1] + next_cpu - cpu)
print(json.dumps({{"phases": spent, "compiled": (sum(compiled), len(compiled))}}))
sys.exit(code)
"""


def one_turn(root: pathlib.Path, arguments: list[str]) -> dict[str, Any]:
    """Seconds `(wall, CPU)` by phase and in all, and seconds and number of compiled programs, of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", TURN, *arguments, "--output", f"{folder}/run"]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.strip().splitlines()[-1])
    found = json.loads(done.stdout.splitlines()[-1])
    return {**found, "whole": [sum(x) for x in zip(*found["phases"].values(), strict=True)]}


def medians(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the turns of what `one_turn` returns."""

    def middle(rows: list[list[float]]) -> list[float]:
        return [round(statistics.median(row), 2) for row in zip(*rows, strict=True)]

    phases = {name: middle([turn["phases"][name] for turn in turns]) for name in turns[0]["phases"]}
    return {"phases": phases, **{name: middle([turn[name] for turn in turns]) for name in ("compiled", "whole")}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="COMMIT")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--steps", type=int)
    chosen = parser.parse_args()
    arguments = ["--config", chosen.config, *(["--training.steps", str(chosen.steps)] if chosen.steps else [])]
    turns: dict[str, list[dict[str, Any]]] = {"other": [], "this": []}
    with checkout(chosen.against) if chosen.against else contextlib.nullcontext(None) as other:
        for _ in range(chosen.turns):
            for name, root in (("other", other), ("this", ROOT)):
                if root is not None:
                    turns[name].append(one_turn(root, arguments))
                    print(name, "{:.1f} s, CPU {:.1f} s".format(*turns[name][-1]["whole"]), flush=True)
    found = {name: medians(rows) for name, rows in turns.items() if rows}
    for phase, (wall, cpu) in found["this"]["phases"].items():
        print(f"{phase:36}{wall:8.1f} s{cpu:8.1f} s CPU")
    commits = {"this": git("rev-parse", "HEAD")}
    if chosen.against:
        commits["other"] = git("rev-parse", chosen.against)
    print(f"wrote {record('quickstart', {'commits': commits, 'turns': chosen.turns, **found})}")


if __name__ == "__main__":
    main()
