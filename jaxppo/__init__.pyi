from . import (
    backtest,
    book,
    config,
    deploy,
    envs,
    masks,
    migration,
    monte_carlo,
    policy,
    ppo,
    report,
    risk,
    run,
    statistics,
    sweep,
    testing,
    tracking,
    walk_forward,
)
from ._version import __version__
from .backtest import BacktestResult, load_run, simulate
from .config import Config, load_config
from .envs import load_market
from .envs.market import regimes
from .errors import ConfigError, DataError
from .own_code import register
from .policy import Observed, Policy, Targets, networks, rules
from .training import TrainResult, train

__all__ = [
    "BacktestResult",
    "Config",
    "ConfigError",
    "DataError",
    "Observed",
    "Policy",
    "Targets",
    "TrainResult",
    "__version__",
    "backtest",
    "book",
    "config",
    "deploy",
    "envs",
    "load_config",
    "load_market",
    "load_run",
    "masks",
    "migration",
    "monte_carlo",
    "networks",
    "policy",
    "ppo",
    "regimes",
    "register",
    "report",
    "risk",
    "rules",
    "run",
    "simulate",
    "statistics",
    "sweep",
    "testing",
    "tracking",
    "train",
    "walk_forward",
]
