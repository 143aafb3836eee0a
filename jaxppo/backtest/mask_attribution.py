"""What each mask did over a period: how often it bound, what exposure it removed, what costs it saved."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.backtest.simulate import decide_without_randomness, prepare_bars
from jaxppo.envs.execution.limits import Constraint, intersection, no_limits, project, relax
from jaxppo.envs.execution.portfolio import Portfolio, open_portfolio, weights_of
from jaxppo.envs.market.features import REGIMES
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.types import EnvParams
from jaxppo.masks.transform import apply_each
from jaxppo.policy.networks.actor_critic import Params, Policy

SAME = 1e-5
"""Weights that differ by less are the same decision."""


@dataclasses.dataclass(frozen=True)
class MaskEffect:
    """What one mask did, against the same policy with all masks but this one.

    What two masks forbid alike neither does alone: it counts for none of them.

    Attributes:
      bound: share of the decisions about an asset with a bar that it changed, along the path with all masks.
      exposure_removed: mean gross exposure at the close of an account without it, less that of the account with it;
        fraction of equity. Each account trades through the whole period.
      costs_saved: costs of trading and financing of the account without it, less those of the account with it; per
        year, fraction of equity. Negative where it made trading dearer.
      by_regime: the same of the decisions, positions and costs of assets in each regime that occurred: `bound` is a
        share of the decisions in it; exposure and costs are contributions, which add up to the whole.
    """

    bound: float
    exposure_removed: float
    costs_saved: float
    by_regime: dict[str, dict[str, float]]


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
    """Effects of the masks of an environment over a period.

    Args:
      policy: the policy.
      env: the environment.
      net: the policy's parameters.
      params: the market and its costs.
      first: first decision bar.
      n_bars: number of decisions.
      decision: see `run_policy`.
      periods: bars per year.
      regimes: `[T, A, 4]` probabilities at every close; None without regimes. Decisions, and what they lead to, count
        in the regime in which they are made.

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
        less = {key: found[key][:, i + 1].astype(np.float64) - found[key][:, 0] for key in ("exposure", "costs")}

        def over(where: np.ndarray, bound: np.ndarray = bound, less: dict[str, np.ndarray] = less) -> dict[str, float]:
            """The effect at the bars of assets `[n, A]`."""
            decided = there & where
            return {
                "bound": float(bound[decided].mean()) if decided.any() else 0.0,
                "exposure_removed": float(less["exposure"][where].sum()) / n_bars,
                "costs_saved": float(less["costs"][where].sum()) / n_bars * periods,
            }

        of_regimes = {} if now is None else {name: now == number for number, name in enumerate(REGIMES)}
        by_regime = {regime: over(where) for regime, where in of_regimes.items() if (there & where).any()}
        number = names[: i + 1].count(name)
        key = name if names.count(name) == 1 else f"{name} {number}"
        effects[key] = MaskEffect(**over(np.ones_like(there)), by_regime=by_regime)
    return effects


@partial(jax.jit, static_argnames=("policy", "env", "n_bars", "decision"))
def _leave_one_out(
    policy: Policy, env: TradingEnv, net: Params, params: EnvParams, first: jax.Array, n_bars: int, decision: str
) -> dict[str, jax.Array]:
    """What M masks change and the accounts without them.

    Returns:
      `bound` `[n, M, A]` whether each changed a decision of the account with all masks; `exposure` and `costs`
      `[n, 1 + M, A]`, fractions of equity, of that account and of those without one of the masks. Financing, which has
      no asset, is spread evenly.
    """
    rows = jax.lax.dynamic_slice_in_dim(params.table, first + 1, n_bars)
    mask_rows, sizing_rows, tradable = jax.tree.map(
        lambda x: jax.lax.dynamic_slice_in_dim(x, first, n_bars), (params.masks, params.sizing, params.market.tradable)
    )
    parts, n_assets = env.masks.parts, env.n_assets
    n_accounts = 1 + len(parts)
    fresh = open_portfolio(params.market.close[first], params.initial_cash, env.fill_rule)
    start = (fresh, env.mask_start(), env.sizing_start(), jnp.zeros((), bool))
    accounts = jax.tree.map(lambda x: jnp.broadcast_to(x, (n_accounts, *x.shape)), start)
    prepared = prepare_bars(policy, net, params, first, n_bars)
    # Account 0 has all masks. It decides M more times, each time without another one, and those decisions are dropped.
    account = jnp.concatenate([jnp.arange(n_accounts), jnp.zeros(len(parts), jnp.int32)])
    left_out = jnp.concatenate([jnp.arange(n_accounts), jnp.arange(1, n_accounts)]) - 1

    def one_bar(carry: tuple[Portfolio, Any, Any, jax.Array], xs: Any) -> tuple[Any, dict[str, jax.Array]]:
        portfolios, states, sizing, dead = carry
        bar, row, mask_row, sizing_row, now, ready = xs
        each, states = jax.vmap(lambda state, portfolio: apply_each(parts, state, mask_row, portfolio))(
            states, portfolios
        )

        def decided(account: jax.Array, left_out: jax.Array) -> tuple[jax.Array, Constraint, Any]:
            portfolio, own, sizes, gone = jax.tree.map(lambda x: x[account], (portfolios, each, sizing, dead))
            limits = no_limits(n_assets)
            for number, one in enumerate(own):
                limits = intersection(limits, relax(one, left_out == number))
            constraint = env.constraint(limits, bar, portfolio, now, sizes)
            seen = env.observe_portfolio(bar, portfolio, now, constraint)
            wanted, hold = decide_without_randomness(policy, env, net, portfolio, seen, ready, constraint, decision)
            wanted, hold, sizes = env.size(sizes, sizing_row, portfolio, wanted, hold)
            return project(constraint, wanted, hold | gone), constraint, sizes

        def lived(
            portfolio: Portfolio, weights: jax.Array, constraint: Constraint, gone: jax.Array
        ) -> tuple[Portfolio, jax.Array, dict[str, jax.Array]]:
            equity = jnp.where(portfolio.equity > 0, portfolio.equity, 1.0)
            hold = jnp.zeros(n_assets, bool) | gone
            after, fills, _ = env.settle(portfolio, weights, hold, now, row, params.costs, constraint)
            paid = fills.costs.total() + fills.financing / n_assets
            return after, gone | fills.liquidated, {"exposure": jnp.abs(weights_of(after)), "costs": paid / equity}

        weights, constraints, sizes = jax.vmap(decided)(account, left_out)
        own, others = weights[:n_accounts], weights[n_accounts:]
        kept, sizing = jax.tree.map(lambda x: x[:n_accounts], (constraints, sizes))
        portfolios, dead, line = jax.vmap(lived)(portfolios, own, kept, dead)
        line["bound"] = jnp.abs(others - own[:1]) > SAME
        return (portfolios, states, sizing, dead), line

    xs = (first + jnp.arange(n_bars), rows, mask_rows, sizing_rows, tradable, prepared)
    return jax.lax.scan(one_bar, accounts, xs)[1]
