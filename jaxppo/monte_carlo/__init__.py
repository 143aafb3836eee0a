"""Monte Carlo: a policy on many random markets."""

from jaxppo.monte_carlo.engine import Paths, Replay
from jaxppo.monte_carlo.from_run import run_monte_carlo, run_paths
from jaxppo.monte_carlo.job import MonteCarlo, compare, describe_paths, merge, monte_carlo
from jaxppo.monte_carlo.on_ray import PathsOnRay
from jaxppo.monte_carlo.parts import Table
from jaxppo.monte_carlo.sources import block_length, draws_of, source_market
from jaxppo.monte_carlo.stress import Stress
from jaxppo.monte_carlo.summary import summarise_paths, wilson_interval

__all__ = [
    "MonteCarlo",
    "Paths",
    "PathsOnRay",
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
