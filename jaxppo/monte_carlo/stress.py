"""Stress on Monte Carlo paths, beside their markets: prices of trading, latency, missed fills, later starts."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxppo.envs.execution.costs import Costs
from jaxppo.envs.execution.perturbations import miss_fills, prices_of, random_latency, random_start, scale_costs
from jaxppo.envs.trading.types import EnvParams
from jaxppo.monte_carlo.engine import Perturbation


@dataclasses.dataclass(frozen=True)
class Stress:
    """Ranges in which each path may differ from the configuration.

    Attributes:
      scale_costs: smallest and largest factor, > 0, of every price of trading and holding; each price of each path is
        multiplied by another one, log-uniform between them. None leaves them alone.
      missed_fills: probability in [0, 1) that no order in an asset fills in a bar.
      delay: most bars, >= 0, by which the first decision is delayed, uniformly.
      latency: fewest and most bars, 1 <= LOW <= HIGH, from a decision to its fill, drawn uniformly for each path. The
        fill rule must have HIGH `latency_bars`. None leaves the latency of the fill rule.

    Raises:
      ValueError: a value outside its range.
    """

    scale_costs: tuple[float, float] | None = None
    missed_fills: float = 0.0
    delay: int = 0
    latency: tuple[int, int] | None = None

    def __post_init__(self):
        low, high = self.scale_costs or (1.0, 1.0)
        if not 0 < low <= high < math.inf:
            raise ValueError(f"scale_costs is {low:g} {high:g}; it must be two factors, 0 < LOW <= HIGH")
        if not 0 <= self.missed_fills < 1:
            raise ValueError(f"missed_fills is {self.missed_fills:g}; it must be in [0, 1)")
        if self.delay < 0:
            raise ValueError(f"delay is {self.delay}; it must be >= 0 bars")
        least, most = self.latency or (1, 1)
        if not 1 <= least <= most:
            raise ValueError(f"latency is {least} {most}; it must be two numbers of bars, 1 <= LOW <= HIGH")

    def perturbation(self) -> Perturbation | None:
        """Makes the `perturb` of `jaxppo.monte_carlo.Paths`, to be used with `spare=delay`; None for no stress."""
        return None if self == UNSTRESSED else functools.partial(_perturb, self)


def stress_of(perturb: Perturbation | None) -> dict[str, Any] | None:
    """Finds the fields of the stress that a perturbation was made from, as JSON; None for any other perturbation."""
    if not isinstance(perturb, functools.partial) or perturb.func is not _perturb:
        return None
    stress: Stress = perturb.args[0]
    scaled = stress.scale_costs and [*map(float, stress.scale_costs)]
    return dataclasses.asdict(stress) | {"scale_costs": scaled, "latency": stress.latency and [*stress.latency]}


def _perturb(stress: Stress, key: jax.Array, params: EnvParams) -> EnvParams:
    """Draws the parameters of a path under stress. Consumes `key`."""
    key_costs, key_fills, key_start, key_latency = jax.random.split(key, 4)
    if stress.scale_costs is not None:
        ranges = dict.fromkeys(prices_of(params.costs), stress.scale_costs)
        params = params.replace(costs=scale_costs(key_costs, params.costs, ranges))
    if stress.missed_fills > 0:
        params = params.replace(table=miss_fills(key_fills, params.table, jnp.float32(stress.missed_fills)))
    if stress.latency is not None:
        params = _with_latency(params, random_latency(key_latency, *stress.latency))
    if not stress.delay:
        return params
    return params.replace(first_bar=random_start(key_start, params.first_bar, params.first_bar + stress.delay))


def _with_latency(params: EnvParams, latency: jax.Array) -> EnvParams:
    """Sets `Costs.latency` `[n]` of the account, and of the paper accounts that its sizing has of strategies."""
    every_bar = jnp.broadcast_to(latency, (params.market.n_bars, *latency.shape))

    def delayed(costs: Any, latency: jax.Array) -> Any:
        return costs.replace(latency=latency)

    sizing = jax.tree.map(
        lambda x: delayed(x, every_bar) if isinstance(x, Costs) else x,
        params.sizing,
        is_leaf=lambda x: isinstance(x, Costs),
    )
    return params.replace(costs=delayed(params.costs, latency), sizing=sizing)


UNSTRESSED = Stress()
