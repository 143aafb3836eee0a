"""Trains an agent: jaxppo train --config quickstart [--ppo.learning-rate 1e-4 ...]"""

from __future__ import annotations

import pathlib
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import jaxppo
from jaxppo.cli import announce_report, keeping_programs, parse_training, showing_phases
from jaxppo.errors import ConfigError
from jaxppo.run.resuming import resume_command

if TYPE_CHECKING:
    from jaxppo.config import Config

RATES = "{ppo.learning_rate: {log: [1e-4, 1e-2], n: 4}}"
"""What is swept after a run that has learned nothing."""
LARGEST_LIMIT = 1000


def next_commands(folder: pathlib.Path, config: Config) -> list[str]:
    """What to do with a finished run, as commands of a shell: other costs, other markets, and what can be shipped.

    Args:
      folder: of the run.
      config: of the run; what cannot be live is not exported.
    """
    from jaxppo.deploy.streams import check_configured  # imports JAX, which --help does not need

    run, policy = shlex.quote(str(folder)), shlex.quote(f"policies/{folder.name}")
    commands = [
        f"jaxppo backtest --run {run} --costs.commission-bps 10",
        f"jaxppo monte-carlo --run {run} --paths 1000",
    ]
    try:
        check_configured(config)
    except ConfigError:
        return commands
    return [*commands, f"jaxppo export --run {run} --output {policy}"]


def next_attempts(folder: pathlib.Path, config: Config, steps: int) -> list[str]:
    """What to try after a run that has learned nothing, as commands of a shell: longer, otherwise, on more.

    Args:
      folder: of the run.
      config: of the run.
      steps: environment steps that it was trained for.
    """
    saved, output = shlex.quote(str(folder / "config.yaml")), shlex.quote(f"{folder}-sweep")
    limit = config.env.position_limit
    wider = "" if limit is None else f" --env.position_limit {min(2 * limit, LARGEST_LIMIT):g}"
    return [
        f"{resume_command(folder)} --steps {4 * steps}",
        f"jaxppo sweep --config {saved} --output {output} --steps {steps} --sweep.parameters '{RATES}'{wider}",
        "jaxppo help features.columns",
    ]


def main(arguments: Sequence[str]) -> int | None:
    budgets = {"minutes": "train for N minutes of wall time; with --episodes, for what is spent first"}
    budgets |= {"episodes": "train for N episodes"}
    budgets |= {"steps": "train for N environment steps"}
    flags = {"profile": "trace a few iterations, into the folder profile, and say where the time went"}
    config, name, given = parse_training("train", __doc__, arguments, budgets, flags=flags, older=True, several=True)
    from jaxppo.backtest.beside import UNLEARNED
    from jaxppo.run.profile import profiling  # imports JAX, which --help does not need

    if config.sweep != type(config.sweep)() and not given.quiet:
        print("note: train does not read the section sweep; jaxppo sweep tries its values", file=sys.stderr)
    profiled = profiling() if given.profile else nullcontext()
    with showing_phases(given.quiet), keeping_programs(given.compilation_cache), profiled as profile:
        result = jaxppo.train(config, output=given.output, name=name, resume=given.resume, progress=not given.quiet)
    if result.summary is not None:
        print(result.text)
        announce_report(result.folder / "report.html", given.open)
        if config.env.name == "trading":
            tested, trained = result.summary.get("out_of_sample", {}), result.summary["train"]
            if any(note.startswith(UNLEARNED) for note in tested.get("notes", ())):
                attempts = next_attempts(result.folder, config, trained["env_steps"])
                print("next: train for longer, sweep at a wider limit, or add a signal", *attempts, sep="\n  ")
            else:
                print("next:", *next_commands(result.folder, config), sep="\n  ")
    if profile is not None:
        print(profile.describe())
    return result.signal
