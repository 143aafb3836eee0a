"""Walk-forward of a run: python scripts/walk_forward.py --config configs/quickstart.yaml [--walk_forward.seeds 3 ...]

Trains agents on every fold of the bars in one program and trades what follows with them. The keys of walk_forward say
how the bars are split; training.steps is the budget of each agent.
"""

import os
import sys
from collections.abc import Sequence

os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(os.cpu_count() or 1))  # before JAX counts them: a device for each core

import jaxppo
from jaxppo.cli import parse_training, run


def main(arguments: Sequence[str]) -> int | None:
    budgets = {"episodes": "train each agent for N episodes", "steps": "train each agent for N environment steps"}
    config, name, given = parse_training(__doc__, arguments, budgets)
    result = jaxppo.walk_forward.walk_forward(
        config, output=given.output, name=f"{name}-walk-forward", resume=given.resume
    )
    if result.summary is not None:
        print(result.text)
        print(f"report: {result.folder / 'report.html'}")
    return result.signal


if __name__ == "__main__":
    sys.exit(run(main))
