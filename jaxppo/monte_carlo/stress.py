"""What a Monte Carlo changes of each path beside its market: prices of trading, latency, missing fills, the start."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxppo.envs.execution.costs import Costs
from jaxppo.envs.execution.perturbations import miss_fills, prices_of, random_latency, random_start, scale_costs

if TYPE_CHECKING:
    from jaxppo.envs.trading.types import EnvParams
    from jaxppo.monte_carlo.engine import Perturbation


@dataclasses.dataclass(frozen=True)
class Stress:
    """How far each path may be from what is configured.

    Attributes:
      scale_costs: smallest and largest factor, > 0, of every price of trading and holding; each price of each path has
        its own, log-uniform between them. None leaves them alone.
      missed_fills: probability in [0, 1) that nothing can be had of an asset in a bar.
      delay: most bars, >= 0, by which the first decision is delayed, uniformly.
      latency: fewest and most bars, 1 <= LOW <= HIGH, from a decision to its fill; each path has its own number,
        uniformly. The fill rule of what is traded must have HIGH `latency_bars`. None leaves them as they are there.

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
        """What `jaxppo.backtest.Paths` takes as `perturb`, with `spare=delay`; None for nothing."""
        return None if self == UNSTRESSED else functools.partial(_perturb, self)


def stress_of(perturb: Perturbation | None) -> dict[str, Any] | None:
    """The fields of the stress that a perturbation was made from, ready for JSON; None for any other perturbation."""
    if not isinstance(perturb, functools.partial) or perturb.func is not _perturb:
        return None
    stress: Stress = perturb.args[0]
    scaled = stress.scale_costs and [*map(float, stress.scale_costs)]
    return dataclasses.asdict(stress) | {"scale_costs": scaled, "latency": stress.latency and [*stress.latency]}


def _perturb(stress: Stress, key: jax.Array, params: EnvParams) -> EnvParams:
    """The parameters of a path under stress. Consumes `key`."""
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
    """`params` with `Costs.latency` `[n]` for the account, and for those that its sizing keeps of strategies."""
    every_bar = jnp.broadcast_to(latency, (params.market.n_bars, *latency.shape))

    def kept(x: Any) -> Any:
        return x.replace(latency=every_bar) if isinstance(x, Costs) else x

    sizing = jax.tree.map(kept, params.sizing, is_leaf=lambda x: isinstance(x, Costs))
    return params.replace(costs=params.costs.replace(latency=latency), sizing=sizing)


UNSTRESSED = Stress()
