from . import features, indicators, regimes
from .market_data import MarketData, MarketInfo, slice_bars
from .periods import periods_per_year

__all__ = ["MarketData", "MarketInfo", "features", "indicators", "periods_per_year", "regimes", "slice_bars"]
