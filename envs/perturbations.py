"""What Monte Carlo changes beside the market: costs, start, and fills that do not happen; pure functions of a key."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from envs.execution import BAR_FIELDS, Costs
from envs.impact import Impact

SCALABLE = (
    "commission_rate",
    "commission_per_share",
    "commission_minimum",
    "spread_multiplier",
    "slippage",
    "impact",
    "participation_limit",
    "borrow_rate",
    "margin_rate",
    "transient",
    "permanent",
)
"""Costs that can be scaled: fields of `Costs`, and of its `Impact`."""


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
    scaled: dict[str, Any] = {}
    for name, (low, high) in ranges.items():
        draw = jax.random.uniform(jax.random.fold_in(key, SCALABLE.index(name)))
        scaled[name] = jnp.exp(jnp.log(low) + draw * (jnp.log(high) - jnp.log(low)))
    own = {field.name for field in dataclasses.fields(Impact)} & set(scaled)
    if own and not isinstance(costs.displacement, Impact):
        raise ValueError(f"the costs have neither transient nor permanent impact; {min(own)} cannot be scaled")
    if own:
        factors = {name: getattr(costs.displacement, name) * scaled.pop(name) for name in own}
        costs = costs.replace(displacement=costs.displacement.replace(**factors))
    return costs.replace(**{name: getattr(costs, name) * factor for name, factor in scaled.items()})


def random_start(key: jax.Array, first: jax.Array | int, last: jax.Array | int) -> jax.Array:
    """First decision bar of a path, `[]` int32, uniform over `first <= bar <= last`. Consumes `key`."""
    return jax.random.randint(key, (), first, jnp.asarray(last, jnp.int32) + 1)


def miss_fills(key: jax.Array, table: jax.Array, probability: jax.Array | float) -> jax.Array:
    """The table of bars with nothing to be had in some of them: an order due there does not fill.

    Nobody knows it before: what is observed stays as it is, and so are liquidations.

    Args:
      key: consumed.
      table: `[T, fields, A]`, see `envs.execution.pack_bars`.
      probability: `[]` of each bar and asset, in [0, 1].
    """
    volume = BAR_FIELDS.index("available_volume")
    missed = jax.random.bernoulli(key, probability, table[:, volume].shape)
    return table.at[:, volume].set(jnp.where(missed, 0.0, table[:, volume]))
