"""Trains an agent: python scripts/train.py --config configs/quickstart.yaml [--ppo.learning-rate 1e-4 ...]"""

import sys
from collections.abc import Sequence

import jaxppo
from jaxppo.cli import parse_training, run


def main(arguments: Sequence[str]) -> int | None:
    budgets = {"minutes": "train for N minutes of wall time; with --episodes, for what is spent first"}
    budgets |= {"episodes": "train for N episodes"}
    budgets |= {"steps": "train for N environment steps"}
    config, name, given = parse_training(__doc__, arguments, budgets, older=True)
    result = jaxppo.train(config, output=given.output, name=name, resume=given.resume)
    if result.summary is not None:
        print(result.text)
        print(f"report: {result.folder / 'report.html'}")
    return result.signal


if __name__ == "__main__":
    sys.exit(run(main))
