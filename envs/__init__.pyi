from . import datasets, reference, simulators
from .data.load import DataError, format_report, load_market
from .execution.costs import Costs, basic_costs, make_costs
from .execution.exits import make_exits
from .execution.fill_rule import FillRule
from .execution.limit_orders import make_limit_orders
from .execution.portfolio import Fills, Portfolio
from .market import features, indicators, regimes
from .market.dividends import with_dividends
from .market.market_data import MarketData, MarketInfo, slice_bars
from .market.periods import periods_per_year
from .trading.adapters import to_gymnasium, to_sb3
from .trading.environment import TradingEnv
from .trading.types import EnvParams, EnvState, Observation

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
    "basic_costs",
    "datasets",
    "features",
    "format_report",
    "indicators",
    "load_market",
    "make_costs",
    "make_exits",
    "make_limit_orders",
    "periods_per_year",
    "reference",
    "regimes",
    "simulators",
    "slice_bars",
    "to_gymnasium",
    "to_sb3",
    "with_dividends",
]
