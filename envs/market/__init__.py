"""The market as arrays, and what is computed from its bars: features, indicators, regimes, volatility."""

from jaxppo.envs.market import features, indicators, regimes
from jaxppo.envs.market.market_data import MarketData, MarketInfo, periods_per_year, slice_bars

__all__ = ["MarketData", "MarketInfo", "features", "indicators", "periods_per_year", "regimes", "slice_bars"]
