"""Walk-forward of a run: jaxppo walk-forward --config quickstart [--walk_forward.seeds 3 ...]

Trains agents on every fold of the bars in one program and trades what follows with them. The keys of walk_forward say
how the bars are split; training.steps is the budget of each agent.
"""

from collections.abc import Sequence

import jaxppo
from jaxppo.cli import a_device_for_each_core, announce_report, keeping_programs, parse_training, showing_phases


def main(arguments: Sequence[str]) -> int | None:
    a_device_for_each_core()
    budgets = {"episodes": "train each agent for N episodes", "steps": "train each agent for N environment steps"}
    config, name, given = parse_training("walk-forward", __doc__, arguments, budgets)
    with showing_phases(given.quiet), keeping_programs(given.compilation_cache):
        result = jaxppo.walk_forward.walk_forward(
            config,
            output=given.output,
            name=f"{name}-walk-forward",
            resume=given.resume,
            progress=not given.quiet,
        )
    if result.summary is not None:
        print(result.text)
        announce_report(result.folder / "report.html", given.open)
    return result.signal
