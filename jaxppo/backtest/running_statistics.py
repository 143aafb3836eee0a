"""The figures of accounts in constant memory: a state that takes one bar at a time and keeps no series.

Written for a batch of accounts: arrays are `[...]`, those of assets `[..., A]`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from jaxppo.backtest.account import AccountStep
from jaxppo.envs.execution.costs import TradeCosts
from jaxppo.envs.execution.portfolio import Portfolio
from jaxppo.risk import streaming
from jaxppo.risk.metrics.common import ratio

KINDS = ("commission", "spread", "slippage", "impact")
"""Costs of trading, by kind."""


class RunningStatistics(struct.PyTreeNode):
    """What the figures need of the bars so far; build with `start`.

    Attributes:
      stream: of the returns.
      capital: `[...]` currency at the start.
      equity: `[...]` currency now.
      least: `[...]` lowest equity at a close, the start included.
      costs: `[...]` currency by kind, sums.
      financing: `[...]` currency, sum.
      turnover: `[...]` sum of the traded notional as a fraction of the equity before each bar.
      gross: `[...]` sum of the gross exposures at the closes, fractions of equity.
      net: `[...]` sum of the net exposures.
      trades: `[...]` int32, fills of one asset in one bar, exits and liquidations included.
      liquidated: `[...]` bool.
      deepest_bars: `[...]` int32, bars of the deepest drawdown, from its peak to its recovery or so far.
      deepest_open: `[...]` bool, it is not recovered.
    """

    stream: streaming.Stream
    capital: jax.Array
    equity: jax.Array
    least: jax.Array
    costs: TradeCosts
    financing: jax.Array
    turnover: jax.Array
    gross: jax.Array
    net: jax.Array
    trades: jax.Array
    liquidated: jax.Array
    deepest_bars: jax.Array
    deepest_open: jax.Array

    def update(self, step: AccountStep) -> RunningStatistics:
        """The state after another bar of every account."""
        result = step.result
        before, after, fills, outcome = result.before, result.after, result.fills, result.outcome
        alive = before.equity > 0
        change = jnp.where(alive, (after.equity - before.equity) / jnp.where(alive, before.equity, 1.0), 0.0)
        traded = (fills.quantity != 0) | (fills.liquidation != 0)
        if not isinstance(fills.exited, tuple):
            traded = traded | (fills.exited.quantity != 0)
        stream = self.stream.update(change)
        under = stream.since > 0
        deepest = self.deepest_open | (under & (stream.depth > self.stream.depth))
        return self.replace(
            stream=stream,
            equity=after.equity,
            least=jnp.minimum(self.least, after.equity),
            costs=jax.tree.map(lambda total, paid: total + jnp.sum(paid, axis=-1), self.costs, fills.costs),
            financing=self.financing + fills.financing,
            turnover=self.turnover + outcome.turnover,
            gross=self.gross + outcome.leverage,
            net=self.net + outcome.net,
            trades=self.trades + jnp.sum(traded, axis=-1, dtype=jnp.int32),
            liquidated=step.liquidated,
            deepest_bars=jnp.where(deepest, self.stream.since + 1, self.deepest_bars),
            deepest_open=deepest & under,
        )

    def figures(self, periods: float, ruin: float) -> dict[str, jax.Array]:
        """Figures `[...]`: those of `FIGURES`.

        Args:
          periods: bars per year.
          ruin: share of the starting capital; an account that was liquidated, or closed at or below it, is ruined.
        """
        stream, bars = self.stream, jnp.maximum(self.stream.count, 1)
        costs = {kind: getattr(self.costs, kind) / self.capital for kind in KINDS}
        return {
            "total_return": self.equity / self.capital - 1.0,
            "annual_return": stream.annual_return(periods=periods),
            "volatility": stream.volatility(periods=periods),
            "sharpe": stream.sharpe(periods=periods),
            "sortino": stream.sortino(periods=periods),
            "calmar": stream.calmar(periods=periods),
            "max_drawdown": stream.max_drawdown(),
            "max_drawdown_bars": stream.longest,
            "deepest_bars": self.deepest_bars,
            "ulcer_index": stream.ulcer_index(),
            "skewness": stream.skewness(),
            "kurtosis": stream.kurtosis(),
            "win_rate": stream.win_rate(),
            "profit_factor": ratio(*stream.earned),
            "turnover": self.turnover / bars * periods,
            "exposure": self.gross / bars,
            "net_exposure": self.net / bars,
            "trades": self.trades,
            **costs,
            "financing": self.financing / self.capital,
            "costs": sum(costs.values()) + self.financing / self.capital,
            "least_equity": self.least / self.capital,
            "liquidated": self.liquidated,
            "ruined": self.liquidated | (self.least <= ruin * self.capital),
            "recovered": ~self.deepest_open,
        }


def start(portfolio: Portfolio) -> RunningStatistics:
    """The state before the first bar of accounts with equity `[...]`."""
    equity = portfolio.equity
    zero = jnp.zeros_like(equity)
    return RunningStatistics(
        stream=streaming.start(equity.shape, dtype=equity.dtype),
        capital=equity,
        equity=equity,
        least=equity,
        costs=TradeCosts(zero, zero, zero, zero),
        financing=zero,
        turnover=zero,
        gross=zero,
        net=zero,
        trades=jnp.zeros(equity.shape, jnp.int32),
        liquidated=jnp.zeros(equity.shape, bool),
        deepest_bars=jnp.zeros(equity.shape, jnp.int32),
        deepest_open=jnp.zeros(equity.shape, bool),
    )


FIGURES: dict[str, str] = {
    "total_return": "fraction",
    "annual_return": "fraction per year, compounded",
    "volatility": "per year",
    "sharpe": "per year",
    "sortino": "per year",
    "calmar": "annual return over the largest drawdown",
    "max_drawdown": "fraction",
    "max_drawdown_bars": "bars under water, longest",
    "deepest_bars": "bars of the deepest drawdown, from its peak to its recovery or the last bar; 0 without one",
    "ulcer_index": "fraction",
    "skewness": "of the returns per bar",
    "kurtosis": "of the same, in excess of 3",
    "win_rate": "share of the bars with a gain or a loss",
    "profit_factor": "gains over losses",
    "turnover": "per year, fraction of equity",
    "exposure": "mean gross exposure, fraction of equity",
    "net_exposure": "mean net exposure",
    "trades": "fills of one asset in one bar",
    "commission": "fraction of the starting capital",
    "spread": "fraction of the starting capital",
    "slippage": "fraction of the starting capital",
    "impact": "fraction of the starting capital",
    "financing": "fraction of the starting capital",
    "costs": "all of them, fraction of the starting capital",
    "least_equity": "lowest close, fraction of the starting capital",
    "liquidated": "whether the account was",
    "ruined": "liquidated, or at or below the level of ruin at a close",
    "recovered": "whether the deepest drawdown was, or there was none",
}
"""What `RunningStatistics.figures` returns, with units."""
