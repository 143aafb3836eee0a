"""Equal risk contribution."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxppo.envs.execution.portfolio import Portfolio
from jaxppo.envs.market.covariance import ewma_covariance
from jaxppo.envs.trading.view import MarketView
from jaxppo.risk.sizing.transform import SizingTransform, scaling


def equal_risk_contribution(*, span: int = 63, tolerance: float = 0.1, cycles: int = 30) -> SizingTransform:
    """Positions whose contributions to the forecast variance are in proportion to their targets.

    The signs of the targets are those of the positions, their absolute values the risk budgets: equal ones for equal
    contributions `w_i (C w)_i`. The gross exposure stays that of the targets, up to
    `tolerance`.

    Args:
      span: bars of the exponential covariance C, see `jaxppo.envs.market.covariance.ewma_covariance`.
      tolerance: relative change of the ratio of an asset's size to its target up to which the last one is kept, >= 0.
      cycles: of the solver, see `risk_parity`.

    Raises:
      ValueError: an argument outside its range.

    Reference: Maillard, Roncalli, Teiletche (2010), The Properties of Equally Weighted Risk Contribution Portfolios.
    """
    if span < 1 or cycles < 1:
        raise ValueError(f"span ({span}) and cycles ({cycles}) must be >= 1")

    def table(view: MarketView) -> jax.Array:
        return ewma_covariance(view.market, span)

    def factor(own: Any, covariance: jax.Array, portfolio: Portfolio, targets: jax.Array) -> tuple[jax.Array, Any]:
        budgets, sides = jnp.abs(targets), jnp.where(targets < 0, -1.0, 1.0)
        gross = jnp.sum(budgets)
        shares = risk_parity(covariance * (sides[:, None] * sides[None, :]), budgets, cycles)
        return jnp.where(budgets > 0, gross * shares / jnp.where(budgets > 0, budgets, 1.0), 1.0), own

    return scaling("equal_risk_contribution", table, lambda n_assets: (), factor, tolerance=tolerance)


def risk_parity(covariance: jax.Array, budgets: jax.Array, cycles: int = 30) -> jax.Array:
    """Long-only weights `[A]` that sum to 1, whose risk contributions `w_i (C w)_i` are in proportion to the budgets.

    They are the minimum of `x' C x / 2 - sum_i b_i log x_i`, which is convex, divided by their sum; found by cyclical
    coordinate descent, `x_i = (sqrt(c^2 + 4 C_ii b_i) - c) / (2 C_ii)`, `c = sum_{j != i} C_ij x_j`, on correlations.

    Args:
      covariance: `[A, A]`, positive definite on the assets with a budget.
      budgets: `[A]` >= 0; an asset without one gets no weight. All 0: no weights.
      cycles: times that each asset is visited, static.

    References:
      Spinu (2013), An Algorithm for Computing Risk Parity Weights; Griveau-Billion, Richard, Roncalli (2013), A Fast
      Algorithm for Computing High-dimensional Risk Parity Portfolios.
    """
    n_assets = budgets.shape[0]
    deviation = jnp.sqrt(jnp.maximum(jnp.diagonal(covariance), jnp.finfo(covariance.dtype).tiny))
    correlation = covariance / (deviation[:, None] * deviation[None, :])
    total = jnp.sum(budgets)
    share = budgets / jnp.where(total > 0, total, 1.0)

    def visit(i: jax.Array, x: jax.Array) -> jax.Array:
        asset = i % n_assets
        others = correlation[asset] @ x - x[asset]
        root = jnp.sqrt(jnp.square(others) + 4.0 * share[asset])
        # The same root twice: no difference of nearly equal numbers.
        positive = jnp.where(others > 0, 2.0 * share[asset] / (root + jnp.abs(others)), 0.5 * (root - others))
        return x.at[asset].set(jnp.where(share[asset] > 0, positive, 0.0))

    x = jax.lax.fori_loop(0, cycles * n_assets, visit, jnp.sqrt(share))
    weights = x / deviation
    total = jnp.sum(weights)
    return weights / jnp.where(total > 0, total, 1.0)
