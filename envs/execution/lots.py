"""Orders that a market takes: whole lots of a smallest value."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxppo.envs.execution.costs import Costs
from jaxppo.envs.market.safe import with_derivative

ROUNDING = 1e-3
"""Share of a lot that float32 arithmetic may have taken from, or added to, a whole number of lots."""
SMALLEST = 1e-5
"""Share of the smallest value, likewise."""


def has_steps(costs: Costs) -> bool:
    """Whether orders come in lots, or have a smallest value."""
    return not (isinstance(costs.lot_size, tuple) and isinstance(costs.minimum_notional, tuple))


def whole_orders(orders: jax.Array, expected: jax.Array, price: jax.Array, costs: Costs) -> jax.Array:
    """Cuts orders to whole lots, and leaves out those that are too small; never more than was decided.

    An order that closes a position goes out whole, if it is large enough. The derivative is that of `orders`.

    Args:
      orders: `[A]` shares, signed.
      expected: `[A]` shares of the positions once earlier orders have filled.
      price: `[A]` marks, currency per share.
      costs: with lots and smallest values.

    Returns:
      `[A]` shares, signed, each at most as large as the order.
    """
    if not has_steps(costs):
        return orders
    cut = orders
    if not isinstance(costs.lot_size, tuple):
        cut = jnp.where(expected + orders == 0, orders, whole_lots(orders, costs))
    if not isinstance(costs.minimum_notional, tuple):
        cut = jnp.where(jnp.abs(cut) * price * (1.0 + SMALLEST) >= costs.minimum_notional, cut, 0.0)
    return with_derivative(cut, orders)


def whole_fills(quantity: jax.Array, wanted: jax.Array, costs: Costs) -> jax.Array:
    """Cuts what a bar can absorb of orders to whole lots; an order that it absorbs as a whole stays whole.

    Args:
      quantity: `[A]` shares that could fill, signed.
      wanted: `[A]` shares on order, signed.
      costs: with lots.
    """
    if isinstance(costs.lot_size, tuple):
        return quantity
    return with_derivative(jnp.where(quantity == wanted, quantity, whole_lots(quantity, costs)), quantity)


def whole_lots(shares: jax.Array, costs: Costs) -> jax.Array:
    """The whole lots in some shares `[A]`, towards zero; all of them where an asset has no lot.

    Args:
      shares: `[A]`, signed.
      costs: with lots.
    """
    lot = costs.lot_size
    divided = jnp.where(lot > 0, lot, 1.0)
    lots = shares / divided
    nearest = jnp.round(lots)
    whole = jnp.where(jnp.abs(lots - nearest) <= ROUNDING, nearest, jnp.trunc(lots))
    return jnp.where(lot > 0, whole * divided, shares)
