"""Walk-forward of a run: python scripts/walk_forward.py --config configs/quickstart.yaml [--walk_forward.seeds 3 ...]

Trains agents on every fold of the bars in one program and trades what follows with them. The keys of walk_forward say
how the bars are split; training.steps is the budget of each agent.
"""

import os
import pathlib
import sys
from collections.abc import Sequence

os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(os.cpu_count() or 1))  # before JAX counts them: a device for each core

import jaxppo
from jaxppo.backtest import walk_forward
from jaxppo.cli import OneLineParser, run


def main(arguments: Sequence[str]) -> None:
    parser = OneLineParser(
        description=__doc__, epilog="Any key of the config is an option, for example --data.path FILE."
    )
    parser.add_argument(
        "--config", metavar="FILE", help="YAML run configuration (with --resume: default that of the folder)"
    )
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--episodes", metavar="N", help="train each agent for N episodes")
    budget.add_argument("--steps", metavar="N", help="train each agent for N environment steps")
    parser.add_argument("--seed", metavar="N", help="seed of the first agent of each fold")
    parser.add_argument("--output", metavar="DIR", help="folder (default: runs/NAME-walk-forward of the config)")
    parser.add_argument("--resume", action="store_true", help="continue the walk-forward in --output")
    known, overrides = parser.parse_known_args(arguments)
    for key, option in (("episodes", "--training.episodes"), ("steps", "--training.steps"), ("seed", "--seed")):
        if getattr(known, key) is not None:
            overrides += [option, getattr(known, key)]
    if known.config is None and not (known.resume and known.output):
        parser.error("--config is required, for example --config configs/quickstart.yaml")
    path = known.config if known.config is not None else pathlib.Path(known.output, "config.yaml")
    config = jaxppo.load_config(path, overrides)
    name = f"{pathlib.Path(path).stem}-walk-forward"
    result = walk_forward(config, output=known.output, name=name, resume=known.resume)
    if result.summary is not None:
        print(result.text)
        print(f"report: {result.folder / 'report.html'}")


if __name__ == "__main__":
    sys.exit(run(main))
