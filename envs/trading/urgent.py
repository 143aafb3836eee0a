"""Which orders do not wait for a limit: those that a limit of the account forces."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxppo.envs.execution.limits import ROUNDING, Constraint, feasible_hold_of
from jaxppo.envs.execution.portfolio import Portfolio, weights_of


def with_urgent_orders(portfolio: Portfolio, allowed: Constraint | None, stopped: Any) -> Portfolio:
    """A portfolio that works at the market what is on order of some assets, whatever its limit orders say.

    These are the assets of which a forced limit leaves less than the position, and all of an account that is stopped.

    Args:
      portfolio: at the close of the decision.
      allowed: what masks allow the positions; None for everything.
      stopped: `[]` bool, everything is being closed; None where nothing stops an account.
    """
    if isinstance(portfolio.resting, tuple):
        return portfolio
    urgent = jnp.zeros(portfolio.shares.shape, bool)
    if stopped is not None:
        urgent = urgent | stopped
    if allowed is not None:
        position = weights_of(portfolio)
        left = feasible_hold_of(allowed.limits, position, position, allowed.tradable)
        urgent = urgent | (jnp.abs(left) < jnp.abs(position) - ROUNDING)
    return portfolio.replace(resting=portfolio.resting.replace(urgent=urgent))
