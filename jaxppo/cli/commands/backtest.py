"""Repeats a run's evaluation: jaxppo backtest --run runs/NAME [--data PATH] [--costs.impact 1.0 ...]"""

import pathlib
from collections.abc import Sequence

import jaxppo
from jaxppo.cli import OneLineParser, add_compilation_cache, announce_report, keeping_programs, showing_phases


def main(arguments: Sequence[str]) -> None:
    parser = OneLineParser(
        "backtest", __doc__, epilog="Keys such as those of the costs are options: jaxppo help costs."
    )
    parser.add_argument("--run", required=True, metavar="DIR", help="run folder")
    parser.add_argument("--data", metavar="PATH", help="other prices, evaluated as a whole")
    parser.add_argument("--output", metavar="DIR", help="folder for summary.json and report.html")
    parser.add_argument("--capacity", action="store_true", help="also at other costs and with other capital")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    parser.add_argument("--open", action="store_true", help="show the report of --output in the browser")
    add_compilation_cache(parser)
    known, overrides = parser.parse_known_args(arguments)
    if known.open and known.output is None:
        parser.error("--open needs --output, the folder of the report")
    given = {"data": known.data, "output": known.output, "capacity": known.capacity, "overrides": overrides}
    with showing_phases(known.quiet), keeping_programs(known.compilation_cache):
        result = jaxppo.backtest.run(known.run, **given)
    print(jaxppo.backtest.describe(result))
    if known.output is not None:
        announce_report(pathlib.Path(known.output, "report.html"), known.open)
