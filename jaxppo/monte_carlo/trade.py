"""Paths side by side: their markets drawn a few at a time, their accounts stepped together, figures in the carry."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.backtest import running_statistics as tally
from jaxppo.backtest.account import Account, BarRow, StepResult, live, open_account
from jaxppo.backtest.running_statistics import RunningStatistics
from jaxppo.backtest.simulate import Ledger, ledger_line, market_rows
from jaxppo.backtest.traders import Trader
from jaxppo.envs.execution.costs import Costs, without
from jaxppo.envs.market.kernels import in_one
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.trading.types import EnvParams

ROW_AXES = BarRow(bar=0, next_bar=1, tradable=0, masks=0, sizing=0, own=0)
"""Where the lanes are in the rows of a bar: packed bars are `[fields, L, A]`, so that a field is contiguous."""


@struct.dataclass
class Drawn:
    """What trading a path needs of its market.

    Attributes:
      rows: of all decisions, leading axis `n`; of many paths see `draw_paths`.
      account: at the first of them.
      costs: of the path.
      read: what `Trader.ready` reads; `()` for nothing.
      first: `[]` int32, bar of the first decision.
    """

    rows: BarRow
    account: Account
    costs: Costs
    read: Any
    first: jax.Array


class Traded(NamedTuple):
    """What came of L paths.

    Attributes:
      figures: of all.
      curve: `[n, L]` currency, equity at every close.
      lines: of the watched lane's ledger, `[n, ...]`.
      dead: `[L]` bool, liquidated.
    """

    figures: RunningStatistics
    curve: jax.Array
    lines: Ledger
    dead: jax.Array


def drawn(trader: Trader, data: Any, params: EnvParams, n_bars: int) -> Drawn:
    """What trading `n_bars` decisions from `params.first_bar` on needs of one market."""
    first = params.first_bar
    table = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, n_bars), trader.table(data, params))
    return Drawn(
        rows=market_rows(params, first, n_bars, table),
        account=open_account(trader.env, params, first, trader.monitor, trader.init()),
        costs=params.costs,
        read=() if trader.ready is None else trader.read(params),
        first=first,
    )


def draw_paths(
    prepare: Callable[[jax.Array], tuple[Drawn, MarketData]], ids: jax.Array, lane: jax.Array, at_once: int
) -> tuple[Drawn, MarketData]:
    """`prepare` of every path; on a CPU `at_once` at a time.

    Returns:
      The paths, and the market of `lane` alone. The rows are `[parts, n, lanes of a part, ...]`, packed bars `[parts,
      n, fields, lanes of a part, A]`, so that a bar of all lanes is read in long runs; the rest is `[L, ...]`.
    """
    n_lanes = ids.shape[0]
    at_once = math.gcd(at_once, n_lanes) if jax.default_backend() == "cpu" else n_lanes

    def part(watched: MarketData | None, number: jax.Array) -> tuple[MarketData, tuple[BarRow, Drawn]]:
        own = jax.lax.dynamic_slice_in_dim(ids, number * at_once, at_once)
        prepared, markets = jax.vmap(prepare)(own)
        rows = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), prepared.rows)
        rows = rows.replace(next_bar=jnp.swapaxes(rows.next_bar, 1, 2))
        place = lane - number * at_once
        inside = (place >= 0) & (place < at_once)
        seen = jax.tree.map(lambda x: x[jnp.clip(place, 0, at_once - 1)], markets)
        watched = jax.tree.map(lambda new, old: jnp.where(inside, new, old), seen, watched)
        return watched, (rows, prepared.replace(rows=()))

    shapes = jax.eval_shape(lambda: prepare(ids[0])[1])
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    market, (rows, prepared) = jax.lax.scan(part, nothing, jnp.arange(n_lanes // at_once))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), prepared).replace(rows=rows), market


def trade(
    trader: Trader,
    data: Any,
    paths: Drawn,
    n_bars: int,
    lane: jax.Array,
    *,
    own_costs: bool = False,
    free: tuple[str, ...] = (),
    read: Callable[[Any, jax.Array | int], Any] | None = None,
    formed: Callable[[Any], BarRow] = lambda row: row,
) -> Traded:
    """Trades L paths.

    Args:
      trader: who.
      data: its data.
      paths: from `draw_paths`.
      n_bars: decisions.
      lane: `[]` int32, whose ledger is kept.
      own_costs: whether each path has costs of its own.
      free: prices among the costs that are zero and need not be computed with, see `jaxppo.envs.execution.costs.zero_prices`.
      read: `(paths.rows, number of a decision) -> what is carried to it`; default: `row_at`.
      formed: what is carried as the row of all lanes, see `row_at`: what the prices imply need not lie in memory.
    """
    read = row_at if read is None else read
    costs, axis = paths.costs, 0
    if not own_costs:  # kept as scalars
        costs, axis = jax.tree.map(lambda x: x[0], paths.costs), None
    costs = without(costs, free)
    decide, block = trader.decide(data), min(trader.block, n_bars)

    def one(account: Account, row: BarRow, costs: Costs) -> tuple[Account, StepResult]:
        own = {"limited": trader.limited, "monitor": trader.monitor, "in_shares": trader.in_shares}
        return live(decide, trader.env, costs, account, row, **own)

    def one_bar(account: Account, row: BarRow, ready: Any, i: jax.Array | int) -> tuple[Account, StepResult]:
        own = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), ready)
        return jax.vmap(one, in_axes=(0, ROW_AXES, axis))(account, row.replace(own=(row.own, own)), costs)

    def ready_at(begin: jax.Array | int) -> Any:
        """`[block, L, ...]` of what the rule reads from bar `begin` on."""
        if trader.ready is None:
            return ()
        found = trader.ready(data, paths.read, paths.first + begin, block)
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), found)

    def step(i: jax.Array, carry: Any, start: jax.Array | int, ready: Any) -> Any:
        account, figures, row, curve, lines = carry
        # The next row is carried along: kernels that read it from the table themselves are not vectorised.
        following = read(paths.rows, jnp.minimum(start + i + 1, n_bars - 1))
        account, lived = one_bar(account, formed(row), ready, i)
        line = ledger_line(jax.tree.map(lambda x: x[lane], lived))
        curve = jax.lax.dynamic_update_index_in_dim(curve, lived.after.equity, start + i, 0)
        lines = jax.tree.map(lambda all, x: jax.lax.dynamic_update_index_in_dim(all, x, start + i, 0), lines, line)
        return account, figures.update(lived), following, curve, lines

    def one_block(number: jax.Array, carry: Any) -> Any:
        begin = number * block
        start = jnp.minimum(begin, n_bars - block)  # the last block overlaps the one before
        ready = ready_at(start)
        return jax.lax.fori_loop(begin - start, block, lambda i, c: step(i, c, start, ready), carry)

    row, equity = read(paths.rows, 0), paths.account.portfolio.equity
    lived = jax.eval_shape(lambda: one_bar(paths.account, formed(row), ready_at(0), 0)[1])
    line = jax.eval_shape(lambda lived: ledger_line(jax.tree.map(lambda x: x[0], lived)), lived)
    lines = jax.tree.map(lambda x: jnp.zeros((n_bars, *x.shape), x.dtype), line)
    curve = jnp.zeros((n_bars, *equity.shape), equity.dtype)
    carry = (paths.account, tally.start(paths.account.portfolio), row, curve, lines)
    if trader.ready is None:
        carry = in_one(lambda carry: jax.lax.fori_loop(0, n_bars, lambda i, c: step(i, c, 0, ()), carry), carry)
    else:
        carry = jax.lax.fori_loop(0, -(-n_bars // block), one_block, carry)
    account, figures, _, curve, lines = carry
    return Traded(figures, curve, lines, account.dead)


def row_at(rows: BarRow, number: jax.Array | int) -> BarRow:
    """The row of one decision, of all lanes: `[L, ...]`, packed bars `[fields, L, A]`; `rows` as from `draw_paths`."""
    row = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, number, axis=1, keepdims=False), rows)
    packed = jnp.swapaxes(row.next_bar, 0, 1)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), row.replace(next_bar=()))
    return flat.replace(next_bar=packed.reshape(packed.shape[0], -1, packed.shape[-1]))
