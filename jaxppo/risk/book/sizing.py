"""A book of strategies as a sizing transform: the account holds what its strategies hold, by their capital."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from envs.execution import Costs, pack_bars
from envs.portfolio import FillRule, Portfolio, expected_weights
from jaxppo.masks.transform import MarketView
from jaxppo.risk.book.capital import Capital, CapitalRule
from jaxppo.risk.book.shadow import AGENT, Shadows, decide, live, open_shadows
from jaxppo.risk.sizing.transform import SizingTransform
from jaxppo.risk.book.strategies import Strategy


@struct.dataclass
class BookRow:
    """What a book reads of a bar; leading axis T in its table.

    Attributes:
      bar: `[fields, A]` packed, see `envs.execution.pack_bars`.
      tradable: `[A]` bool.
      costs: of the shadow accounts.
      strategies: rows of the strategies' tables; `()` for the agent.
    """

    bar: jax.Array
    tradable: jax.Array
    costs: Costs
    strategies: tuple[Any, ...]


@struct.dataclass
class BookState:
    """A book at the close of a bar.

    Attributes:
      shadows: the strategies' own accounts.
      capital: who has how much.
    """

    shadows: Shadows
    capital: Capital


def book(
    strategies: Sequence[Strategy | str],
    rule: CapitalRule,
    *,
    costs: Costs,
    fill_rule: FillRule = FillRule(),
    initial_cash: float = 1e6,
) -> SizingTransform:
    """Trades `sum_i capital_i w_i` for strategies with weights `w_i` in accounts of their own.

    Each strategy trades a shadow account from a flat start with the cash of the whole account, so that costs that grow
    with size are at least those that its part will pay. The agent is the strategy that decides here: its
    shadow account begins as the account itself, positions included, what it wants to hold is held there, and what it
    observes is the account, which holds the positions of all strategies.

    Between allocations the account is left alone in an asset in which no strategy with capital trades, as long as it is
    within `rule.rebalance` of its target there (a share of the larger of the two): separate accounts would not trade
    either.

    A book sizes what nobody has sized before, and what it leaves may only be capped: it comes first in a chain, and no
    transform that scales comes after it.

    Args:
      strategies: M >= 1 of them, with different names; "agent" stands for the decision that is being sized.
      rule: who gets how much capital.
      costs: of the shadow accounts: those of the environment.
      fill_rule: likewise.
      initial_cash: of the shadow accounts, currency, > 0.

    Raises:
      ValueError: no strategy, or two of one name.
    """
    strategies = tuple(strategies)
    names = strategy_names(strategies)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"a book needs strategies with different names; it has {', '.join(names) or 'none'}")

    def table(view: MarketView) -> BookRow:
        n_bars = view.market.n_bars
        return BookRow(
            bar=pack_bars(view.market),
            tradable=view.market.tradable,
            costs=jax.tree.map(lambda x: jnp.broadcast_to(x, (n_bars,)), costs),
            strategies=tuple(() if strategy == AGENT else strategy.table(view) for strategy in strategies),
        )

    def init(n_assets: int) -> BookState:
        shadows = open_shadows(strategies, n_assets, initial_cash, fill_rule)
        return BookState(shadows, rule.init(len(strategies)))

    def apply(
        state: BookState, row: BookRow, portfolio: Portfolio, weights: jax.Array, hold: jax.Array
    ) -> tuple[jax.Array, BookState]:
        shadows = live(state.shadows, row.bar, row.costs, fill_rule)
        if AGENT in strategies:
            shadows = _entered(shadows, strategies.index(AGENT), portfolio, state.capital.bars == 0)
        capital = rule.update(state.capital, shadows.portfolio.equity, shadows.dead)
        shadows, targets = decide(strategies, shadows, row.strategies, (weights, hold), row.tradable, row.costs)
        target = capital.capital @ targets
        present = expected_weights(portfolio)
        trading = jnp.any((shadows.order != 0) & (capital.capital > 0)[:, None], axis=0)
        largest = jnp.maximum(jnp.abs(target), jnp.abs(present))
        near = jnp.abs(target - present) <= rule.rebalance * largest
        left_alone = ~capital.moved & ~trading & near
        return jnp.where(left_alone, present, target), BookState(shadows, capital)

    return SizingTransform("book", table, init, apply)


def strategy_names(strategies: Sequence[Strategy | str]) -> tuple[str, ...]:
    """Their names, in order."""
    return tuple(AGENT if strategy == AGENT else strategy.name for strategy in strategies)


def _entered(shadows: Shadows, agent: int, portfolio: Portfolio, first: jax.Array) -> Shadows:
    """At the first close of an episode the agent's shadow account is the account itself."""
    begun = jax.tree.map(lambda old, new: old.at[agent].set(new), shadows.portfolio, portfolio)
    portfolios = jax.tree.map(lambda new, old: jnp.where(first, new, old), begun, shadows.portfolio)
    return shadows.replace(portfolio=portfolios)
