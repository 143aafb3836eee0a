"""What a policy did on a market, as tables, figures and a report."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
import pandas as pd

from jaxppo.backtest.ended import ended_positions, ended_sentences
from jaxppo.backtest.frames import account_frame, bar_index, ledger_frame
from jaxppo.backtest.ledger import Ledger
from jaxppo.backtest.performance import performance_of
from jaxppo.envs.execution.costs import Costs
from jaxppo.envs.market.market_data import MarketData
from jaxppo.report.page import ReportData, write_report
from jaxppo.risk.metrics import round_trips
from jaxppo.run.title import title_on_market
from jaxppo.statistics.summary import summarise

COST_KINDS = ("commission", "spread", "slippage", "impact", "financing")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class BacktestResult:
    """What a policy did over n bars; tables are indexed by bar time, or by bar number for a market without times.

    Attributes:
      name: of the policy.
      ledger: NumPy arrays.
      market: what was traded.
      first: bar of the first decision.
      periods: bars per year.
      delisting: what positions in assets that end were settled for, see `FillRule`.
      warnings: what a reader of the report must know before believing it.
      prices: of trading and holding that were paid; None where that is not known.
    """

    name: str
    ledger: Ledger
    market: MarketData
    first: int
    periods: float
    delisting: str | float = "last_close"
    warnings: tuple[str, ...] = ()
    prices: Costs | None = None

    @property
    def equity(self) -> pd.DataFrame:
        """Column `equity`, currency at each close, the starting capital first: `n + 1` rows."""
        index = bar_index(self.market, self.first + np.arange(len(self.ledger.equity)))
        return pd.DataFrame({"equity": np.asarray(self.ledger.equity, np.float64)}, index=index)

    @property
    def returns(self) -> pd.DataFrame:
        """Column `returns`, simple return per bar net of costs: `n` rows."""
        return pd.DataFrame({"returns": self.ledger.returns}, index=self.equity.index[1:])

    @property
    def positions(self) -> pd.DataFrame:
        """Weights at each close, fractions of equity, a column per asset: `n` rows."""
        symbols = self.market.info.symbols or tuple(f"asset {i}" for i in range(self.market.n_assets))
        return pd.DataFrame(np.asarray(self.ledger.weights), index=self.equity.index[1:], columns=list(symbols))

    @property
    def trades(self) -> pd.DataFrame:
        """A row per asset and bar with a fill, see `ledger_frame` for the columns."""
        frame = ledger_frame(self.ledger, self.market, self.first)
        return frame[frame["filled"] != 0].reset_index(drop=True)

    @property
    def costs(self) -> pd.DataFrame:
        """Currency per bar by kind: commission, spread, slippage, impact, financing: `n` rows."""
        frame = account_frame(self.ledger, self.market, self.first)
        return frame[list(COST_KINDS)].set_index(self.equity.index[1:])

    def summary(self, *, level: float = 0.95, n_resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
        """Figures with the interval of the Sharpe ratio; undefined numbers are None.

        Args:
          level: coverage of the interval, in (0, 1).
          n_resamples: of its bootstrap.
          seed: of its bootstrap.

        Returns:
          Those of `jaxppo.statistics.summarise`, and `turnover` (per year), `costs` (fraction of the capital),
          `liquidated`, `trades` (round trips that closed), `trade_win_rate` (their share that won after costs) and
          `open_trades` (round trips that never closed); and `ended_positions`, if there are any, see
          `jaxppo.backtest.ended`.
        """
        key, ended = jax.random.key(seed), ended_positions(self.ledger, self.market, self.first, self.delisting)
        figures = ledger_figures(self.ledger, periods=self.periods, key=key, level=level, n_resamples=n_resamples)
        return figures | ({"ended_positions": ended} if ended else {})

    def report(self, path: str | pathlib.Path, *, level: float = 0.95) -> pathlib.Path:
        """Writes a report in one HTML file that opens offline.

        Args:
          path: of the file.
          level: coverage of the intervals, in (0, 1).
        """
        path, row, ledger = pathlib.Path(path), self.summary(level=level), self.ledger
        left_out = ("sharpe_ci", "n_bars", "liquidated", "ended_positions")
        names = [name for name in row if name not in left_out]
        found = ("The account was liquidated; it stays out of the market from then on.",) * row["liquidated"]
        found += tuple(ended_sentences(row.get("ended_positions", ())))
        times = self.market.info.timestamps
        times = times[self.first : self.first + len(ledger.equity)] if len(times) else times
        symbols = tuple(self.positions.columns)
        data = ReportData(
            title=title_on_market(self.name, self.market, self.prices),
            timestamps=times,
            equity={self.name: np.asarray(ledger.equity, np.float64)},
            weights=np.asarray(ledger.weights),
            symbols=symbols,
            costs={kind: paid.to_numpy() for kind, paid in self.costs.items()},
            training=[],
            metrics={self.name: {name: row[name] for name in names}},
            intervals={self.name: {"sharpe": tuple(row["sharpe_ci"])}},
            data_report=self.market.info.report,
            config_yaml="",
            warnings=(*self.warnings, *found),
            level=level,
            performance=performance_of(ledger, symbols, times, periods=self.periods, level=level),
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_report(path, data)
        return path

    def __repr__(self) -> str:
        """Name, span and headline figures."""
        index, equity = self.equity.index, self.ledger.equity
        return (
            f"BacktestResult({self.name!r}, {len(equity) - 1} bars, {index[0]} to {index[-1]}, "
            f"return {float(equity[-1]) / float(equity[0]) - 1.0:.2%}, costs {self._share_of_costs():.2%})"
        )

    def _share_of_costs(self) -> float:
        return float(self.ledger.expenses.sum()) / float(self.ledger.equity[0])


def ledger_figures(
    ledger: Ledger, *, periods: float, key: jax.Array, level: float = 0.95, n_resamples: int = 2000
) -> dict[str, Any]:
    """The figures of a ledger; see `BacktestResult.summary`.

    Args:
      ledger: NumPy arrays.
      periods: bars per year.
      key: consumed by the bootstrap.
      level: of the interval of the Sharpe ratio, in (0, 1).
      n_resamples: of its bootstrap.
    """
    trips = round_trips(*ledger.legs)
    rate = float(trips.win_rate())
    return {
        **summarise(ledger.returns, periods=periods, key=key, n_resamples=n_resamples, level=level),
        "turnover": float(np.mean(ledger.turnover, dtype=np.float64)) * periods,
        "costs": float(ledger.expenses.sum()) / float(ledger.equity[0]),
        "liquidated": bool(ledger.liquidated),
        "trade_win_rate": rate if np.isfinite(rate) else None,
        "trades": int(trips.closed.sum()),
        "open_trades": int(trips.open.sum()),
    }
