"""The market as arrays, and what is computed from its bars: features, indicators, regimes, volatility."""

from jaxppo.envs.market import features, indicators, regimes
from jaxppo.envs.market.market_data import MarketData, MarketInfo, slice_bars
from jaxppo.envs.market.periods import periods_per_year

__all__ = ["MarketData", "MarketInfo", "features", "indicators", "periods_per_year", "regimes", "slice_bars"]
