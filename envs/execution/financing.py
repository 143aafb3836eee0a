"""What holding costs, and what cash earns, from one bar to the next."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxppo.envs.execution.bars import Bar
from jaxppo.envs.execution.costs import Costs, is_charged
from jaxppo.envs.execution.margin import paid_for


def financing(value: jax.Array, equity: jax.Array, bar: Bar, costs: Costs) -> jax.Array:
    """Borrow fee and margin interest since the previous bar less interest on cash, `[]` currency; negative for income.

    `dt (borrow_rate sum_a max(-v_a, 0) + margin_rate max(-c, 0) - cash_rate max(c, 0))` with cash `c = E - sum_a v_a`.
    The proceeds of shorts are part of the cash: they earn its rate less the borrow fee. Futures have `v_a = 0`: nothing
    is paid for them, their notional is not financed, and the equity is collateral that earns the rate of cash.

    Args:
      value: `[A]` market value of the positions at the previous close, signed.
      equity: `[]` at that close.
      bar: the next one; its `year_fraction` is `dt`.
      costs: cost parameters.
    """
    value = paid_for(value, bar.futures)
    paid = jnp.zeros_like(equity)
    if is_charged(costs.borrow_rate):
        paid = jnp.sum(jnp.maximum(-value, 0.0) * bar.year_fraction) * costs.borrow_rate
    if is_charged(costs.margin_rate):
        debt = jnp.maximum(jnp.sum(value) - equity, 0.0)
        paid = paid + debt * bar.year_fraction[0] * costs.margin_rate
    if not isinstance(costs.cash_rate, tuple):
        idle = jnp.maximum(equity - jnp.sum(value), 0.0)
        paid = paid - idle * bar.year_fraction[0] * costs.cash_rate
    return paid
