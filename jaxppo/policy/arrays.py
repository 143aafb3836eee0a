"""Decisions that were made before, as a policy: arrays of target weights or of orders."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxppo.envs.trading.view import MarketView
from jaxppo.policy.protocol import Observed, Policy, Targets


def from_array(values: jax.Array, *, in_shares: bool = False, name: str = "array", warmup: int = 0) -> Policy:
    """Replays decisions: row t is given at the close of bar t of whatever market.

    Args:
      values: `[T, A]` target weights, fractions of equity, or orders; NaN leaves an asset alone. T is at least the
        number of decisions.
      in_shares: whether `values` are orders in shares, signed, which fill as far as volume and leverage allow.
      name: for tables.
      warmup: first row that counts, >= 0.

    Raises:
      ValueError: not `[T, A]`, or a negative warm-up.
    """
    values = jnp.asarray(values, jnp.float32)
    if values.ndim != 2:
        raise ValueError(f"decisions have the shape {values.shape}; expected [bars, assets]")
    if warmup < 0:
        raise ValueError(f"warmup is {warmup}; it must be >= 0 bars")
    return Policy(name, _apply, table=_table, warmup=warmup, params=values, in_shares=in_shares)


def _table(values: jax.Array, view: MarketView) -> jax.Array:
    n_bars = view.market.n_bars
    if values.shape[0] < n_bars - 1:
        raise ValueError(f"decisions for {values.shape[0]} bars; the market has {n_bars}")
    return values[:n_bars]


def _apply(values: jax.Array, state: Any, observed: Observed) -> tuple[Targets, Any]:
    del values
    hold = jnp.isnan(observed.row)
    return Targets(jnp.where(hold, 0.0, observed.row), hold), state
