"""Monte Carlo backtest of a run: python scripts/monte_carlo.py --run runs/NAME --paths 100000 [--costs.impact 1.0 ...]

Draws markets from the test period of the run and trades the agent on every one of them. Shards of one job, made by
--shard 0/4 to --shard 3/4 anywhere, are put together by --merge DIR DIR ... --output DIR. The same command goes on
with a job that was interrupted.
"""

import sys
from collections.abc import Sequence

from jaxppo.cli import OneLineParser, run, shard_of, use_every_core

N_PATHS = 10000
OF_A_RUN = ("paths", "generator", "bars", "seed", "batch", "shard")
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
    parser.add_argument("--output", metavar="DIR", help="folder of the job (default: monte_carlo in that of the run)")
    known, overrides = parser.parse_known_args(arguments)
    given = [f"--{name}" for name in OF_A_RUN if getattr(known, name) is not None] + overrides
    if known.merge and given:
        parser.error(f"--merge takes no {given[0]}")
    shard = shard_of(known.shard or "0/1")
    use_every_core()
    from jaxppo.backtest import paths

    if known.merge:
        result = paths.merge(known.merge, known.output)
    else:
        options = {} if known.generator is None else {"generator": known.generator}
        result = paths.run_monte_carlo(
            known.run,
            N_PATHS if known.paths is None else known.paths,
            n_bars=known.bars,
            seed=known.seed,
            batch=known.batch,
            shard=shard,
            output=known.output,
            overrides=overrides,
            **options,
        )
    print(paths.describe_paths(result))
    if result.folder is not None:
        print(f"paths and summary: {result.folder}")


if __name__ == "__main__":
    sys.exit(run(main))
