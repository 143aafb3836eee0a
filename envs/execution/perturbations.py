"""What Monte Carlo changes beside the market: costs, latency, start, missing fills; pure functions of a key."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxppo.envs.execution.bars import BAR_FIELDS
from jaxppo.envs.execution.costs import Costs
from jaxppo.envs.execution.impact import Impact

LASTING = ("transient", "permanent")
"""Prices that are fields of the `Impact` of costs."""
PRICES = (
    "commission_rate",
    "commission_per_share",
    "commission_minimum",
    "spread_multiplier",
    "slippage",
    "impact",
    "borrow_rate",
    "margin_rate",
    *LASTING,
)
"""Prices of trading and holding: fields of `Costs`, and of its `Impact`; the others are limits."""
SCALABLE = (*PRICES, "participation_limit")
"""What `scale` can scale."""


def prices_of(costs: Costs) -> tuple[str, ...]:
    """Those of `PRICES` that the costs have."""
    return PRICES if isinstance(costs.displacement, Impact) else tuple(x for x in PRICES if x not in LASTING)


def scale(costs: Costs, factors: Mapping[str, jax.Array | float]) -> Costs:
    """Multiplies prices among the costs.

    Args:
      costs: cost parameters.
      factors: name -> factor `[]` >= 0.

    Raises:
      ValueError: transient or permanent impact of costs that have none.
    """
    own = {name: factor for name, factor in factors.items() if name in LASTING}
    if own and not isinstance(costs.displacement, Impact):
        raise ValueError(f"the costs have neither transient nor permanent impact; {min(own)} cannot be scaled")
    scaled = {name: getattr(costs, name) * factor for name, factor in factors.items() if name not in own}
    if own:
        moved = {name: getattr(costs.displacement, name) * factor for name, factor in own.items()}
        scaled["displacement"] = costs.displacement.replace(**moved)
    return costs.replace(**scaled)


def check_ranges(ranges: Mapping[str, tuple[float, float]]) -> None:
    """Raises ValueError for a name that is not in `SCALABLE`, or a range that is not `0 < low <= high`; host-side."""
    for name, (low, high) in ranges.items():
        if name not in SCALABLE:
            raise ValueError(f"costs have no {name!r} to scale; there is {', '.join(SCALABLE)}")
        if not 0 < low <= high < float("inf"):
            raise ValueError(f"the factors of {name} are [{low}, {high}]; they must be 0 < low <= high")


def scale_costs(key: jax.Array, costs: Costs, ranges: Mapping[str, tuple[float, float]]) -> Costs:
    """`costs` with each named one multiplied by its own factor, log-uniform in its range.

    Args:
      key: consumed; the factor of a name does not depend on which other ones are named.
      costs: cost parameters.
      ranges: name in `SCALABLE` -> smallest and largest factor, both > 0; numbers may be traced, names not.

    Raises:
      ValueError: transient or permanent impact of costs that have none.
    """
    factors = {}
    for name, (low, high) in ranges.items():
        draw = jax.random.uniform(jax.random.fold_in(key, SCALABLE.index(name)))
        factors[name] = jnp.exp(jnp.log(low) + draw * (jnp.log(high) - jnp.log(low)))
    return scale(costs, factors)


def random_start(key: jax.Array, first: jax.Array | int, last: jax.Array | int) -> jax.Array:
    """Draws the first decision bar of a path, `[]` int32, uniformly.

    Args:
      key: consumed.
      first: `[]` earliest bar.
      last: `[]` latest bar, >= `first`.
    """
    return jax.random.randint(key, (), first, jnp.asarray(last, jnp.int32) + 1)


def random_latency(key: jax.Array, least: int, most: int) -> jax.Array:
    """Draws `Costs.latency` `[most]`: how many bars orders take to reach the market, uniformly.

    Args:
      key: consumed.
      least: fewest bars, >= 1.
      most: most bars, >= `least`.
    """
    return jnp.arange(1, most + 1) == jax.random.randint(key, (), least, most + 1)


def miss_fills(key: jax.Array, table: jax.Array, probability: jax.Array | float) -> jax.Array:
    """The table of bars with nothing to be had in some of them: an order due there does not fill.

    Nobody knows it before: what is observed stays as it is, and so are liquidations.

    Args:
      key: consumed.
      table: `[T, fields, A]`, see `jaxppo.envs.execution.bars.pack_bars`.
      probability: `[]` of each bar and asset, in [0, 1].
    """
    volume = BAR_FIELDS.index("available_volume")
    missed = jax.random.bernoulli(key, probability, table[:, volume].shape)
    return table.at[:, volume].set(jnp.where(missed, 0.0, table[:, volume]))
