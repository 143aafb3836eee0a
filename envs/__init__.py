"""The market side: data, features, simulators, execution, accounting, environment."""

from jaxppo.envs import datasets, reference, simulators
from jaxppo.envs.data.load import format_report, load_market
from jaxppo.envs.data.rows import DataError
from jaxppo.envs.execution.costs import Costs, make_costs
from jaxppo.envs.execution.portfolio import FillRule, Fills, Portfolio
from jaxppo.envs.market import features, indicators
from jaxppo.envs.market.market_data import MarketData, MarketInfo, slice_bars
from jaxppo.envs.trading.adapters import to_gymnasium
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.types import EnvParams, EnvState, Observation

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
