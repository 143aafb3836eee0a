"""A ledger as tables: what was ordered, filled, paid and held, bar by bar."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pandas as pd

from jaxppo.backtest.ledger import Ledger
from jaxppo.backtest.running_statistics import KINDS
from jaxppo.envs.market.market_data import MarketData


def ledger_frame(ledger: Ledger, market: MarketData, first: int) -> pd.DataFrame:
    """A row for each bar and asset of a ledger.

    Args:
      ledger: of `n` bars.
      market: what was traded.
      first: bar of the first decision; the first row is of the bar after it.

    Returns:
      Columns `bar` (in the market), `time` (UTC, if the market has times), `symbol`, `ordered` (shares, at the close
      before), `filled` (shares), `price` (mid, of the fill), `paid` (currency, all costs), `shares`, `weight`
      (fraction of equity; both at the close); where stop-losses, take-profits or trailing stops are set, `exited`
      (shares that one closed, beside the filled) and `exit_price` (mid).
    """
    n, n_assets = np.shape(ledger.quantity)
    symbols = market.info.symbols or tuple(f"asset {number}" for number in range(n_assets))
    columns = {"symbol": np.tile(np.asarray(symbols, dtype=object), n)}
    parts: dict[str, Any] = {
        "ordered": ledger.ordered,
        "filled": ledger.quantity,
        "price": ledger.price,
        "paid": ledger.paid,
    }
    parts |= {"shares": ledger.shares, "weight": ledger.weights}
    if not isinstance(ledger.exited, tuple):
        exited, price = np.asarray(ledger.exited.quantity), np.asarray(ledger.exited.price)
        parts |= {
            "filled": ledger.quantity - exited,
            "exited": exited,
            "exit_price": np.where(exited != 0, price, np.nan),
        }
    columns |= {name: np.asarray(value).ravel() for name, value in parts.items()}
    return pd.DataFrame(_clock(market, np.repeat(first + 1 + np.arange(n), n_assets)) | columns)


def account_frame(ledger: Ledger, market: MarketData, first: int) -> pd.DataFrame:
    """A row for each bar of a ledger.

    Args:
      ledger: of `n` bars.
      market: what was traded.
      first: bar of the first decision.

    Returns:
      Columns `bar`, `time`, `equity` (currency, at the close), `commission`, `spread`, `slippage`, `impact`,
      `financing` (currency), `turnover` (fraction of the equity before the bar); in a market with payments `funding`,
      which is part of the financing, and `dividends`, which are no cost (currency).
    """
    columns = {"equity": np.asarray(ledger.equity)[1:]}
    columns |= {kind: np.asarray(getattr(ledger.costs, kind)) for kind in KINDS}
    columns |= {"financing": np.asarray(ledger.financing), "turnover": np.asarray(ledger.turnover)}
    if not isinstance(ledger.payments, tuple):
        paid = {kind: getattr(ledger.payments, kind) for kind in ("funding", "dividends")}
        columns |= {kind: np.asarray(x).sum(axis=-1) for kind, x in paid.items()}
    return pd.DataFrame(_clock(market, first + 1 + np.arange(len(columns["equity"]))) | columns)


def write_ledger(folder: str | pathlib.Path, ledger: Ledger, market: MarketData, first: int) -> None:
    """Writes `ledger.parquet` and `account.parquet`.

    Args:
      folder: made where it is missing.
      ledger: of `n` bars.
      market: what was traded.
      first: bar of the first decision.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    ledger_frame(ledger, market, first).to_parquet(folder / "ledger.parquet", index=False)
    account_frame(ledger, market, first).to_parquet(folder / "account.parquet", index=False)


def bar_index(market: MarketData, bars: np.ndarray) -> pd.Index:
    """Index of some bars: their times (UTC), or their numbers for a market without times.

    Args:
      market: what was traded.
      bars: `[n]` int.
    """
    times = market.info.timestamps
    return pd.DatetimeIndex(times[bars], name="time") if len(times) else pd.Index(bars, name="bar")


def _clock(market: MarketData, bars: np.ndarray) -> dict[str, np.ndarray]:
    """Columns `bar` and, if the market has times, `time`."""
    times = market.info.timestamps
    return {"bar": bars} | ({"time": times[bars]} if len(times) else {})
