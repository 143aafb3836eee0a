"""Backtests: one accounting function, honest intervals, reports."""

from jaxppo.backtest import by_regime, capacity, drawdowns, paths, recovery, report, splits, statistics, traders, trials
from jaxppo.backtest.book import BookRun, run_book
from jaxppo.backtest.evaluation import describe
from jaxppo.backtest.folds import WalkForward, load_fold, walk_forward
from jaxppo.backtest.inspection import Inspection, inspect_policy
from jaxppo.backtest.ledgers import account_frame, ledger_frame, write_ledger
from jaxppo.backtest.paths import MonteCarlo, Paths, compare, merge, monte_carlo, run_monte_carlo, run_paths
from jaxppo.backtest.run import SavedRun, load_run, run
from jaxppo.backtest.simulate import Ledger, run_baselines, run_policy, simulate
from jaxppo.backtest.trading import run_trader, run_trader_streaming
from jaxppo.backtest.trained import trained

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
