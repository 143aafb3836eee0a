"""Monte Carlo: whoever decides, on many random markets."""

from jaxppo.backtest.paths.engine import Paths, Replay
from jaxppo.backtest.paths.from_run import describe_paths, run_monte_carlo, run_paths
from jaxppo.backtest.paths.job import MonteCarlo, compare, merge, monte_carlo
from jaxppo.backtest.paths.parts import Table
from jaxppo.backtest.paths.sources import block_length, draws_of, source_market
from jaxppo.backtest.paths.stress import Stress
from jaxppo.backtest.paths.summary import summarise_paths, wilson_interval

__all__ = [
    "MonteCarlo",
    "Paths",
    "Replay",
    "Stress",
    "Table",
    "block_length",
    "compare",
    "describe_paths",
    "draws_of",
    "merge",
    "monte_carlo",
    "run_monte_carlo",
    "run_paths",
    "source_market",
    "summarise_paths",
    "wilson_interval",
]
