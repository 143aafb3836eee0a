"""What each mask did over a period: how often it bound, what exposure it removed, what costs it saved."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxppo.backtest.account import AccountRules, AccountState, AccountStep, open_account, step_account
from jaxppo.backtest.simulate import market_rows, policy_rows
from jaxppo.envs.execution.limits import Limits, intersection, no_limits, relax
from jaxppo.envs.execution.portfolio import Portfolio, weights_of
from jaxppo.envs.market.features import REGIMES
from jaxppo.envs.trading.account import BarRow
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.types import EnvParams
from jaxppo.masks.transform import apply_each
from jaxppo.policy.networks.actor_critic import Params
from jaxppo.policy.protocol import Policy
from jaxppo.report.results import MaskEffect
from jaxppo.risk.monitor import NO_MONITOR

SAME = 1e-5
"""Weights that differ by less are the same decision."""


def mask_effects(
    agent: Policy,
    rules: AccountRules,
    params: EnvParams,
    first: int,
    n_bars: int,
    regimes: np.ndarray | None = None,
) -> dict[str, MaskEffect]:
    """Effects of the masks of an environment over a period.

    Args:
      agent: who decides.
      rules: what its account trades under; its masks are measured.
      params: the market and its costs.
      first: first decision bar.
      n_bars: number of decisions.
      regimes: `[T, A, 4]` probabilities at every close; None without regimes. Decisions, and what they lead to, count
        in the regime in which they are made.

    Returns:
      mask -> effect, in the order of the chain; masks of one kind are numbered. Empty without masks.
    """
    env, periods = rules.env, rules.periods
    if env.masks is None:
        return {}
    unmonitored = rules._replace(monitor=NO_MONITOR)
    found = _leave_one_out(agent.without_params(), agent.params, unmonitored, params, jnp.int32(first), n_bars)
    found = jax.device_get(found)
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


@partial(jax.jit, static_argnames=("static", "rules", "n_bars"))
def _leave_one_out(
    static: Policy, net: Params, rules: AccountRules, params: EnvParams, first: jax.Array, n_bars: int
) -> dict[str, jax.Array]:
    """What M masks change, and the accounts without them.

    Args:
      static: the agent without its parameters.
      net: its parameters.
      rules: what the accounts trade under.
      params: the market and its costs.
      first: `[]` int32, first decision bar.
      n_bars: number of decisions.

    Returns:
      `bound` `[n, M, A]` whether each changed a decision of the account with all masks; `exposure` and `costs`
      `[n, 1 + M, A]`, fractions of equity, of that account and of those without one of the masks. Financing, which has
      no asset, is spread evenly.
    """
    policy, n_masks = static._replace(params=net), len(rules.env.masks.parts)
    rules = rules._replace(env=with_one_left_out(rules.env))
    one = open_account(policy, rules, params, first)
    states = jax.tree.map(lambda x: jnp.broadcast_to(x, (1 + n_masks, *x.shape)), one)
    rows = market_rows(params, first, n_bars, policy_rows(policy, rules, params, first, n_bars))

    def step(state: AccountState, left_out: jax.Array, row: BarRow) -> tuple[AccountState, AccountStep]:
        masks = state.account.masks.replace(left_out=left_out)
        state = state.replace(account=state.account.replace(masks=masks))
        return step_account(policy, rules, params.costs, state, row)

    over = jax.vmap(step, in_axes=(0, 0, None))

    def one_bar(states: AccountState, row: BarRow) -> tuple[AccountState, dict[str, jax.Array]]:
        # The account with all masks decides M more times, each without another one; of these only the decision counts.
        again = jax.tree.map(lambda x: jnp.broadcast_to(x[0], (n_masks, *x.shape[1:])), states)
        others = over(again, jnp.arange(n_masks), row)[1].result.targets
        states, steps = over(states, jnp.arange(1 + n_masks) - 1, row)
        before, fills = steps.result.before, steps.result.fills
        equity = jnp.where(before.equity > 0, before.equity, 1.0)[:, None]
        paid = fills.costs.total() + fills.financing[:, None] / rules.env.n_assets
        line = {
            "exposure": jnp.abs(jax.vmap(weights_of)(steps.result.after)),
            "costs": paid / equity,
            "bound": jnp.abs(others - steps.result.targets[:1]) > SAME,
        }
        return states, line

    return jax.lax.scan(one_bar, states, rows)[1]


class LeftOut(struct.PyTreeNode):
    """State of masks of which one is left out.

    Attributes:
      parts: states of the masks.
      left_out: `[]` int32, which; -1 for none.
    """

    parts: Any
    left_out: jax.Array


def with_one_left_out(env: TradingEnv) -> TradingEnv:
    """The environment with masks whose state says which one is left out.

    Args:
      env: with masks.
    """
    parts = env.masks.parts

    def init(n_assets: int) -> LeftOut:
        return LeftOut(env.masks.init(n_assets), jnp.int32(-1))

    def apply(state: LeftOut, row: Any, portfolio: Portfolio) -> tuple[Limits, LeftOut]:
        each, states = apply_each(parts, state.parts, row, portfolio)
        limits = no_limits(env.n_assets)
        for number, one in enumerate(each):
            limits = intersection(limits, relax(one, state.left_out == number))
        return limits, state.replace(parts=states)

    changed = copy.copy(env)
    changed.masks = env.masks._replace(init=init, apply=apply)
    return changed
