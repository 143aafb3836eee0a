"""Margins, by asset or by volatility: how much of the leverage that an account may take a position uses."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxppo.envs.execution.bars import Bar, unpack_bar
from jaxppo.envs.execution.costs import Costs


def leverage_use(bar: Bar, costs: Costs) -> jax.Array | float:
    """Share of the value of each position that counts against the leverage limit, `[A]`; 1.0 where all counts fully.

    `L k sigma_a` of futures, 1 of other assets, with the limit `L` and `k` deviations of margin. So the limit
    `sum_a use_a |v_a| <= L E` says that margins fit into the equity, where other assets tie up `|v_a| / L`:
    `sum_futures k sigma_a |v_a| + sum_others |v_a| / L <= E`. An asset with an initial margin `m_a` of its own uses
    `L m_a`, and ties up `m_a |v_a|`.

    Args:
      bar: the one after the decision. Only the forecast of its volatility is read, which is that of the decision.
      costs: cost parameters.
    """
    share = margin_share(bar, costs)
    use = share if isinstance(share, float) else jnp.where(bar.futures > 0, costs.max_leverage * share, 1.0)
    return _with_initial_margins(use, costs)


def leverage_use_at(next_bar: Any, costs: Costs) -> jax.Array | float:
    """`leverage_use` at a decision, `[A]`; 1.0 where all counts fully.

    Args:
      next_bar: `[fields, A]` packed bar after the decision, see `pack_bars`; `()` where no margin depends on it.
      costs: cost parameters.
    """
    return (
        _with_initial_margins(1.0, costs) if isinstance(next_bar, tuple) else leverage_use(unpack_bar(next_bar), costs)
    )


def _with_initial_margins(use: jax.Array | float, costs: Costs) -> jax.Array | float:
    """`leverage_use` with that of assets whose initial margin is given."""
    own = costs.initial_margins
    return use if isinstance(own, tuple) else jnp.where(own > 0, costs.max_leverage * own, use)


def margin_share(bar: Bar, costs: Costs) -> jax.Array | float:
    """Share of the value of each position that `maintenance_margin` is a share of, `[A]`; 1.0 where it is all of it.

    `k sigma_a` of futures, their margin; 1 of other assets.

    Args:
      bar: with the forecast of its volatility, made at the close before.
      costs: cost parameters.
    """
    if isinstance(bar.futures, tuple) or isinstance(costs.margin_volatility, tuple):
        return 1.0
    return jnp.where(bar.futures > 0, costs.margin_volatility * bar.volatility, 1.0)


def least_equity(shares: jax.Array, bar: Bar, costs: Costs) -> jax.Array:
    """Equity `[]` below which an account is liquidated at the close of a bar, currency.

    `maintenance_margin sum_a |n_a| p_a`, of futures with a margin by volatility that share of their margin; with the
    rate of the asset where one is given.

    Args:
      shares: `[A]` positions, signed.
      bar: whose close marks them.
      costs: cost parameters.
    """
    value, share, own = jnp.abs(shares) * bar.close, margin_share(bar, costs), costs.maintenance_margins
    if isinstance(own, tuple):
        return costs.maintenance_margin * jnp.sum(value * share)
    return jnp.sum(value * jnp.where(own > 0, own, costs.maintenance_margin * share))


def paid_for(value: jax.Array, futures: Any) -> jax.Array:
    """What cash has been paid for, `[A]` currency: the value of positions; 0 of futures, which are settled every bar.

    Args:
      value: `[A]` of the positions, currency.
      futures: as in `Bar`.
    """
    return value if isinstance(futures, tuple) else jnp.where(futures > 0, 0.0, value)
