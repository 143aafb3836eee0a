"""Equal contributions to risk."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxppo.arguments import CodeOnly, PositiveInt, ProperFraction, checked
from jaxppo.envs.execution.portfolio import Portfolio
from jaxppo.envs.market.covariance import ewma_covariance
from jaxppo.envs.market.precision import matmul
from jaxppo.envs.market.safe import root
from jaxppo.envs.trading.transform import SizingTransform
from jaxppo.envs.trading.view import MarketView
from jaxppo.risk.sizing.transform import scaling


@checked
def equal_risk_contribution(
    *, span: PositiveInt = 63, tolerance: ProperFraction = 0.1, cycles: CodeOnly[PositiveInt] = 30
) -> SizingTransform:
    """Resizes positions so that their contributions to the forecast variance are in proportion to their targets.

    Absolute targets are the risk budgets, their signs those of the positions: equal ones for equal contributions
    `w_i (C w)_i`. The gross exposure stays that of the targets, up to `tolerance`.

    Args:
      span: bars of the exponential covariance C.
      tolerance: relative change of the ratio of an asset's size to its target that is not traded.
      cycles: times that the solver visits each asset.

    Reference: Maillard, Roncalli, Teiletche (2010), The Properties of Equally Weighted Risk Contribution Portfolios.
    """

    def table(view: MarketView) -> jax.Array:
        return ewma_covariance(view.market, span)

    def factor(state: Any, covariance: jax.Array, portfolio: Portfolio, targets: jax.Array) -> tuple[jax.Array, Any]:
        budgets, sides = jnp.abs(targets), jnp.where(targets < 0, -1.0, 1.0)
        gross = jnp.sum(budgets)
        shares = risk_parity(covariance * (sides[:, None] * sides[None, :]), budgets, cycles)
        return jnp.where(budgets > 0, gross * shares / jnp.where(budgets > 0, budgets, 1.0), 1.0), state

    return scaling("equal_risk_contribution", table, factor, warmup=span, tolerance=tolerance)


def risk_parity(covariance: jax.Array, budgets: jax.Array, cycles: int = 30) -> jax.Array:
    """Solves for long-only weights `[A]` that sum to 1, with risk contributions `w_i (C w)_i` as the budgets say.

    The weights are the minimum of `x' C x / 2 - sum_i b_i log x_i`, which is convex, divided by their sum; found by
    cyclical coordinate descent on correlations, `x_i = (sqrt(c^2 + 4 C_ii b_i) - c) / (2 C_ii)`,
    `c = sum_{j != i} C_ij x_j`.

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
        others = matmul(correlation[asset], x) - x[asset]
        reach = root(jnp.square(others) + 4.0 * share[asset])
        # The same root twice: no difference of nearly equal numbers.
        ahead = others > 0
        positive = jnp.where(ahead, 2.0 * share[asset] / jnp.where(ahead, reach + others, 1.0), 0.5 * (reach - others))
        return x.at[asset].set(jnp.where(share[asset] > 0, positive, 0.0))

    x = jax.lax.fori_loop(0, cycles * n_assets, visit, root(share))
    weights = x / deviation
    total = jnp.sum(weights)
    return weights / jnp.where(total > 0, total, 1.0)
