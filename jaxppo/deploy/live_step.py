"""One bar of a live account as a pure function: the same features, masks, sizing, accounting and limits as a backtest.

What a backtest computes on the whole table is computed row by row (`jaxppo.envs.market.streaming`): averages, counts
and the last bars of rolling windows are remembered, so that nothing is cut off, and time and memory of a bar do not
grow.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.backtest.account import AccountRules, AccountState, close_bar, monitored_account, open_account
from jaxppo.deploy.explained import Explained, explained_orders
from jaxppo.envs.execution.bars import pack_bars, unpack_bar
from jaxppo.envs.execution.costs import trade_costs
from jaxppo.envs.execution.portfolio import Portfolio
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.rows import row_number
from jaxppo.envs.market.streaming import streamed
from jaxppo.envs.trading.account import BarRow, Placed
from jaxppo.envs.trading.outcome import outcome_of
from jaxppo.envs.trading.types import EnvParams
from jaxppo.envs.trading.view import MarketView
from jaxppo.policy.encoding import encode_newest
from jaxppo.policy.protocol import Policy
from jaxppo.run.regimes import find_regimes
from jaxppo.run.setup import Setup
from jaxppo.run.strategy import row_params

PER_ASSET = (
    "open", "high", "low", "close", "volume", "half_spread", "tradable", "ended", "carry", "columns", "funding",
)  # fmt: skip
PER_BAR = ("minute_of_day", "session", "day_of_week", "seconds_since_previous")
HOST_MASKS = ("session",)
"""Masks whose rows need the calendar of an exchange: the host makes them, bar by bar."""


class LiveBar(struct.PyTreeNode):
    """What a step is told of the bar that has just closed.

    Attributes:
      fields: name -> array: `PER_ASSET` `[A]` as far as the market has them (`columns` a mapping of them), `PER_BAR`
        `[]`; as in `MarketData`.
      host_masks: place in the chain -> row of each mask that is one of `HOST_MASKS`.
      given: `[]` bool, whether the account is a real one, whose positions and equity follow.
      shares: `[A]` its positions at that close.
      on_order: `[A]` shares of it that are still to be worked.
      equity: `[]` its equity, currency.
      kill: `[]` bool, close everything and stay out from now on.
      real_fills: `[A]` shares that the real account bought and sold in the bar, without sign.
    """

    fields: dict[str, Any]
    host_masks: dict[str, Any]
    given: jax.Array
    shares: jax.Array
    on_order: jax.Array
    equity: jax.Array
    kill: jax.Array
    real_fills: jax.Array


class LiveState(struct.PyTreeNode):
    """What a live account carries from one close to the next.

    Attributes:
      memory: what the tables of features, masks, sizing and rules remember of past bars.
      seen: `[]` int32, bars so far.
      account: at the last close, its orders placed.
      placed: targets, hold flags and orders of that close.
      opened: `[]` bool, whether the account has been opened.
    """

    memory: list[jax.Array]
    seen: jax.Array
    account: AccountState
    placed: Placed
    opened: jax.Array


class LiveOutput(NamedTuple):
    """What a step says.

    Attributes:
      decided: what was decided and why.
      opened: `[]` bool, whether there was a decision: features and window are complete.
      monitored: monitored limit -> `[]` level after the bar.
      shares: `[A]` positions at the close.
      filled: `[A]` shares that the accounting function filled in the bar.
      paid: `[]` currency, what that cost.
      features: `[A, F]` float32 that the decision could read; NaN where unknown.
      modelled: `[A]` currency that the accounting function charges for `LiveBar.real_fills` at the open of the bar; own
        displacement of prices left out.
    """

    decided: Explained
    opened: jax.Array
    monitored: dict[str, jax.Array]
    shares: jax.Array
    filled: jax.Array
    paid: jax.Array
    features: jax.Array
    modelled: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class LiveStep:
    """The step of a live account; static but for what it is called with.

    Attributes:
      setup: of the run.
      rules: what the account trades under.
      policy: who trades.
    """

    setup: Setup
    rules: AccountRules
    policy: Policy

    def init(self) -> LiveState:
        """The state before the first bar."""
        env, bar, row = self.setup.env, self.bar_like(), jnp.zeros((), jnp.int32)
        first, _ = streamed(self._tables)
        account = open_account(self.policy, self.rules, self.setup.params, row)
        nothing, no = jnp.zeros(env.n_assets), jnp.zeros((), bool)
        placed = Placed(nothing, jnp.ones(env.n_assets, bool), nothing)
        return LiveState(first(self.policy.params, bar), jnp.zeros((), jnp.int32), account, placed, no)

    def bar_like(self) -> LiveBar:
        """A bar of zeros, with the shapes that a step is called with."""
        market, n_assets = self.setup.market, self.setup.env.n_assets
        there = [name for name in (*PER_ASSET, *PER_BAR) if not isinstance(getattr(market, name), tuple)]
        zero, no, nothing = jnp.zeros(()), jnp.zeros((), bool), jnp.zeros(n_assets)
        fields = {name: jax.tree.map(lambda x: jnp.zeros_like(x[0]), getattr(market, name)) for name in there}
        rows = {name: jax.tree.map(lambda x: jnp.zeros_like(x[0]), rows) for name, rows in self._host_rows().items()}
        return LiveBar(fields, rows, no, nothing, nothing, zero, no, nothing)

    def _host_rows(self) -> dict[str, Any]:
        """Tables of the masks that the host makes rows of, for their shapes."""
        masks = self.setup.env.masks
        parts = () if masks is None else masks.parts
        tables = zip(parts, self.setup.params.masks if parts else (), strict=True)
        return {str(place): rows for place, (part, rows) in enumerate(tables) if part.name in HOST_MASKS}

    def __call__(self, weights: Any, state: LiveState, bar: LiveBar) -> tuple[LiveState, LiveOutput]:
        """Takes the account through a bar, and decides at its close.

        Args:
          weights: parameters of the policy.
          state: at the close before.
          bar: that has just closed.
        """
        rules, costs, policy = self.rules, self.setup.params.costs, self.policy._replace(params=weights)
        _, tables = streamed(self._tables)
        (params, row), memory = tables(state.memory, state.seen, weights, bar)
        price = params.market.close[0]
        account, filled, monitored, paid = self._close(state, bar, params.table[0], price)
        first = (state.seen >= self.setup.env.first_decision) & ~state.opened
        fresh = open_account(policy, rules, params, jnp.zeros((), jnp.int32))
        account = jax.tree.map(lambda new, old: jnp.where(state.opened, old, new), fresh, account)
        account = _as_given(account, bar, price, first)
        killed = account.account.replace(stopped=jnp.asarray(account.account.stopped) | bar.kill)
        after, ordered, decided = explained_orders(policy, rules, costs, account.replace(account=killed), row)
        opened = state.opened | first
        keep = jax.tree.map(
            lambda new, old: jnp.where(opened, new, old), (after, ordered.placed), (account, state.placed)
        )
        features = params.features[0].astype(jnp.float32)
        packed = unpack_bar(params.table[0])
        modelled = trade_costs(bar.real_fills, packed.open, packed, costs).total()
        shares = account.account.portfolio.shares
        output = LiveOutput(decided, opened, monitored, shares, filled, paid, features, modelled)
        return LiveState(memory, state.seen + 1, *keep, opened), output

    def _tables(self, weights: Any, bar: LiveBar) -> tuple[EnvParams, BarRow]:
        """Tables of one row, of a stream, and what the decision at its close reads of them."""
        setup, env, policy = self.setup, self.setup.env, self.policy._replace(params=weights)
        config, like = setup.config, setup.market
        bars: Any = jax.tree.map(lambda x: x[None], bar.fields)
        market = MarketData(**bars, volume_known=like.volume_known, futures=like.futures, info=like.info)
        regimes, _ = find_regimes(config.regimes, market, 0, config.seed)
        view = MarketView(market, setup.periods_per_year, env.position_limit, regimes)
        masks = () if env.masks is None else tuple(
            bar.host_masks[str(place)] if part.name in HOST_MASKS else _only_row(part.table(view))
            for place, part in enumerate(env.masks.parts)
        )  # fmt: skip
        sizing = () if env.sizing is None else _only_row(env.sizing.table(view))
        params = row_params(setup, market, regimes)
        encoded: Any = ()
        if policy.encoding is not None:
            encoded = _only_row(encode_newest(policy.encoding, weights, policy.encoding.inputs(params), env.window))
        ahead = pack_bars(market, conditions=setup.params.costs.conditions, regimes=regimes, ahead=True)
        table = _only_row(policy.table(weights, view))
        number = row_number(market.session)[0]
        return params, BarRow(number, ahead[0], market.tradable[0], masks, sizing, (table, encoded))

    def _close(
        self, state: LiveState, bar: LiveBar, packed: jax.Array, price: jax.Array
    ) -> tuple[AccountState, jax.Array, dict[str, jax.Array], jax.Array]:
        """The account through the bar in which its orders fill: account, fills, monitored levels, costs."""
        rules, costs = self.rules, self.setup.params.costs
        settled, step = close_bar(rules, costs, state.account, state.placed, packed)
        result = step.result
        fills = result.fills
        filled, paid = fills.quantity + fills.liquidation, jnp.sum(fills.costs.total()) + fills.financing
        # A real account has had fills of its own; what is monitored is what became of it.
        real = _given_portfolio(result.after, bar, price)
        before = jnp.where(result.before.equity > 0, result.before.equity, 1.0)
        growth = jnp.log(jnp.maximum(real.equity / before, 1e-3))
        outcome = outcome_of(result.before, real, fills, growth)
        if not isinstance(result.outcome.base_log_growth, tuple):
            outcome = outcome.replace(base_log_growth=result.outcome.base_log_growth)
        of_real = state.account.replace(
            account=settled.account.replace(portfolio=real, stopped=state.account.account.stopped)
        )
        of_real = of_real.replace(account=of_real.account.replace(liquidated=state.account.account.liquidated))
        of_real, real_step = monitored_account(rules, of_real, result._replace(after=real, outcome=outcome))
        chosen, monitored = jax.tree.map(
            lambda given, ours: jnp.where(bar.given, given, ours),
            (of_real, real_step.monitored),
            (settled, step.monitored),
        )
        return chosen, filled, monitored, paid


def _only_row(table: Any) -> Any:
    """The row of tables with one."""
    return jax.tree.map(lambda x: x[0], table)


def _given_portfolio(like: Portfolio, bar: LiveBar, price: jax.Array) -> Portfolio:
    """The portfolio of a real account at the close of a bar."""
    return like.replace(
        shares=bar.shares,
        price=price,
        equity=bar.equity,
        equity_error=jnp.zeros_like(like.equity_error),
        peak_equity=jnp.maximum(like.peak_equity, bar.equity),
        unfilled=bar.on_order,
        in_flight=tuple(jnp.zeros_like(x) for x in like.in_flight),
    )


def _as_given(account: AccountState, bar: LiveBar, price: jax.Array, first: jax.Array) -> AccountState:
    """The account with the positions of the real one, if there is one, when it opens."""
    portfolio = account.account.portfolio
    real = _given_portfolio(portfolio, bar, price)
    real = real.replace(peak_equity=jnp.where(first, bar.equity, real.peak_equity))
    chosen = jax.tree.map(lambda given, ours: jnp.where(bar.given & first, given, ours), real, portfolio)
    return account.replace(account=account.account.replace(portfolio=chosen))
