"""The market side: price data, features, simulated markets, execution and the trading environment.

`load_market` reads prices into a `MarketData`, `simulators` generate one, `reference` holds problems with a known
optimum. `features`, `indicators` and `regimes` compute what is known of a market at each close. `TradingEnv` trades it.
"""

from jaxppo.envs.deferred import defer_gymnax

defer_gymnax()  # before anything below imports it
# ruff: noqa: E402

from jaxppo.envs import datasets, reference, simulators
from jaxppo.envs.data.load import format_report, load_market
from jaxppo.envs.execution.costs import Costs, basic_costs, make_costs
from jaxppo.envs.execution.portfolio import FillRule, Fills, Portfolio
from jaxppo.envs.market import features, indicators, regimes
from jaxppo.envs.market.market_data import MarketData, MarketInfo, slice_bars
from jaxppo.envs.market.periods import periods_per_year
from jaxppo.envs.trading.adapters import to_gymnasium, to_sb3
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.types import EnvParams, EnvState, Observation
from jaxppo.errors import DataError

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
    "periods_per_year",
    "reference",
    "regimes",
    "simulators",
    "slice_bars",
    "to_gymnasium",
    "to_sb3",
]


def __dir__() -> list[str]:
    return __all__
