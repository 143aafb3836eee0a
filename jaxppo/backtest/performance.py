"""When and with what an account earned: months, moving Sharpe ratio, contribution of each asset, round trips."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import jax
import numpy as np
import pandas as pd

from jaxppo.backtest.ledger import Ledger
from jaxppo.report.results import Performance
from jaxppo.risk.metrics import round_trip_bars
from jaxppo.statistics import monthly_returns, rolling_sharpe
from jaxppo.statistics.conditional import LEAST_BARS

MOST_ENDS = 400
"""Windows of the moving Sharpe ratio that are computed."""


def performance_of(
    ledger: Ledger, symbols: Sequence[str], times: np.ndarray, *, periods: float, level: float
) -> Performance:
    """Computes when and with what an account earned.

    Args:
      ledger: of n bars; NumPy arrays.
      symbols: A names.
      times: `[n + 1]` datetime64 of the marks; empty for a market without times.
      periods: bars per year.
      level: of the intervals of the moving Sharpe ratio, in (0, 1).
    """
    contribution, financing, other = contributions(ledger, symbols)
    window, ends, rolling, interval = _rolling(ledger.returns, periods, level)
    return Performance(
        monthly=monthly_returns(np.asarray(ledger.equity), times),
        window=window,
        ends=ends,
        rolling=rolling,
        rolling_ci=interval,
        contribution=contribution,
        financing=financing,
        other=other,
        trips=trip_table(ledger, symbols),
        **paid_in_all(ledger),
    )


def performance_figures(found: Performance, capital: float) -> dict[str, Any]:
    """Those of the performance that stand in summary.json.

    Args:
      found: of an account.
      capital: its starting equity, currency.

    Returns:
      `monthly`, if the market has times, and `contribution`: `assets`, `financing` and `other`, as fractions of the
      capital, which add up to the total return; `payments`, if there were any: `funding` paid and `dividends` received,
      likewise.
    """
    assets = {str(name): float(profit) / capital for name, profit in found.contribution["profit"].items()}
    contribution = {"assets": assets, "financing": -found.financing / capital, "other": found.other / capital}
    months = {"monthly": dict(found.monthly)} if found.monthly else {}
    paid = {"funding": found.funding / capital, "dividends": found.dividends / capital}
    return {**months, "contribution": contribution, **({"payments": paid} if any(paid.values()) else {})}


def paid_in_all(ledger: Ledger) -> dict[str, float]:
    """Sums of the `funding` that an account paid, and of the `dividends` that it received, currency.

    Args:
      ledger: of n bars; NumPy arrays.
    """
    if isinstance(ledger.payments, tuple):
        return {}
    return {kind: float(np.sum(getattr(ledger.payments, kind), dtype=np.float64)) for kind in ("funding", "dividends")}


def contributions(ledger: Ledger, symbols: Sequence[str]) -> tuple[pd.DataFrame, float, float]:
    """Splits the profit of an account by asset: what fills and dividends brought in, less costs, and what is held.

    Args:
      ledger: of n bars; NumPy arrays.
      symbols: A names.

    Returns:
      A row for each asset with `profit` and `costs`, what financing took, and what none of them explains, all currency.
      The profits, less the financing, and the rest add up to the change of the equity.
    """
    quantity, price, paid, weights, equity = (
        np.asarray(x, np.float64) for x in (*ledger.legs, ledger.weights[-1], ledger.equity)
    )
    # The price of an asset may be unknown while nothing of it is filled.
    spent = np.where(quantity != 0, quantity * price, 0.0).sum(axis=0)
    costs = paid.sum(axis=0)
    profit = weights * equity[-1] - spent - costs
    if not isinstance(ledger.payments, tuple):
        profit = profit + np.asarray(ledger.payments.dividends, np.float64).sum(axis=0)
    financing = float(np.sum(ledger.financing, dtype=np.float64))
    other = float(equity[-1] - equity[0] - profit.sum() + financing)
    return pd.DataFrame({"profit": profit, "costs": costs}, index=list(symbols)), financing, other


def trip_table(ledger: Ledger, symbols: Sequence[str]) -> pd.DataFrame:
    """Lists the round trips of an account, see `jaxppo.report.results.Performance.trips`.

    Args:
      ledger: of n bars; NumPy arrays.
      symbols: A names.
    """
    fills = ledger.legs
    bars = jax.device_get(round_trip_bars(*fills))
    value = np.asarray(ledger.weights[-1], np.float64) * float(ledger.equity[-1])
    last, parts = len(ledger.quantity), []
    legs = len(fills[0]) // max(last, 1)  # of each bar
    for asset, symbol in enumerate(symbols):
        held, ended = bars.held[:, asset], bars.ended[:, asset]
        before = np.r_[0.0, held[:-1]]
        begins, ends = np.flatnonzero((held != 0) & ((before == 0) | ended)), np.flatnonzero(ended)
        profit = bars.result[ends, asset]
        if len(begins) > len(ends):
            profit = np.r_[profit, bars.cash[-1, asset] + value[asset]]
        side = np.where(held[begins] > 0, "long", "short")
        begins, closed = begins // legs, np.r_[ends // legs + 1, -1][: len(begins)]
        parts.append(
            pd.DataFrame(
                {
                    "symbol": symbol,
                    "side": side,
                    "opened": begins + 1,
                    "closed": closed,
                    "bars": np.where(closed < 0, last, closed) - begins - 1,
                    "profit": np.asarray(profit, np.float64),
                }
            )
        )
    return pd.concat(parts, ignore_index=True).sort_values("opened", kind="stable", ignore_index=True)


def _rolling(returns: np.ndarray, periods: float, level: float) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Bars of the window, and points, annual ratios and intervals of the moving Sharpe ratio of returns `[n]`.

    The window is a year, or a quarter of the period where that is less; below `LEAST_BARS` bars there is none.
    """
    n = len(returns)
    window = min(round(periods), n // 4)
    if window < LEAST_BARS:
        return 0, np.empty(0, int), np.empty(0), np.empty((2, 0))
    ends = np.unique(np.linspace(window - 1, n - 1, min(MOST_ENDS, n - window + 1)).round().astype(int))
    found = jax.device_get(rolling_sharpe(returns, window, ends))
    half = NormalDist().inv_cdf(0.5 + level / 2.0) * found.error
    annual = periods**0.5
    return window, ends + 1, found.ratio * annual, np.stack([found.ratio - half, found.ratio + half]) * annual
