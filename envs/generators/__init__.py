"""Random markets made from one that was seen: `GENERATORS[name](market, n_bars, **options) -> Generator`.

Bootstraps reorder whole bars; simulators are fitted and draw new returns. Fitting is done by the factory, on the host;
drawing is a pure function of the fitted arrays and a key.
"""

from collections.abc import Callable

from envs.generators.generator import Generator
from envs.generators.resampling import circular_bootstrap, regime_bootstrap, stationary_bootstrap

GENERATORS: dict[str, Callable[..., Generator]] = {
    "stationary_bootstrap": stationary_bootstrap,
    "circular_bootstrap": circular_bootstrap,
    "regime_bootstrap": regime_bootstrap,
}
"""Factories by name."""

__all__ = ["GENERATORS", "Generator", "circular_bootstrap", "regime_bootstrap", "stationary_bootstrap"]
