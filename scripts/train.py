"""Trains an agent: python scripts/train.py --config configs/quickstart.yaml [--ppo.learning-rate 1e-4 ...]"""

import pathlib
import sys
from collections.abc import Sequence

import jaxppo
from jaxppo.cli import OneLineParser, run


def main(arguments: Sequence[str]) -> None:
    parser = OneLineParser(
        description=__doc__, epilog="Any key of the config is an option, for example --data.path FILE."
    )
    parser.add_argument(
        "--config", metavar="FILE", help="YAML run configuration (with --resume: default that of the run)"
    )
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", metavar="N", help="train for N minutes of wall time")
    budget.add_argument("--episodes", metavar="N", help="train for N episodes")
    budget.add_argument("--steps", metavar="N", help="train for N environment steps")
    parser.add_argument("--seed", metavar="N", help="seed of all randomness")
    parser.add_argument("--output", metavar="DIR", help="run folder (default: runs/NAME of the config)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --output")
    known, overrides = parser.parse_known_args(arguments)
    for key in ("minutes", "episodes", "steps"):
        if getattr(known, key) is not None:
            overrides += [f"--training.{key}", getattr(known, key)]
    if known.seed is not None:
        overrides += ["--seed", known.seed]
    if known.config is None and not (known.resume and known.output):
        parser.error("--config is required, for example --config configs/quickstart.yaml")
    path = known.config if known.config is not None else pathlib.Path(known.output, "config.yaml")
    config = jaxppo.load_config(path, overrides)
    name = pathlib.Path(path).stem
    result = jaxppo.train(config, output=known.output, name=name, resume=known.resume)
    if result.summary is not None:
        print(result.text)
        print(f"report: {result.folder / 'report.html'}")


if __name__ == "__main__":
    sys.exit(run(main))
