"""Trains an agent: jaxppo train --config quickstart [--ppo.learning-rate 1e-4 ...]"""

from collections.abc import Sequence
from contextlib import nullcontext

import jaxppo
from jaxppo.cli import announce_report, keeping_programs, parse_training, showing_phases


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
    if profile is not None:
        print(profile.describe())
    return result.signal
