"""A decision with what became of it: sizing, masks, leverage, lots."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxppo.backtest.account import AccountRules, AccountState, Ordered, place_orders
from jaxppo.backtest.mask_attribution import SAME, LeftOut, with_one_left_out
from jaxppo.envs.execution.bars import unpack_bar
from jaxppo.envs.execution.costs import Costs, trade_costs
from jaxppo.envs.execution.limit_orders import as_ordered
from jaxppo.envs.execution.margin import leverage_use_at
from jaxppo.envs.execution.portfolio import expected_weights, orders_to_target, target_scale, weights_of
from jaxppo.envs.trading.account import BarRow
from jaxppo.policy.protocol import Policy


class Explained(NamedTuple):
    """What an account decided and ordered at the close of a bar, and why; M masks.

    Attributes:
      weights: `[A]` of the positions at that close, fractions of equity.
      decided: `[A]` weights that the policy wants; of assets that it leaves alone, what they are expected to have.
      sized: `[A]` weights after sizing.
      targets: `[A]` weights that the orders lead to: after masks, monitored limits and the leverage limit.
      ordered: `[A]` shares, signed.
      cost: `[A]` currency that these orders are expected to cost, at the last price.
      bound: `[M, A]` bool, the mask changed the target.
      levered: `[A]` bool, the leverage limit left less than the target.
      cut: `[A]` bool, the order was cut to whole lots, or was too small to be sent.
      tradable: `[A]` bool.
      equity: `[]` currency at that close.
      stopped: `[]` bool, a monitored limit has closed the account down.
      liquidated: `[]` bool, the account was liquidated and trades no more.
      limit: `[A]` limits of the orders, currency per share, NaN of orders at the market; `()` without limit orders.
    """

    weights: jax.Array
    decided: jax.Array
    sized: jax.Array
    targets: jax.Array
    ordered: jax.Array
    cost: jax.Array
    bound: jax.Array
    levered: jax.Array
    cut: jax.Array
    tradable: jax.Array
    equity: jax.Array
    stopped: jax.Array
    liquidated: jax.Array
    limit: Any = ()


def explained_orders(
    policy: Policy, rules: AccountRules, costs: Costs, state: AccountState, row: BarRow
) -> tuple[AccountState, Ordered, Explained]:
    """`place_orders` with its reasons.

    Args:
      policy: who decides.
      rules: what the account trades under.
      costs: cost parameters.
      state: at the close of the bar.
      row: what the bar reads of the market; of the bar after it only what is known before it opens.

    Returns:
      The account with its orders placed, what it ordered, and why.
    """
    after, ordered = place_orders(policy, rules, costs, state, row)
    env, account, portfolio = rules.env, state.account, state.account.portfolio
    present, placed = expected_weights(portfolio), ordered.placed
    weights, hold = ordered.decided
    decided = jnp.where(hold, present, weights)
    sized = decided
    if rules.limited and env.sizing is not None:
        sized, _, _ = env.size(account.sizing, row.sizing, portfolio, weights, hold)
    use, never = leverage_use_at(row.next_bar, costs), jnp.zeros((), bool)
    scale = target_scale(portfolio, placed.targets, placed.hold, costs, use)
    levered = ~placed.hold & (scale < 1.0 - SAME)
    any_size = costs.replace(lot_size=(), minimum_notional=())
    cut = placed.ordered != orders_to_target(portfolio, placed.targets, placed.hold, any_size, use)
    cost = trade_costs(placed.ordered, portfolio.price, unpack_bar(row.next_bar), costs)
    cost, limit = as_ordered(placed.ordered, after.account.portfolio, cost, costs.limit_orders)
    why = Explained(
        weights=weights_of(portfolio),
        decided=decided,
        sized=sized,
        targets=jnp.where(placed.hold, 1.0, scale) * placed.targets,
        ordered=placed.ordered,
        cost=cost.total(),
        bound=_bound(policy, rules, costs, state, row, placed.targets),
        levered=levered,
        cut=cut,
        tradable=row.tradable,
        equity=portfolio.equity,
        stopped=never if account.stopped is None else account.stopped,
        liquidated=never if account.liquidated is None else account.liquidated,
        limit=limit,
    )
    return after, ordered, why


def mask_names(rules: AccountRules) -> tuple[str, ...]:
    """Names of the M masks of `Explained.bound`, in order."""
    masks = rules.env.masks
    return () if masks is None or not rules.limited else tuple(part.name for part in masks.parts)


def _bound(
    policy: Policy, rules: AccountRules, costs: Costs, state: AccountState, row: BarRow, targets: jax.Array
) -> jax.Array:
    """Which masks `[M, A]` changed the targets: without each of them the account decides anew."""
    n_masks = len(mask_names(rules))
    if n_masks == 0:
        return jnp.zeros((0, *targets.shape), bool)
    without = rules._replace(env=with_one_left_out(rules.env))

    def targets_without(number: jax.Array) -> jax.Array:
        account = state.account.replace(masks=LeftOut(state.account.masks, number))
        return place_orders(policy, without, costs, state.replace(account=account), row)[1].placed.targets

    return jnp.abs(jax.vmap(targets_without)(jnp.arange(n_masks)) - targets[None]) > SAME
