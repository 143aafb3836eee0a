"""Any trader over one market: the full ledger, or its figures alone, without a series of anything."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxppo.backtest import running_statistics as tally
from jaxppo.backtest.account import Account, BarRow, StepResult, live, open_account
from jaxppo.backtest.running_statistics import RunningStatistics
from jaxppo.backtest.simulate import Ledger, ledger_line, market_rows, whole_ledger
from jaxppo.backtest.traders import Trader
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.trading.types import EnvParams


def run_trader(trader: Trader, market: MarketData, *, first: int | None = None, n_bars: int | None = None) -> Ledger:
    """The ledger of a trader over a market, from a flat start.

    Args:
      trader: from `jaxppo.backtest.traders`.
      market: `[T, A]` bars.
      first: bar of the first decision; default: as soon as the trader can.
      n_bars: number of decisions; default: to the last bar but one.

    Raises:
      ValueError: the period does not lie in the market, or the assets are not as many as the trader's.
    """
    first, n_bars = _period(trader, market, first, n_bars)
    return _ledger(_Static(trader), trader.data, market, jnp.int32(first), n_bars)


def run_trader_streaming(
    trader: Trader, market: MarketData, *, first: int | None = None, n_bars: int | None = None
) -> RunningStatistics:
    """The figures of a trader over a market; takes the arguments of `run_trader`, in memory that no bar adds to."""
    first, n_bars = _period(trader, market, first, n_bars)
    return _tally(_Static(trader), trader.data, market, jnp.int32(first), n_bars)


def _period(trader: Trader, market: MarketData, first: int | None, n_bars: int | None) -> tuple[int, int]:
    first = trader.warmup if first is None else first
    n_bars = market.n_bars - 1 - first if n_bars is None else n_bars
    if market.n_assets != trader.env.n_assets:
        raise ValueError(f"the market has {market.n_assets} assets, {trader.name} trades {trader.env.n_assets}")
    if first < trader.warmup or n_bars < 1 or first + n_bars >= market.n_bars:
        raise ValueError(
            f"{n_bars} decisions from bar {first} on: {trader.name} decides from bar {trader.warmup} on, and the "
            f"market has {market.n_bars} bars, of which the last takes no decision"
        )
    return first, n_bars


class _Static:
    """A trader without its data, equal to another of the same functions: what a compiled function is looked up by."""

    def __init__(self, trader: Trader):
        self.trader = trader._replace(data=None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Static) and self.trader == other.trader

    def __hash__(self) -> int:
        return hash(self.trader)


def _prepare(trader: Trader, data: Any, market: MarketData, first: jax.Array, n_bars: int) -> tuple[EnvParams, BarRow]:
    """Parameters and rows of one market."""
    params = trader.params(data, market)
    table = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, n_bars), trader.table(data, params))
    ready = ()
    if trader.ready is not None:
        one = jax.tree.map(lambda x: x[None], trader.read(params))
        ready = jax.tree.map(lambda x: x[0], _in_blocks(trader, data, one, first[None], n_bars))
    return params, market_rows(params, first, n_bars, (table, ready))


def _in_blocks(trader: Trader, data: Any, read: Any, first: jax.Array, n_bars: int) -> Any:
    """`Trader.ready` of `n_bars` bars, `[C, n_bars, ...]`, in blocks; the last overlaps the one before."""
    block = min(trader.block, n_bars)
    pieces = []
    for start in range(0, n_bars - block + 1, block):
        pieces.append(trader.ready(data, read, first + start, block))
    left = n_bars % block
    if left:
        last = trader.ready(data, read, first + n_bars - block, block)
        pieces.append(jax.tree.map(lambda x: x[:, block - left :], last))
    return jax.tree.map(lambda *xs: jnp.concatenate(xs, axis=1), *pieces)


def _live(trader: Trader, data: Any, params: EnvParams, account: Account, row: BarRow) -> tuple[Account, StepResult]:
    return live(
        trader.decide(data),
        trader.env,
        params.costs,
        account,
        row,
        limited=trader.limited,
        monitor=trader.monitor,
        in_shares=trader.in_shares,
    )


@partial(jax.jit, static_argnames=("static", "n_bars"))
def _ledger(static: _Static, data: Any, market: MarketData, first: jax.Array, n_bars: int) -> Ledger:
    trader = static.trader
    params, rows = _prepare(trader, data, market, first, n_bars)
    start = open_account(trader.env, params, first, trader.monitor, trader.init())

    def one_bar(account: Account, row: BarRow) -> tuple[Account, Ledger]:
        account, lived = _live(trader, data, params, account, row)
        return account, ledger_line(lived)

    account, lines = jax.lax.scan(one_bar, start, rows)
    return whole_ledger(start.portfolio.equity, lines, account.dead)


@partial(jax.jit, static_argnames=("static", "n_bars"))
def _tally(static: _Static, data: Any, market: MarketData, first: jax.Array, n_bars: int) -> RunningStatistics:
    trader = static.trader
    params, rows = _prepare(trader, data, market, first, n_bars)
    start = open_account(trader.env, params, first, trader.monitor, trader.init())

    def one_bar(
        carry: tuple[Account, RunningStatistics], row: BarRow
    ) -> tuple[tuple[Account, RunningStatistics], None]:
        account, figures = carry
        account, lived = _live(trader, data, params, account, row)
        return (account, figures.update(lived)), None

    return jax.lax.scan(one_bar, (start, tally.start(start.portfolio)), rows)[0][1]
