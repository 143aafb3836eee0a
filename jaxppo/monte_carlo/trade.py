"""Paths side by side: their markets drawn a few at a time, their accounts stepped together, figures in the carry."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.backtest import running_statistics
from jaxppo.backtest.account import AccountState, AccountStep, open_account, step_account
from jaxppo.backtest.conditions import Conditions
from jaxppo.backtest.ledger import Ledger, ledger_line
from jaxppo.backtest.running_statistics import RunningStatistics
from jaxppo.backtest.simulate import market_rows, view_of
from jaxppo.envs.execution.costs import Costs, without
from jaxppo.envs.market.kernels import in_one, platform
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.rows import rows_from
from jaxppo.envs.trading.account import BarRow
from jaxppo.envs.trading.types import EnvParams
from jaxppo.policy.protocol import Policy

ROW_AXES = BarRow(bar=0, next_bar=1, tradable=0, masks=0, sizing=0, policy=0)
"""Axis of the paths in the rows of a bar: packed bars are `[fields, L, A]`, so that a field is contiguous."""


class PreparedMarket(struct.PyTreeNode):
    """What trading a path needs of its market.

    Attributes:
      rows: of all decisions, leading axis `n`; of many paths see `prepare_batch`.
      state: of the account at the first of them.
      costs: of the path.
      inputs: what `Encoding.inputs` reads; `()` without an encoding.
      first: `[]` int32, bar of the first decision.
    """

    rows: BarRow
    state: AccountState
    costs: Costs
    inputs: Any
    first: jax.Array


class Traded(NamedTuple):
    """What came of L paths.

    Attributes:
      figures: of all.
      curve: `[n, L]` currency, equity at every close.
      lines: of the recorded path's ledger, `[n, ...]`.
      liquidated: `[L]` bool.
    """

    figures: RunningStatistics
    curve: jax.Array
    lines: Ledger
    liquidated: jax.Array


def prepare_market(policy: Policy, conditions: Conditions, params: EnvParams, n_bars: int) -> PreparedMarket:
    """What trading `n_bars` decisions from `params.first_bar` on needs of one market.

    Args:
      policy: who decides.
      conditions: what it trades under.
      params: the market.
      n_bars: static.
    """
    first, rules = params.first_bar, conditions.rules
    table = rows_from(policy.table(policy.params, view_of(rules, params)), first, n_bars)
    return PreparedMarket(
        rows=market_rows(params, first, n_bars, table),
        state=open_account(policy, rules, params, first),
        costs=params.costs,
        inputs=() if policy.encoding is None else policy.encoding.inputs(params),
        first=first,
    )


def prepare_batch(
    prepare: Callable[[jax.Array], tuple[PreparedMarket, MarketData]],
    ids: jax.Array,
    recorded: jax.Array,
    micro_batch: int,
) -> tuple[PreparedMarket, MarketData]:
    """Prepares every path of a batch; on a CPU `micro_batch` at a time.

    Args:
      prepare: path number `[]` -> what it needs, and its market.
      ids: `[L]` numbers of the paths.
      recorded: `[]` int32, the path of the batch whose market is returned.
      micro_batch: paths at a time.

    Returns:
      The paths, and the market of `recorded` alone. The rows are `[parts, n, paths of a part, ...]`, packed bars
      `[parts, n, fields, paths of a part, A]`, so that a bar of all paths is read in long runs; the rest is `[L, ...]`.
    """
    batch_size = ids.shape[0]
    micro_batch = math.gcd(micro_batch, batch_size) if platform() == "cpu" else batch_size

    def part(seen: MarketData | None, number: jax.Array) -> tuple[MarketData, tuple[BarRow, PreparedMarket]]:
        some = jax.lax.dynamic_slice_in_dim(ids, number * micro_batch, micro_batch)
        prepared, markets = jax.vmap(prepare)(some)
        rows = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), prepared.rows)
        rows = rows.replace(next_bar=jnp.swapaxes(rows.next_bar, 1, 2))
        place = recorded - number * micro_batch
        inside = (place >= 0) & (place < micro_batch)
        new = jax.tree.map(lambda x: x[jnp.clip(place, 0, micro_batch - 1)], markets)
        seen = jax.tree.map(lambda new, old: jnp.where(inside, new, old), new, seen)
        return seen, (rows, prepared.replace(rows=()))

    shapes = jax.eval_shape(lambda: prepare(ids[0])[1])
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    market, (rows, prepared) = jax.lax.scan(part, nothing, jnp.arange(batch_size // micro_batch))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), prepared).replace(rows=rows), market


class RowLayout(NamedTuple):
    """How the rows of all paths lie in memory: what prices imply need not lie there.

    Attributes:
      read: `(paths.rows, number of a decision) -> what is carried to it`.
      unpack: what is carried as the row of all paths, see `row_at`.
    """

    read: Callable[[Any, jax.Array | int], Any]
    unpack: Callable[[Any], BarRow]


def trade(
    policy: Policy,
    conditions: Conditions,
    paths: PreparedMarket,
    n_bars: int,
    recorded: jax.Array,
    *,
    own_costs: bool = False,
    free: tuple[str, ...] = (),
    layout: RowLayout | None = None,
) -> Traded:
    """Trades L paths side by side.

    Args:
      policy: who decides.
      conditions: what it trades under.
      paths: from `prepare_batch`.
      n_bars: decisions.
      recorded: `[]` int32, the path whose ledger is kept.
      own_costs: whether each path has costs of its own.
      free: prices among the costs that are zero and need not be computed with, see `execution.costs.zero_prices`.
      layout: of `paths.rows`; None for that of `prepare_batch`.
    """
    read, unpack = layout or RowLayout(row_at, lambda row: row)
    encoding, rules = policy.encoding, conditions.rules
    costs: Costs = paths.costs
    axis: int | None = 0
    if not own_costs:  # kept as scalars
        costs, axis = jax.tree.map(lambda x: x[0], paths.costs), None
    costs = without(costs, free)
    block = n_bars if encoding is None else min(encoding.block, n_bars)

    def one(state: AccountState, row: BarRow, costs: Costs) -> tuple[AccountState, AccountStep]:
        return step_account(policy, rules, costs, state, row)

    def one_bar(state: AccountState, row: BarRow, encoded: Any, i: jax.Array | int) -> tuple[AccountState, AccountStep]:
        now = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), encoded)
        return jax.vmap(one, in_axes=(0, ROW_AXES, axis))(state, row.replace(policy=(row.policy, now)), costs)

    def encoded_from(begin: jax.Array | int) -> Any:
        """`[block, L, ...]` of the encoding from decision `begin` on."""
        if encoding is None:
            return ()
        found = encoding.encode(policy.params, paths.inputs, paths.first + begin, block)
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), found)

    def step(i: jax.Array, carry: Any, start: jax.Array | int, encoded: Any) -> Any:
        state, figures, row, curve, lines = carry
        # The next row is carried along: kernels that read it from the table themselves are not vectorised.
        following = read(paths.rows, jnp.minimum(start + i + 1, n_bars - 1))
        state, stepped = one_bar(state, unpack(row), encoded, i)
        line = ledger_line(jax.tree.map(lambda x: x[recorded], stepped))
        curve = jax.lax.dynamic_update_index_in_dim(curve, stepped.result.after.equity, start + i, 0)
        lines = jax.tree.map(lambda all, x: jax.lax.dynamic_update_index_in_dim(all, x, start + i, 0), lines, line)
        return state, figures.update(stepped), following, curve, lines

    def one_block(number: jax.Array, carry: Any) -> Any:
        begin = number * block
        start = jnp.minimum(begin, n_bars - block)  # the last block overlaps the one before
        encoded = encoded_from(start)
        return jax.lax.fori_loop(begin - start, block, lambda i, c: step(i, c, start, encoded), carry)

    row, portfolio = read(paths.rows, 0), paths.state.account.portfolio
    stepped = jax.eval_shape(lambda: one_bar(paths.state, unpack(row), encoded_from(0), 0)[1])
    line = jax.eval_shape(lambda stepped: ledger_line(jax.tree.map(lambda x: x[0], stepped)), stepped)
    lines = jax.tree.map(lambda x: jnp.zeros((n_bars, *x.shape), x.dtype), line)
    curve = jnp.zeros((n_bars, *portfolio.equity.shape), portfolio.equity.dtype)
    carry = (paths.state, running_statistics.start(portfolio), row, curve, lines)
    if encoding is None:
        carry = in_one(lambda carry: jax.lax.fori_loop(0, n_bars, lambda i, c: step(i, c, 0, ()), carry), carry)
    else:
        carry = jax.lax.fori_loop(0, -(-n_bars // block), one_block, carry)
    state, figures, _, curve, lines = carry
    return Traded(figures, curve, lines, state.account.liquidated)


def row_at(rows: BarRow, number: jax.Array | int) -> BarRow:
    """The row of one decision, of all paths: `[L, ...]`, packed bars `[fields, L, A]`.

    Args:
      rows: as from `prepare_batch`.
      number: of the decision.
    """
    row = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, number, axis=1, keepdims=False), rows)
    packed = jnp.swapaxes(row.next_bar, 0, 1)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), row.replace(next_bar=()))
    return flat.replace(next_bar=packed.reshape(packed.shape[0], -1, packed.shape[-1]))
