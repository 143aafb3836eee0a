"""Sweep of hyper-parameters: jaxppo sweep --config sweep [--sweep.seeds 4 ...]

Trains agents that differ in the keys of sweep.parameters and in their seeds in one program, chooses one by validation
and tests it once. training.steps is the budget of each agent.
"""

from collections.abc import Sequence

import jaxppo
from jaxppo.cli import a_device_for_each_core, announce_report, keeping_programs, parse_training, showing_phases


def main(arguments: Sequence[str]) -> int | None:
    a_device_for_each_core()
    budgets = {"episodes": "train each agent for N episodes", "steps": "train each agent for N environment steps"}
    config, name, given = parse_training("sweep", __doc__, arguments, budgets)
    name = name if name.endswith("sweep") else f"{name}-sweep"
    with showing_phases(given.quiet), keeping_programs(given.compilation_cache):
        result = jaxppo.sweep.sweep(
            config, output=given.output, name=name, resume=given.resume, progress=not given.quiet
        )
    if result.summary is not None:
        print(result.text)
        announce_report(result.folder / "report.html", given.open)
    return result.signal
