"""The market as arrays, and what is computed from its bars: features, indicators, regimes, volatility.

What is exported stands in `__init__.pyi`; it is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub("jaxppo.envs.market", __file__)
