"""Random markets: generative models (`simulators.<name>(key, n_bars, ...)`), and generators fitted to a market."""

from jaxppo.envs.simulators import generators
from jaxppo.envs.simulators.bootstrap import block_bootstrap
from jaxppo.envs.simulators.costly_factor import solve_costly_factor, strength_for_sharpe
from jaxppo.envs.simulators.factor_market import predictable_factor, predictable_factor_sharpe, revealed_factor
from jaxppo.envs.simulators.paths import gbm, ornstein_uhlenbeck, regime_switching, stochastic_volatility_jumps

__all__ = [
    "block_bootstrap",
    "gbm",
    "generators",
    "ornstein_uhlenbeck",
    "predictable_factor",
    "predictable_factor_sharpe",
    "regime_switching",
    "revealed_factor",
    "solve_costly_factor",
    "stochastic_volatility_jumps",
    "strength_for_sharpe",
]
