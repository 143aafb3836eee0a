"""A book of strategies as the sizing of an account: it holds what its strategies hold, by their allocations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.book.allocation import Allocation, AllocationRule
from jaxppo.book.paper_accounts import AGENT, PaperAccounts, open_paper_accounts, place, settle
from jaxppo.envs.execution.bars import pack_bars
from jaxppo.envs.execution.costs import Costs
from jaxppo.envs.execution.portfolio import Portfolio, expected_weights
from jaxppo.envs.market.precision import matmul
from jaxppo.envs.market.rows import row_number
from jaxppo.envs.trading.account import BarRow
from jaxppo.envs.trading.bar import OneBar
from jaxppo.envs.trading.view import MarketView
from jaxppo.policy.protocol import Policy
from jaxppo.risk.sizing.transform import UNCHANGED, Sizing, SizingState, SizingTransform, chain, through


class BookRow(struct.PyTreeNode):
    """What a book reads of a bar; leading axis T in its table.

    Attributes:
      number: `[]` int32 of the bar.
      bar: `[fields, A]` packed, see `jaxppo.envs.execution.bars.pack_bars`.
      tradable: `[A]` bool.
      costs: of the paper accounts.
      strategies: rows of the strategies' tables; `()` for the agent.
      next_bar: `[fields, A]` packed, for margins by volatility, which hold from the decision on; `()` without them.
    """

    number: jax.Array
    bar: jax.Array
    tradable: jax.Array
    costs: Costs
    strategies: tuple[Any, ...]
    next_bar: Any = ()


class BookState(struct.PyTreeNode):
    """A book at the close of a bar.

    Attributes:
      paper_accounts: the strategies' own accounts.
      allocation: of the strategies.
      before: state of the sizing of the agent's decisions.
      after: states of the transforms of the book's targets.
    """

    paper_accounts: PaperAccounts
    allocation: Allocation
    before: SizingState
    after: tuple[Any, ...]


class BookPart(NamedTuple):
    """A book among the parts of a sizing.

    Attributes:
      name: "book".
      table: `MarketView -> BookRow`.
    """

    name: str
    table: Callable[[MarketView], BookRow]


def book(
    strategies: Sequence[Policy | str],
    rule: AllocationRule,
    *,
    env: OneBar,
    costs: Costs,
    initial_cash: float = 1e6,
    before: Sequence[SizingTransform] = (),
    after: Sequence[SizingTransform] = (),
) -> Sizing:
    """Trades `sum_i allocation_i w_i` for strategies with weights `w_i` in accounts of their own.

    Each strategy trades a paper account from a flat start with the cash of the whole account, so that costs that grow
    with size are at least those that its part will pay. The agent is the strategy that decides here: its paper account
    begins as the account itself, positions included; what it holds, and what bands and buckets count from, is its
    position there; what it observes is the account, which holds the positions of all strategies.

    Between allocations the account is left alone in an asset in which no strategy with an allocation trades, as long as
    it is within `rule.rebalance` of its target there (a share of the larger of the two), and not beyond what transforms
    after the book leave of it: separate accounts would not trade either.

    Args:
      strategies: M >= 1 of them, with different names; "agent" stands for the decision that is being sized.
      rule: how much each strategy is allocated.
      env: what the book trades in; paper accounts fill by its rule and observe by its actions, without its masks and
        sizing.
      costs: of the paper accounts: those of the environment.
      initial_cash: of the paper accounts, currency, > 0.
      before: transforms of the agent's decisions, for its paper account.
      after: transforms of the book's targets, for the account.

    Raises:
      ValueError: no strategy, two of one name, one that decides on shares or encodes the market block by block, or
        `before` without an agent.
    """
    strategies = tuple(strategies)
    names = strategy_names(strategies)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"strategies need different names; the book has {', '.join(names) or 'none'}")
    for one in strategies:
        if not isinstance(one, str) and (one.in_shares or one.encoding is not None):
            kind = "decides on shares" if one.in_shares else "encodes the market block by block"
            raise ValueError(f"{one.name} {kind}; a strategy of a book decides on weights, from a table of its own")
    if before and AGENT not in names:
        raise ValueError(f"{before[0].name} sizes what the agent decides, but the book has no agent")
    made = _Book(strategies, rule, env, costs, initial_cash, tuple(before), tuple(after))
    formed = [one.warmup for one in (*strategies, *before, *after) if not isinstance(one, str)]
    return Sizing(
        lambda view: tuple(part.table(view) for part in made.parts),
        made.init,
        made.pre_sizing_targets,
        made.apply,
        made.parts,
        warmup=max(formed, default=0),
    )


class _Book(NamedTuple):
    """Arguments of `book`, and the functions of its sizing."""

    strategies: tuple[Policy | str, ...]
    rule: AllocationRule
    env: OneBar
    costs: Costs
    initial_cash: float
    before: tuple[SizingTransform, ...]
    after: tuple[SizingTransform, ...]

    @property
    def agent(self) -> int | None:
        """Number of the agent among the strategies."""
        names = strategy_names(self.strategies)
        return names.index(AGENT) if AGENT in names else None

    @property
    def parts(self) -> tuple[Any, ...]:
        """All that have a table, in order."""
        return (*self.before, BookPart("book", self.table), *self.after)

    def table(self, view: MarketView) -> BookRow:
        """What the book precomputes of a market."""
        market, n_bars = view.market, view.market.n_bars
        every_bar = jax.tree.map(lambda x: jnp.broadcast_to(x, (n_bars, *x.shape)), self.costs.replace(conditions=()))
        bars = pack_bars(
            market, conditions=self.costs.conditions, regimes=view.regimes, ranges=self.env.fill_rule.ranges
        )
        return BookRow(
            number=row_number(market.session),
            bar=bars,
            tradable=market.tradable,
            costs=every_bar,
            strategies=tuple(() if isinstance(one, str) else one.table(one.params, view) for one in self.strategies),
            next_bar=next_bars(view, self.costs),
        )

    def init(self, n_assets: int) -> BookState:
        """State before the first close."""
        return BookState(
            paper_accounts=open_paper_accounts(self.strategies, self.env, n_assets, self.initial_cash),
            allocation=self.rule.init(len(self.strategies)),
            before=chain(*self.before).init(n_assets),
            after=tuple(transform.init(n_assets) for transform in self.after),
        )

    def pre_sizing_targets(self, state: BookState, portfolio: Portfolio) -> jax.Array:
        """The agent's own position, its order filled, before the costs of the bar.

        Args:
          state: of the book at the last close.
          portfolio: the account, at whose marks the position is counted.

        Returns:
          `[A]` weights, fractions of the agent's equity.
        """
        agent = self.agent
        if agent is None:
            return expected_weights(portfolio)
        account = jax.tree.map(lambda x: x[agent], state.paper_accounts.portfolio)
        marked = account.replace(
            price=portfolio.price,
            equity=account.equity + jnp.sum(account.shares * (portfolio.price - account.price)),
            unfilled=account.unfilled + state.paper_accounts.ordered[agent],
        )
        first = state.allocation.bars == 0
        return chain(*self.before).pre_sizing_targets(
            state.before, jax.tree.map(lambda x, y: jnp.where(first, x, y), portfolio, marked)
        )

    def apply(
        self, state: BookState, row: tuple[Any, ...], portfolio: Portfolio, weights: jax.Array, hold: jax.Array
    ) -> tuple[jax.Array, BookState]:
        """Decides, allocates and adds up.

        Args:
          state: of the book at the last close.
          row: of the tables of its parts.
          portfolio: the account.
          weights: `[A]` targets of the agent's decision.
          hold: `[A]` bool, assets that it leaves alone.

        Returns:
          `[A]` targets of the account, fractions of equity, and the next state.
        """
        rows_before, now, rows_after = row[: len(self.before)], row[len(self.before)], row[len(self.before) + 1 :]
        agent = self.agent
        charged = _from_the_first_close(now.costs, state.allocation.bars == 0)
        paper_accounts, sized = settle(state.paper_accounts, self.env, now.bar, charged), state.before
        if agent is not None:
            paper_accounts = _entered(paper_accounts, agent, portfolio, state.allocation.bars == 0)
            account = jax.tree.map(lambda x: x[agent], paper_accounts.portfolio)
            held = expected_weights(account)
            weights, sized = chain(*self.before).apply(
                sized, rows_before, account, jnp.where(hold, held, weights), hold
            )
            hold = hold & (weights == held)
        allocation = self.rule.update(state.allocation, paper_accounts.portfolio.equity, paper_accounts.liquidated)
        bar = BarRow(now.number, now.next_bar, now.tradable, policy=now.strategies)
        paper_accounts, targets = place(self.strategies, paper_accounts, self.env, bar, (weights, hold), now.costs)
        target = matmul(allocation.allocation, targets)
        target, states = through(self.after, state.after, rows_after, portfolio, target)
        present = expected_weights(portfolio)
        trading = jnp.any((paper_accounts.ordered != 0) & (allocation.allocation > 0)[:, None], axis=0)
        largest = jnp.maximum(jnp.abs(target), jnp.abs(present))
        near = jnp.abs(target - present) <= self.rule.rebalance * largest
        if self.after:  # which may be caps
            near &= jnp.abs(present) <= (1.0 + UNCHANGED) * jnp.abs(target)
        left_alone = ~allocation.moved & ~trading & near
        return jnp.where(left_alone, present, target), BookState(paper_accounts, allocation, sized, states)


def next_bars(view: MarketView, costs: Costs) -> Any:
    """What is known of the bar after each, `[T, fields, A]` packed, for margins by volatility.

    Args:
      view: of the market.
      costs: of the account; without margins by volatility nothing is read, `()`.
    """
    return () if isinstance(costs.margin_volatility, tuple) else pack_bars(view.market, ahead=True)


def strategy_names(strategies: Sequence[Policy | str]) -> tuple[str, ...]:
    """Their names, in order."""
    return tuple(strategy if isinstance(strategy, str) else strategy.name for strategy in strategies)


def _from_the_first_close(costs: Costs, first: jax.Array) -> Costs:
    """Costs of the bar before a close; accounts that are opened at it (`first` `[]`) had no cash to earn interest."""
    if isinstance(costs.cash_rate, tuple):
        return costs
    return costs.replace(cash_rate=jnp.where(first, 0.0, costs.cash_rate))


def _entered(paper_accounts: PaperAccounts, agent: int, portfolio: Portfolio, first: jax.Array) -> PaperAccounts:
    """At the first close of an episode the agent's paper account is the account itself."""
    begun = jax.tree.map(lambda old, new: old.at[agent].set(new), paper_accounts.portfolio, portfolio)
    portfolios = jax.tree.map(lambda new, old: jnp.where(first, new, old), begun, paper_accounts.portfolio)
    return paper_accounts.replace(accounts=paper_accounts.accounts.replace(portfolio=portfolios))
