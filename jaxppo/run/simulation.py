"""Simulated market of a configuration."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from jaxppo.config import Config
from jaxppo.config.simulation import SimulationConfig
from jaxppo.envs import simulators
from jaxppo.envs.market.market_data import MarketData, MarketInfo
from jaxppo.errors import ConfigError

SIMULATED = "simulated"
"""`data.path` of a run on a simulated market."""
FIRST_BAR = np.datetime64("2000-01-03", "ns")
"""A Monday."""
UNPAID = (
    *("commission_per_share", "commission_minimum", "slippage", "slippage_volatility", "slippage_volume"),
    *("slippage_spread", "impact", "transient_impact", "permanent_impact", "borrow_rate", "cash_rate"),
)
"""Costs that the best Sharpe ratio of a simulated market is solved without."""
STREAM = 0x5EED
"""Keeps the market's randomness apart from that of learning under one seed."""


def simulated_market(config: Config) -> MarketData:
    """Simulates the market of `config.simulation`.

    Raises:
      ConfigError: the Sharpe ratio cannot be reached at these costs, or `data.symbols`, `start` or `end` is given.
    """
    simulation = config.simulation
    if config.data.symbols is not None:
        raise ConfigError(
            f"data.symbols is {list(config.data.symbols)}; leave it out where data.path is {SIMULATED}: the market of "
            f"simulation has SIM1 to SIM{simulation.n_assets}"
        )
    for end in ("start", "end"):
        if getattr(config.data, end) is not None:
            raise ConfigError(
                f"data.{end} is {getattr(config.data, end)}; leave it out where data.path is {SIMULATED}: "
                "simulation.n_bars says how many bars there are"
            )
    options = {"half_spread": simulation.half_spread}
    if simulation.kind == "costly_factor":
        options |= {
            "strength": factor_strength(simulation),
            "persistence": simulation.persistence,
            "volatility": simulation.volatility,
        }
        simulate = simulators.predictable_factor
    else:
        simulate = getattr(simulators, simulation.kind)
    key = jax.random.fold_in(jax.random.key(config.seed if simulation.seed is None else simulation.seed), STREAM)
    market = simulate(key, simulation.n_bars, simulation.n_assets, **options)
    symbols = tuple(f"SIM{number}" for number in range(1, simulation.n_assets + 1))
    return dataclasses.replace(market, info=MarketInfo(symbols, weekdays(simulation.n_bars)))


def factor_strength(simulation: SimulationConfig) -> float:
    """Finds the strength of the factor at which the best Sharpe ratio after costs is the configured one.

    Raises:
      ConfigError: there is none.
    """
    try:
        return simulators.strength_for_sharpe(
            simulation.sharpe,
            n_assets=simulation.n_assets,
            persistence=simulation.persistence,
            volatility=simulation.volatility,
            cost=simulation.half_spread + 1e-4 * simulation.commission_bps,
        )
    except ValueError as error:
        raise ConfigError(
            f"simulation.sharpe is {simulation.sharpe:g}, with simulation.n_assets {simulation.n_assets}, half_spread "
            f"{simulation.half_spread:g} and commission_bps {simulation.commission_bps:g}: {error}"
        ) from None


def best_sharpe(config: Config) -> float | None:
    """The best Sharpe ratio a year that anybody can reach on the market of a configuration, at its costs.

    None where it is not known: prices that are not simulated, or without anything to predict, and costs or fills other
    than those that it is solved for.
    """
    simulation, costs = config.simulation, config.costs
    if config.data.path != SIMULATED or simulation.kind != "costly_factor":
        return None
    solved_for = dict.fromkeys(UNPAID, 0.0) | {
        "commission_bps": simulation.commission_bps,
        "spread_multiplier": 1.0,
        "slippage_regimes": None,
        "participation_limit": None,
        "function": None,
    }
    usual = config.env.fill_price == "next_open" and config.env.latency_bars == 1
    usual = usual and config.limit_orders.offset is None
    same = all(getattr(costs, name) == value for name, value in solved_for.items())
    return simulation.sharpe if usual and same else None


def weekdays(n_bars: int) -> np.ndarray:
    """`[n_bars]` datetime64[ns], midnights of consecutive weekdays from `FIRST_BAR` on."""
    bar = np.arange(n_bars)
    return FIRST_BAR + (bar // 5 * 7 + bar % 5) * np.timedelta64(1, "D")
