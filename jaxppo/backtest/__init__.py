"""Backtests: a policy on a market through the one accounting function, with honest intervals and reports.

`monte_carlo` and `walk_forward` are those of `jaxppo.monte_carlo` and `jaxppo.walk_forward`, which stand on backtests.
"""

import importlib
from typing import Any

from jaxppo import statistics
from jaxppo.backtest import by_regime, capacity
from jaxppo.backtest.account import AccountRules
from jaxppo.backtest.baselines import run_baselines
from jaxppo.backtest.book import BookRun, run_book
from jaxppo.backtest.conditions import Conditions, conditions_of, plain_conditions
from jaxppo.backtest.evaluation import describe
from jaxppo.backtest.frames import account_frame, ledger_frame, write_ledger
from jaxppo.backtest.front_door import simulate, simulate_streaming
from jaxppo.backtest.inspection import Inspection, inspect_policy
from jaxppo.backtest.ledger import Ledger
from jaxppo.backtest.result import BacktestResult
from jaxppo.backtest.run import run
from jaxppo.backtest.simulate import simulate_account
from jaxppo.run import trials
from jaxppo.run.saved import SavedRun, load_run
from jaxppo.statistics import drawdowns, recovery, splits

__all__ = [
    "AccountRules",
    "BacktestResult",
    "BookRun",
    "Conditions",
    "Inspection",
    "Ledger",
    "SavedRun",
    "account_frame",
    "by_regime",
    "capacity",
    "conditions_of",
    "describe",
    "drawdowns",
    "inspect_policy",
    "ledger_frame",
    "load_run",
    "monte_carlo",
    "plain_conditions",
    "recovery",
    "run",
    "run_baselines",
    "run_book",
    "simulate",
    "simulate_account",
    "simulate_streaming",
    "splits",
    "statistics",
    "trials",
    "walk_forward",
    "write_ledger",
]


def __getattr__(name: str) -> Any:
    if name in ("monte_carlo", "walk_forward"):
        return getattr(importlib.import_module(f"jaxppo.{name}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
