"""What each mask did over a period: how often it bound, what exposure it removed, what trading it saved."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from envs.execution import trade_costs, unpack_bar
from envs.features import REGIMES
from envs.limits import Constraint, constrain, enforced, intersection, no_limits
from envs.portfolio import Portfolio, expected_weights, open_portfolio, orders_to_target
from envs.trading import TradingEnv
from envs.types import EnvParams
from jaxppo.backtest.simulate import decide_without_randomness, prepare_bars
from jaxppo.masks.transform import apply_each
from jaxppo.networks.policy import Params, Policy

SAME = 1e-5
"""Weights that differ by less are the same decision."""


@dataclasses.dataclass(frozen=True)
class MaskEffect:
    """What one mask did, against the same decisions with all masks but this one.

    Attributes:
      bound: share of the decisions about an asset with a bar that it changed.
      exposure_removed: mean of the gross exposure without it less that with it, fraction of equity.
      costs_saved: costs of the orders without it less those with it, per year, fraction of equity; negative where it
        made trading dearer.
      by_regime: share of the decisions that it changed in each regime that occurred.
    """

    bound: float
    exposure_removed: float
    costs_saved: float
    by_regime: dict[str, float]


def mask_effects(
    policy: Policy,
    env: TradingEnv,
    net: Params,
    params: EnvParams,
    first: int,
    n_bars: int,
    decision: Literal["mode", "mean"],
    periods: float,
    regimes: np.ndarray | None = None,
) -> dict[str, MaskEffect]:
    """Effects of the masks of an environment along the path that its account takes with all of them.

    Args:
      policy: the policy.
      env: the environment.
      net: the policy's parameters.
      params: the market and its costs.
      first: first decision bar.
      n_bars: number of decisions.
      decision: see `run_policy`.
      periods: bars per year.
      regimes: `[T, A, 4]` probabilities at every close; None without regimes.

    Returns:
      mask -> effect, in the order of the chain; masks of one kind are numbered. Empty without masks.
    """
    if env.masks is None:
        return {}
    found = jax.device_get(_leave_one_out(policy, env, net, params, jnp.int32(first), n_bars, decision))
    there = np.asarray(params.market.tradable)[first : first + n_bars]
    now = None if regimes is None else np.argmax(np.asarray(regimes)[first : first + n_bars], axis=-1)
    names = [part.name for part in env.masks.parts]
    effects = {}
    for i, name in enumerate(names):
        bound = found["bound"][:, i] & there
        by_regime = {}
        if now is not None:
            in_regime = {regime: there & (now == number) for number, regime in enumerate(REGIMES)}
            by_regime = {regime: float(bound[where].mean()) for regime, where in in_regime.items() if where.any()}
        number = names[: i + 1].count(name)
        effects[name if names.count(name) == 1 else f"{name} {number}"] = MaskEffect(
            bound=float(bound[there].mean()) if there.any() else 0.0,
            exposure_removed=float(found["exposure"][:, i].mean(dtype=np.float64)),
            costs_saved=float(found["costs"][:, i].mean(dtype=np.float64)) * periods,
            by_regime=by_regime,
        )
    return effects


@partial(jax.jit, static_argnames=("policy", "env", "n_bars", "decision"))
def _leave_one_out(
    policy: Policy, env: TradingEnv, net: Params, params: EnvParams, first: jax.Array, n_bars: int, decision: str
) -> dict[str, jax.Array]:
    """`[n, M]` exposure and costs that each of M masks removes, `[n, M, A]` whether it changed a decision."""
    rows, mask_rows, tradable = (
        jax.tree.map(lambda x, start=start: jax.lax.dynamic_slice_in_dim(x, start, n_bars), table)
        for table, start in ((params.table, first + 1), (params.masks, first), (params.market.tradable, first))
    )
    parts = env.masks.parts
    portfolio = open_portfolio(params.market.close[first], params.initial_cash, env.fill_rule)
    prepared = prepare_bars(policy, net, params, first, n_bars)

    def one_bar(carry: tuple[Portfolio, Any, jax.Array], xs: Any) -> tuple[Any, dict[str, jax.Array]]:
        portfolio, state, dead = carry
        bar, row, mask_row, now, ready = xs
        each, state = apply_each(parts, state, mask_row, portfolio)
        next_bar, equity = unpack_bar(row), jnp.where(portfolio.equity > 0, portfolio.equity, 1.0)

        def decided(left_out: int | None) -> tuple[jax.Array, jax.Array, Constraint]:
            """Targets and the costs of their orders, without one of the masks."""
            limits = no_limits(env.n_assets)
            for number, one in enumerate(each):
                limits = limits if number == left_out else intersection(limits, one)
            constraint = constrain(limits, portfolio, now, bar)
            seen = env.observe_portfolio(bar, portfolio, now, constraint)
            wanted, hold = decide_without_randomness(policy, env, net, portfolio, seen, ready, constraint, decision)
            weights = enforced(constraint, wanted, hold | dead)
            held = (weights == expected_weights(portfolio)) | ~now
            order = orders_to_target(portfolio, weights, held, params.costs)
            return (
                weights,
                trade_costs(order, portfolio.price, next_bar, params.costs).total().sum() / equity,
                constraint,
            )

        weights, paid, constraint = decided(None)
        others = [decided(i) for i in range(len(parts))]
        line = {
            "bound": jnp.stack([jnp.abs(other - weights) > SAME for other, *_ in others]),
            "exposure": jnp.stack([jnp.abs(other).sum() - jnp.abs(weights).sum() for other, *_ in others]),
            "costs": jnp.stack([cost - paid for _, cost, _ in others]),
        }
        hold = jnp.zeros(env.n_assets, bool)
        after, fills, _ = env.settle(portfolio, weights, hold | dead, now, row, params.costs, constraint)
        return (after, state, dead | fills.liquidated), line

    xs = (first + jnp.arange(n_bars), rows, mask_rows, tradable, prepared)
    return jax.lax.scan(one_bar, (portfolio, env.mask_start(), jnp.zeros((), bool)), xs)[1]
