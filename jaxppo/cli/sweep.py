"""The command that sweeps hyper-parameters."""

from __future__ import annotations

from collections.abc import Sequence

from jaxppo.cli.command import parse_training

DESCRIPTION = """\
Sweep of hyper-parameters: python scripts/sweep.py --config configs/sweep.yaml [--sweep.seeds 4 ...]

Trains agents that differ in the keys of sweep.parameters and in their seeds in one program, chooses one by validation
and tests it once. training.steps is the budget of each agent.
"""


def main(arguments: Sequence[str]) -> int | None:
    """Runs a sweep, and says what it found.

    Args:
      arguments: of the command line.

    Returns:
      The number of the signal that stopped it, if one did.
    """
    budgets = {"episodes": "train each agent for N episodes", "steps": "train each agent for N environment steps"}
    config, name, given = parse_training(DESCRIPTION, arguments, budgets)
    from jaxppo.sweep import sweep  # imports JAX, which --help does not need

    name = name if name.endswith("sweep") else f"{name}-sweep"
    result = sweep(config, output=given.output, name=name, resume=given.resume)
    if result.summary is not None:
        print(result.text)
        print(f"report: {result.folder / 'report.html'}")
    return result.signal
