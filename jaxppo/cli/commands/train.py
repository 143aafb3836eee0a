"""Trains an agent: jaxppo train --config quickstart [--ppo.learning-rate 1e-4 ...]"""

import pathlib
import shlex
from collections.abc import Sequence
from contextlib import nullcontext

import jaxppo
from jaxppo.cli import announce_report, keeping_programs, parse_training, showing_phases


def next_commands(folder: pathlib.Path) -> list[str]:
    """What to do with a finished run, as commands of a shell: other costs, other markets, and what can be shipped."""
    run, policy = shlex.quote(str(folder)), shlex.quote(f"policies/{folder.name}")
    return [
        f"jaxppo backtest --run {run} --costs.commission-bps 10",
        f"jaxppo monte-carlo --run {run} --paths 1000",
        f"jaxppo export --run {run} --output {policy}",
    ]


def main(arguments: Sequence[str]) -> int | None:
    budgets = {"minutes": "train for N minutes of wall time; with --episodes, for what is spent first"}
    budgets |= {"episodes": "train for N episodes"}
    budgets |= {"steps": "train for N environment steps"}
    flags = {"profile": "trace a few iterations, into the folder profile, and say where the time went"}
    config, name, given = parse_training("train", __doc__, arguments, budgets, flags=flags, older=True, several=True)
    from jaxppo.run.profile import profiling  # imports JAX, which --help does not need

    profiled = profiling() if given.profile else nullcontext()
    with showing_phases(given.quiet), keeping_programs(given.compilation_cache), profiled as profile:
        result = jaxppo.train(config, output=given.output, name=name, resume=given.resume, progress=not given.quiet)
    if result.summary is not None:
        print(result.text)
        announce_report(result.folder / "report.html", given.open)
        if config.env.name == "trading":
            print("next:", *next_commands(result.folder), sep="\n  ")
    if profile is not None:
        print(profile.describe())
    return result.signal
