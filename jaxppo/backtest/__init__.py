"""Backtests: one accounting function, honest intervals, reports."""

from jaxppo.backtest import drawdowns, recovery, report, splits, statistics, trials
from jaxppo.backtest.book import BookRun, run_book
from jaxppo.backtest.evaluation import describe
from jaxppo.backtest.inspection import Inspection, inspect_policy
from jaxppo.backtest.run import SavedRun, load_run, run
from jaxppo.backtest.simulate import Ledger, run_baselines, run_policy, simulate
from jaxppo.backtest.trained import trained

__all__ = [
    "BookRun",
    "Inspection",
    "Ledger",
    "SavedRun",
    "describe",
    "drawdowns",
    "inspect_policy",
    "load_run",
    "recovery",
    "report",
    "run",
    "run_baselines",
    "run_book",
    "run_policy",
    "simulate",
    "splits",
    "statistics",
    "trained",
    "trials",
]
