"""Backtests: one accounting function, honest intervals, reports."""

from jaxppo.backtest import report, statistics
from jaxppo.backtest.evaluation import describe
from jaxppo.backtest.run import run
from jaxppo.backtest.simulate import Ledger, run_baselines, run_policy, simulate

__all__ = ["Ledger", "describe", "report", "run", "run_baselines", "run_policy", "simulate", "statistics"]
