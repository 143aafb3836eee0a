"""Monte Carlo backtest of a run: jaxppo monte-carlo --run runs/NAME --paths 100000 [--costs.impact 1.0 ...]

Trades the agent on markets drawn from the run's test period; the same command goes on with an interrupted job. Shards,
made by --shard 0/4 to --shard 3/4 anywhere, are put together by --merge DIR DIR ... --output DIR.
"""

from collections.abc import Sequence

import jaxppo
from jaxppo.cli import (
    OneLineParser,
    a_device_for_each_core,
    add_progress_options,
    announce_report,
    keeping_programs,
    parse_shard,
    showing_phases,
)

N_PATHS = 10000
STRESS = ("scale_costs", "missed_fills", "delay", "latency")
OF_A_RUN = ("paths", "generator", "bars", "seed", "batch", "shard", "ray", *STRESS)
"""Options that a job of a run takes and a merge does not."""


def main(arguments: Sequence[str]) -> None:
    a_device_for_each_core()
    parser = _parser()
    known, overrides = parser.parse_known_args(arguments)
    given = {name: value for name in OF_A_RUN if (value := getattr(known, name)) is not None}
    if known.merge and (given or overrides):
        parser.error(f"--merge takes no {[*(f'--{name}' for name in given), *overrides][0].replace('_', '-')}")
    if known.open and known.merge and known.output is None:
        parser.error("--open needs --output, the folder of the report")
    if known.open and known.output and "://" in known.output:
        parser.error("--open needs a local --output; open the report from there")
    with showing_phases(known.quiet), keeping_programs(known.compilation_cache):
        if known.merge:
            result = jaxppo.monte_carlo.merge(known.merge, known.output)
        else:
            result = jaxppo.monte_carlo.run_monte_carlo(
                known.run,
                given.pop("paths", N_PATHS),
                n_bars=given.pop("bars", None),
                shard=parse_shard(given.pop("shard", "0/1")),
                stress={name: given.pop(name) for name in STRESS if name in given},
                output=known.output,
                overrides=overrides,
                progress=not known.quiet,
                **given,
            )
    print(jaxppo.monte_carlo.describe_paths(result))
    if result.url is not None:
        print(f"paths, summary and report: {result.url}", flush=True)
    elif result.folder is not None:
        print(f"paths and summary: {result.folder}")
        announce_report(result.folder / "report.html", known.open)


def _parser() -> OneLineParser:
    epilog = "Keys such as those of the costs are options, for example --costs.impact 1.0: jaxppo help costs."
    parser = OneLineParser("monte-carlo", __doc__, epilog=epilog)
    what = parser.add_argument_group("what to trade")
    job = what.add_mutually_exclusive_group(required=True)
    job.add_argument("--run", metavar="DIR", help="run folder")
    job.add_argument("--merge", metavar="DIR", nargs="+", help="folders of all shards of a job")
    markets = parser.add_argument_group("markets")
    markets.add_argument("--paths", type=int, metavar="N", help=f"number of paths (default: {N_PATHS})")
    markets.add_argument("--generator", metavar="NAME", help="how they are drawn (default: stationary_bootstrap)")
    markets.add_argument("--bars", type=int, metavar="N", help="decisions on a path (default: as in the test period)")
    markets.add_argument("--seed", type=int, metavar="N", help="seed of the paths (default: that of the run)")
    stress = parser.add_argument_group("stress", "drawn anew for each path; without them none")
    stress.add_argument("--scale-costs", type=float, nargs=2, metavar=("LOW", "HIGH"), help="factors of each cost, > 0")
    stress.add_argument("--missed-fills", type=float, metavar="P", help="share of bars without a fill, in [0, 1)")
    stress.add_argument("--delay", type=int, metavar="N", help="most bars by which a path begins later, >= 0")
    stress.add_argument("--latency", type=int, nargs=2, metavar=("LOW", "HIGH"), help="bars from order to fill")
    where = parser.add_argument_group("where it goes")
    where.add_argument(
        "--output",
        metavar="DIR",
        help="folder of the job, or a URL: s3://bucket/job (default: monte_carlo in the run)",
    )
    where.add_argument("--batch", type=int, metavar="N", help="paths in a part that is saved at once")
    where.add_argument("--shard", metavar="I/N", help="only the I-th of N parts of the job, from 0 on")
    where.add_argument(
        "--ray", metavar="ADDRESS", help="compute on a Ray cluster; local starts one with the cores of this machine"
    )
    add_progress_options(where)
    return parser
