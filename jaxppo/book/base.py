"""A base as the sizing of an account: decisions are tilts around what a rule or another agent holds."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.book.paper_accounts import open_paper_accounts
from jaxppo.book.sizing import next_bars
from jaxppo.envs.execution.costs import Costs
from jaxppo.envs.execution.portfolio import Portfolio, expected_weights, open_portfolio
from jaxppo.envs.market.rows import row_number
from jaxppo.envs.market.safe import with_derivative
from jaxppo.envs.trading.account import Account, BarRow, View
from jaxppo.envs.trading.bar import OneBar
from jaxppo.envs.trading.types import EnvParams
from jaxppo.envs.trading.view import MarketView
from jaxppo.policy.protocol import Observed, Policy
from jaxppo.risk.sizing.transform import UNCHANGED, Base, Sizing, SizingTransform, through

Tilt = Literal["add", "scale"]


class BaseRow(struct.PyTreeNode):
    """What a base reads of a bar; leading axis T in its table.

    Attributes:
      number: `[]` int32 of the bar.
      tradable: `[A]` bool.
      costs: of its account.
      policy: row of the table of its policy.
      next_bar: `[fields, A]` packed, for margins by volatility; `()` without them.
    """

    number: jax.Array
    tradable: jax.Array
    costs: Costs
    policy: Any
    next_bar: Any = ()


class BaseState(struct.PyTreeNode):
    """A base and the tilts around it at the close of a bar.

    Attributes:
      account: of the base, which trades by itself.
      ordered: `[A]` shares that it ordered at that close.
      policy: state of its policy.
      tilt: `[A]` last decided tilts.
      begun: `[]` bool, whether the base has its cash and its marks.
      parts: states of the transforms of the tilts.
    """

    account: Account
    ordered: jax.Array
    policy: Any
    tilt: jax.Array
    begun: jax.Array
    parts: tuple[Any, ...]


class BasePart(NamedTuple):
    """A base among the parts of a sizing.

    Attributes:
      name: "base".
      table: `MarketView -> BaseRow`.
    """

    name: str
    table: Any


def tilted(
    policy: Policy,
    env: OneBar,
    costs: Costs,
    *,
    tilt: Tilt = "add",
    before: Sequence[SizingTransform] = (),
    after: Sequence[SizingTransform] = (),
) -> Sizing:
    """Sizes decisions as tilts around a base.

    The base trades a paper account, from a flat start with the cash of the account, without masks. Targets are
    `base_a + sized tilt_a`, or `base_a (1 + tilt_a / position limit)`: the account of a policy that never tilts is that
    of the base. Holding keeps the last tilt. Derivatives do not go through the base.

    Args:
      policy: of the base.
      env: what it trades in: fill rule and position limit.
      costs: of its account: those of the environment.
      tilt: "add", or "scale" for tilts that cannot turn a position.
      before: transforms of the tilts, for "add".
      after: transforms of the targets.

    Raises:
      ValueError: a policy that decides on shares or encodes the market block by block, or `before` for "scale".
    """
    if policy.in_shares or policy.encoding is not None:
        kind = "decides on shares" if policy.in_shares else "encodes the market block by block"
        raise ValueError(f"{policy.name} {kind}; a base decides on weights, from a table of its own")
    if tilt == "scale" and before:
        raise ValueError(f"{before[0].name} sizes tilts, but tilts that scale a base are not sized")
    made = _Tilted(policy, env, costs, tilt, tuple(before), tuple(after))
    return Sizing(
        lambda view: tuple(part.table(view) for part in made.parts),
        made.init,
        lambda state, portfolio: state.tilt,
        made.apply,
        made.parts,
        warmup=max([policy.warmup, *(one.warmup for one in (*before, *after))]),
        base=Base(made.weights, made.settle),
    )


class _Tilted(NamedTuple):
    """Arguments of `tilted`, and the functions of its sizing."""

    policy: Policy
    env: OneBar
    costs: Costs
    tilt: Tilt
    before: tuple[SizingTransform, ...]
    after: tuple[SizingTransform, ...]

    @property
    def parts(self) -> tuple[Any, ...]:
        """All that have a table, in order."""
        return (*self.before, BasePart("base", self.table), *self.after)

    def table(self, view: MarketView) -> BaseRow:
        """What the base precomputes of a market."""
        tradable, n_bars = view.market.tradable, view.market.n_bars
        number = row_number(view.market.session)
        costs = jax.tree.map(lambda x: jnp.broadcast_to(x, (n_bars, *x.shape)), self.costs.replace(conditions=()))
        rows = self.policy.table(self.policy.params, view)
        return BaseRow(number, tradable, costs, rows, next_bars(view, self.costs))

    def init(self, n_assets: int) -> BaseState:
        """State before the first close."""
        opened = open_paper_accounts([self.policy], self.env, n_assets, 1.0)
        account, zeros = jax.tree.map(lambda x: x[0], opened.accounts), jnp.zeros(n_assets)
        parts = tuple(one.init(n_assets) for one in (*self.before, *self.after))
        return BaseState(account, zeros, opened.states[0], zeros, jnp.zeros((), bool), parts)

    def weights(self, state: BaseState, portfolio: Portfolio) -> jax.Array:
        """Weights `[A]` that the base has once its orders are filled; before it has begun, those of the account.

        Args:
          state: at the last close.
          portfolio: the account.
        """
        return jnp.where(state.begun, expected_weights(state.account.portfolio), expected_weights(portfolio))

    def settle(self, state: BaseState, bar: jax.Array, costs: Costs) -> tuple[BaseState, jax.Array]:
        """The base through the bar in which its orders fill, and its log return `[]`.

        Args:
          state: its orders placed.
          bar: `[fields, A]` packed.
          costs: cost parameters.
        """
        account, _, outcome, _ = self.env.settle(state.account, state.ordered, bar, costs)
        return jax.lax.stop_gradient((state.replace(account=account), outcome.log_growth))

    def apply(
        self, state: BaseState, row: tuple[Any, ...], portfolio: Portfolio, weights: jax.Array, hold: jax.Array
    ) -> tuple[jax.Array, BaseState]:
        """Lets the base decide, and adds the tilt.

        Args:
          state: at the last close.
          row: of the tables of its parts.
          portfolio: the account.
          weights: `[A]` decided tilts.
          hold: `[A]` bool, assets whose last tilt stays.

        Returns:
          `[A]` targets of the account, fractions of equity, and the next state; the present weight of an asset that is
          left alone.
        """
        number = len(self.before)
        now, account = row[number], self._entered(state, portfolio)
        bar = BarRow(now.number, now.next_bar, now.tradable)
        view = self.env.view(account, bar, limited=False)
        seen = Observed(account.portfolio, now.policy, view.observation)
        decided, policy = self.policy.apply(self.policy.params, state.policy, seen)
        account, (targets, still, ordered) = self.env.place(account, view, bar, decided, now.costs, limited=False)
        before = expected_weights(account.portfolio)
        origin = jax.lax.stop_gradient(jnp.where(still, before, targets))
        tilt = jnp.where(hold, state.tilt, weights)
        sized, of_tilt = through(self.before, state.parts[:number], row[:number], portfolio, tilt)
        scaled = origin * (1.0 + tilt / self.env.position_limit)
        target, present = scaled if self.tilt == "scale" else origin + sized, expected_weights(portfolio)
        target, of_target = through(self.after, state.parts[number:], row[number + 1 :], portfolio, target)
        # What the base leaves alone is left alone where the account holds it already.
        same = still & (jnp.abs(target - present) <= UNCHANGED * jnp.abs(present))
        base = jax.lax.stop_gradient(BaseState(account, ordered, policy, tilt, jnp.ones((), bool), ()))
        # The present weight, with the derivative of the target.
        kept = with_derivative(present, target)
        return jnp.where(same, kept, target), base.replace(tilt=tilt, parts=(*of_tilt, *of_target))

    def _entered(self, state: BaseState, portfolio: Portfolio) -> Account:
        """The account of the base, which begins with the equity and the marks of the whole one."""
        fresh = state.account.replace(portfolio=open_portfolio(portfolio.price, portfolio.equity, self.env.fill_rule))
        return jax.lax.stop_gradient(
            jax.tree.map(lambda old, new: jnp.where(state.begun, old, new), state.account, fresh)
        )


def base_returns(
    policy: Policy, env: OneBar, params: EnvParams, view: MarketView, first: int, n_bars: int
) -> jax.Array:
    """Simple returns `[n_bars]` of a base by itself, from a flat start at the close of a bar.

    Args:
      policy: of the base.
      env: what it trades in: fill rule and actions.
      params: the market, its costs and the cash.
      view: of the market.
      first: bar of the first decision.
      n_bars: decisions.
    """
    env = copy.copy(env)
    env.masks = env.sizing = env.rewards = None
    rows = BarRow(
        first + jnp.arange(n_bars),
        params.table[first + 1 : first + 1 + n_bars],
        params.market.tradable[first : first + n_bars],
        policy=jax.tree.map(lambda x: x[first : first + n_bars], policy.table(policy.params, view)),
    )

    def one_bar(carry: tuple[Account, Any], row: BarRow) -> tuple[tuple[Account, Any], jax.Array]:
        account, state = carry

        def decide(account: Account, seen: View, row: BarRow) -> tuple[jax.Array, jax.Array, Any]:
            targets, after = policy.apply(
                policy.params, state, Observed(account.portfolio, row.policy, seen.observation)
            )
            return *targets, after

        account, result, after = env.step_bar(decide, account, row, params.costs, limited=False)
        return (account, after), jnp.expm1(result.outcome.log_growth)

    portfolio = open_portfolio(params.market.mark(first), params.initial_cash, env.fill_rule)
    start = (Account(portfolio, liquidated=jnp.zeros((), bool)), policy.init(env.n_assets))
    return jax.jit(lambda start, rows: jax.lax.scan(one_bar, start, rows)[1])(start, rows)
