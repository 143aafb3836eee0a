"""Random markets made from an observed one: `GENERATORS[name](market, n_bars, **options) -> Generator`.

Bootstraps reorder whole bars; simulators are fitted and draw new returns. The factory fits, on the host; drawing is a
pure function of the fitted arrays and a key.
"""

from collections.abc import Callable

from jaxppo.envs.simulators.generators.garch import garch
from jaxppo.envs.simulators.generators.generator import Generator
from jaxppo.envs.simulators.generators.regime_switching import regime_switching
from jaxppo.envs.simulators.generators.resampling import circular_bootstrap, regime_bootstrap, stationary_bootstrap
from jaxppo.envs.simulators.generators.stochastic_volatility import stochastic_volatility_jumps

GENERATORS: dict[str, Callable[..., Generator]] = {
    "stationary_bootstrap": stationary_bootstrap,
    "circular_bootstrap": circular_bootstrap,
    "regime_bootstrap": regime_bootstrap,
    "regime_switching": regime_switching,
    "stochastic_volatility_jumps": stochastic_volatility_jumps,
    "garch": garch,
}
"""Factories by name."""

__all__ = ["GENERATORS", "Generator", *GENERATORS]
