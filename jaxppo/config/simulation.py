"""Keys of the simulated market that a run can be trained on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from jaxppo.arguments import Coefficient, Seed
from jaxppo.config.items import Keys

LONGEST = 2**16
"""Weekdays from 2000 on that 64-bit nanoseconds hold."""


class SimulationConfig(Keys):
    """The market of `data.path: simulated`: daily bars on weekdays from 2000 on, symbols SIM1, SIM2, ..."""

    kind: Literal["costly_factor", "gbm", "regime_switching", "stochastic_volatility_jumps"] = "costly_factor"
    """`costly_factor`: a factor per asset, which its volume reveals, predicts its return
    (`jaxppo.envs.simulators.predictable_factor`); its strength is solved for. The others, also functions of
    `jaxppo.envs.simulators`, have nothing to be predicted."""
    seed: Seed | None = None
    """Seed of the market; absent: `seed`, so that another seed of the run is also another market."""
    n_bars: Annotated[int, Field(ge=10, le=LONGEST)] = 20_000
    """Bars."""
    n_assets: Annotated[int, Field(ge=1, le=1024)] = 4
    """Assets."""
    half_spread: Annotated[float, Field(ge=0.0, le=0.5)] = 1e-4
    """Half-spread, fraction of the price."""
    sharpe: Annotated[float, Field(ge=0.01, le=100.0)] = 4.0
    """Factor: the best Sharpe ratio a year that can be reached on all assets together, after costs."""
    commission_bps: Coefficient = 1.0
    """Factor: commission that `sharpe` is net of beside the half-spread, basis points; what is charged is
    `costs.commission_bps`, and whatever else `costs` has."""
    persistence: Annotated[float, Field(ge=0.0, le=0.995)] = 0.98
    """Factor: autocorrelation per bar."""
    volatility: Annotated[float, Field(ge=1e-6, le=0.1)] = 0.01
    """Factor: standard deviation of the log return per bar."""
