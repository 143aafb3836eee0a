"""Repeats a run's evaluation: python scripts/backtest.py --run runs/NAME [--data PATH] [--costs.impact 1.0 ...]"""

import sys
from collections.abc import Sequence

import jaxppo
from jaxppo.cli import OneLineParser, run


def main(arguments: Sequence[str]) -> None:
    parser = OneLineParser(description=__doc__)
    parser.add_argument("--run", required=True, metavar="DIR", help="run folder")
    parser.add_argument("--data", metavar="PATH", help="other prices, evaluated as a whole")
    parser.add_argument("--output", metavar="DIR", help="folder for summary.json and report.html")
    parser.add_argument("--capacity", action="store_true", help="also at other costs and with other capital")
    known, overrides = parser.parse_known_args(arguments)
    given = {"data": known.data, "output": known.output, "capacity": known.capacity, "overrides": overrides}
    print(jaxppo.backtest.describe(jaxppo.backtest.run(known.run, **given)))


if __name__ == "__main__":
    sys.exit(run(main))
