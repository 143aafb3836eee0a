"""One account, one bar of a backtest: what simulations with and without a ledger share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.envs.execution.costs import Costs
from jaxppo.envs.execution.limits import Constraint
from jaxppo.envs.execution.portfolio import Fills, Portfolio, open_portfolio
from jaxppo.envs.trading.environment import TradingEnv
from jaxppo.envs.trading.types import EnvParams, Observation, Outcome
from jaxppo.risk.monitor import Monitor

Rule = Callable[[Any, Portfolio, Observation, Any, Constraint | None], tuple[jax.Array, jax.Array, Any]]
"""`(state, portfolio, observation, own row, what the masks allow) -> (target weights [A], hold [A], state)`."""


@struct.dataclass
class Account:
    """What is carried from one bar to the next.

    Attributes:
      portfolio: at the close.
      dead: `[]` bool, liquidated: out of the market from then on.
      stopped: `[]` bool, a limit that says `stop` was breached: everything is closed.
      masks: state of the environment's masks.
      sizing: state of its sizing.
      watched: state of the monitor.
      rule: state of whoever decides.
    """

    portfolio: Portfolio
    dead: jax.Array
    stopped: jax.Array
    masks: Any
    sizing: Any
    watched: Any
    rule: Any


@struct.dataclass
class BarRow:
    """What one bar needs of the market.

    Attributes:
      bar: `[]` int32, the decision bar.
      next_bar: `[fields, A]`, the bar that is lived through, see `jaxppo.envs.execution.costs.pack_bars`.
      tradable: `[A]` bool at the decision.
      masks: row of the table of the masks, at the decision.
      sizing: row of that of the sizing.
      own: row of the table of whoever decides.
    """

    bar: jax.Array
    next_bar: jax.Array
    tradable: jax.Array
    masks: Any
    sizing: Any
    own: Any


class StepResult(NamedTuple):
    """What one bar did.

    Attributes:
      before: account at the decision.
      ordered: `[A]` shares, signed.
      after: account at the next close.
      fills: what was filled between.
      outcome: of the bar.
      levels: watched limit -> `[]` level after it.
      dead: `[]` bool after it.
    """

    before: Portfolio
    ordered: jax.Array
    after: Portfolio
    fills: Fills
    outcome: Outcome
    levels: dict[str, jax.Array]
    dead: jax.Array


def open_account(env: TradingEnv, params: EnvParams, first: jax.Array, monitor: Monitor, rule: Any = ()) -> Account:
    """A flat account at the close of bar `first`; `rule` is the state of whoever decides."""
    going = jnp.zeros((), bool)
    return Account(
        portfolio=open_portfolio(params.market.close[first], params.initial_cash, env.fill_rule),
        dead=going,
        stopped=going,
        masks=env.mask_start(),
        sizing=env.sizing_start(),
        watched=monitor.init(),
        rule=rule,
    )


def live(
    decide: Rule,
    env: TradingEnv,
    costs: Costs,
    account: Account,
    row: BarRow,
    *,
    limited: bool,
    monitor: Monitor,
    in_shares: bool = False,
) -> tuple[Account, StepResult]:
    """A decision at the close of a bar, and the bar after it.

    Args:
      decide: see `Rule`.
      env: fill rule, action space, masks and sizing.
      costs: cost parameters.
      account: at the decision.
      row: what it needs of the market.
      limited: see `simulate`.
      monitor: see `simulate`.
      in_shares: whether `decide` returns orders in shares instead of target weights; only without masks and sizing.
    """
    portfolio, masks, sizing, constraint = account.portfolio, account.masks, account.sizing, None
    if limited:
        constraint, masks = env.limit(masks, row.masks, row.bar, portfolio, row.tradable, sizing)
    seen = env.observe_portfolio(row.bar, portfolio, row.tradable, constraint)
    weights, hold, rule = decide(account.rule, portfolio, seen, row.own, constraint)
    if limited:
        weights, hold, sizing = env.size(sizing, row.sizing, portfolio, weights, hold)
    weights, hold = jnp.where(account.stopped, 0.0, weights), (hold & ~account.stopped) | account.dead
    if in_shares:
        ordered = jnp.where(hold | ~row.tradable, 0.0, weights)
    else:
        ordered = env.orders(portfolio, weights, hold, row.tradable, costs, constraint)
    after, fills, growth = env.fill(portfolio, ordered, row.next_bar, costs)
    outcome = env.outcome(portfolio, after, fills, growth)
    levels, watched = monitor.apply(account.watched, outcome)
    dead, stopped = account.dead | fills.liquidated, account.stopped
    lived = StepResult(portfolio, ordered, after, fills, outcome, levels, dead)
    if limited:
        fired = monitor.stops(levels) & ~stopped
        after = after.replace(unfilled=jnp.where(fired, 0.0, after.unfilled))
        stopped = stopped | fired
    return Account(after, dead, stopped, masks, sizing, watched, rule), lived
