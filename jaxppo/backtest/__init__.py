"""Backtests: one accounting function, honest intervals, reports."""

from jaxppo import monte_carlo as paths
from jaxppo import statistics
from jaxppo.backtest import by_regime, capacity, traders
from jaxppo.backtest.book import BookRun, run_book
from jaxppo.backtest.evaluation import describe
from jaxppo.backtest.frames import account_frame, ledger_frame, write_ledger
from jaxppo.backtest.inspection import Inspection, inspect_policy
from jaxppo.backtest.run import SavedRun, load_run, run
from jaxppo.backtest.simulate import Ledger, run_baselines, run_policy, simulate
from jaxppo.backtest.trading import run_trader, run_trader_streaming
from jaxppo.backtest.trained import trained
from jaxppo.monte_carlo import MonteCarlo, Paths, compare, merge, monte_carlo, run_monte_carlo, run_paths
from jaxppo.report import page as report
from jaxppo.run import trials
from jaxppo.statistics import drawdowns, recovery, splits
from jaxppo.walk_forward import WalkForward, load_fold, walk_forward

__all__ = [
    "BookRun",
    "Inspection",
    "Ledger",
    "MonteCarlo",
    "Paths",
    "SavedRun",
    "WalkForward",
    "account_frame",
    "by_regime",
    "capacity",
    "compare",
    "describe",
    "drawdowns",
    "inspect_policy",
    "ledger_frame",
    "load_fold",
    "load_run",
    "merge",
    "monte_carlo",
    "paths",
    "recovery",
    "report",
    "run",
    "run_baselines",
    "run_book",
    "run_monte_carlo",
    "run_paths",
    "run_policy",
    "run_trader",
    "run_trader_streaming",
    "simulate",
    "splits",
    "statistics",
    "traders",
    "trained",
    "trials",
    "walk_forward",
    "write_ledger",
]
