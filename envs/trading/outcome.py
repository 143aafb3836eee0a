"""What a bar did to an account, in numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxppo.envs.execution.portfolio import Fills, Portfolio, drawdown, weights_of
from jaxppo.envs.trading.types import Outcome


def outcome_of(portfolio: Portfolio, after: Portfolio, fills: Fills, log_growth: jax.Array) -> Outcome:
    """Measures what a bar did to one account.

    Args:
      portfolio: at the decision.
      after: at the next close.
      fills: between them.
      log_growth: `[]` log return of the equity.
    """
    equity = jnp.where(portfolio.equity > 0, portfolio.equity, 1.0)
    own = fills.quantity if isinstance(fills.settled, tuple) else fills.quantity - fills.settled
    traded = jnp.abs(own) * fills.price + jnp.abs(fills.liquidation) * after.price
    if not isinstance(fills.exited, tuple):
        traded = traded + jnp.abs(fills.exited.quantity) * fills.exited.price
    weights = weights_of(after)
    return Outcome(
        log_growth=log_growth,
        drawdown_before=drawdown(portfolio),
        drawdown=drawdown(after),
        leverage=jnp.sum(jnp.abs(weights)),
        net=jnp.sum(weights),
        concentration=jnp.max(jnp.abs(weights)),
        turnover=jnp.sum(traded) / equity,
        costs=(jnp.sum(fills.costs.total()) + fills.financing) / equity,
    )
