"""The market side: price data, features, simulated markets, execution and the trading environment.

`load_market` reads prices into a `MarketData`, `simulators` generate one, `reference` holds problems with a known
optimum. `features`, `indicators` and `regimes` compute what is known of a market at each close. `TradingEnv` trades it.

What is exported stands in `__init__.pyi`; it is imported when it is first used: a live policy reads prices without it.
"""

import lazy_loader

from jaxppo.envs.deferred import defer_gymnax

defer_gymnax()  # before anything that imports it

__getattr__, __dir__, __all__ = lazy_loader.attach_stub("jaxppo.envs", __file__)  # in a checkout it is also called envs
