"""Monte Carlo backtest of a run: python scripts/monte_carlo.py --run runs/NAME --paths 100000 [--costs.impact 1.0 ...]

Trades the agent on markets drawn from the run's test period; the same command goes on with an interrupted job. Shards,
made by --shard 0/4 to --shard 3/4 anywhere, are put together by --merge DIR DIR ... --output DIR.
"""

import os
import sys
from collections.abc import Sequence

os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(os.cpu_count() or 1))  # before JAX counts them: a device for each core
import jaxppo
from jaxppo.cli import OneLineParser, parse_shard, run

N_PATHS = 10000
STRESS = ("scale_costs", "missed_fills", "delay", "latency")
OF_A_RUN = ("paths", "generator", "bars", "seed", "batch", "shard", *STRESS)
"""Options that a job of a run takes and a merge does not."""


def main(arguments: Sequence[str]) -> None:
    parser = OneLineParser(description=__doc__)
    job = parser.add_mutually_exclusive_group(required=True)
    job.add_argument("--run", metavar="DIR", help="run folder")
    job.add_argument("--merge", metavar="DIR", nargs="+", help="folders of all shards of a job")
    parser.add_argument("--paths", type=int, metavar="N", help=f"number of paths (default: {N_PATHS})")
    parser.add_argument("--generator", metavar="NAME", help="how markets are drawn (default: stationary_bootstrap)")
    parser.add_argument("--bars", type=int, metavar="N", help="decisions on a path (default: as in the test period)")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the paths (default: that of the run)")
    parser.add_argument("--batch", type=int, metavar="N", help="paths in a part that is saved at once")
    parser.add_argument("--shard", metavar="I/N", help="only the I-th of N parts of the job, from 0 on")
    parser.add_argument("--scale-costs", type=float, nargs=2, metavar=("LOW", "HIGH"), help="random factors of costs")
    parser.add_argument("--missed-fills", type=float, metavar="P", help="share of bars in which an asset does not fill")
    parser.add_argument("--delay", type=int, metavar="N", help="most bars by which a path begins later")
    parser.add_argument("--latency", type=int, nargs=2, metavar=("LOW", "HIGH"), help="random bars from order to fill")
    parser.add_argument("--output", metavar="DIR", help="folder of the job (default: monte_carlo in that of the run)")
    known, overrides = parser.parse_known_args(arguments)
    given = {name: value for name in OF_A_RUN if (value := getattr(known, name)) is not None}
    if known.merge and (given or overrides):
        parser.error(f"--merge takes no {[*(f'--{name}' for name in given), *overrides][0].replace('_', '-')}")
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
            **given,
        )
    print(jaxppo.monte_carlo.describe_paths(result))
    if result.folder is not None:
        print(f"paths, summary and report: {result.folder}")


if __name__ == "__main__":
    sys.exit(run(main))
