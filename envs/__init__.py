"""The market side: data, features, simulators, execution, accounting, environment."""

from envs import datasets, features, indicators, reference, simulators
from envs.adapters import to_gymnasium
from envs.data import format_report, load_market
from envs.data_rows import DataError
from envs.execution import Costs, make_costs
from envs.market import MarketData, MarketInfo, slice_bars
from envs.portfolio import FillRule, Fills, Portfolio
from envs.trading import TradingEnv
from envs.types import EnvParams, EnvState, Observation

__all__ = [
    "Costs",
    "DataError",
    "EnvParams",
    "EnvState",
    "FillRule",
    "Fills",
    "MarketData",
    "MarketInfo",
    "Observation",
    "Portfolio",
    "TradingEnv",
    "datasets",
    "features",
    "format_report",
    "indicators",
    "load_market",
    "make_costs",
    "reference",
    "simulators",
    "slice_bars",
    "to_gymnasium",
]
