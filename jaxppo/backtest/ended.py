"""Positions in assets that ended while an account held them: their size, and what they were settled for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxppo.backtest.ledger import Ledger
from jaxppo.envs.market.market_data import MarketData
from jaxppo.run.periods import time_of


def ended_positions(ledger: Ledger, market: MarketData, first: int, delisting: str | float) -> list[dict[str, Any]]:
    """Lists the positions in assets whose last bar lies within the bars of a ledger.

    Args:
      ledger: NumPy arrays.
      market: that was traded.
      first: bar of the first decision.
      delisting: as in `FillRule`.

    Returns:
      For each: `symbol`; `ended`, the time of its last bar; `bars_after`, bars of the ledger after that; `weight` at
      its close and `weight_at_end` at the last close of the ledger, fractions of equity, signed; `settled`, as
      `delisting`.
    """
    if isinstance(market.ended, tuple):
        return []
    weights, ended = np.asarray(ledger.weights), np.asarray(market.ended)
    found = []
    for asset in range(market.n_assets):
        last = int(np.argmax(ended[:, asset])) - 1 if ended[:, asset].any() else market.n_bars
        row = last - first - 1
        if not 0 <= row < len(weights) - 1 or weights[row, asset] == 0:
            continue
        found.append(
            {
                "symbol": market.info.symbols[asset] if market.info.symbols else f"asset {asset}",
                "ended": time_of(market, last),
                "bars_after": len(weights) - 1 - row,
                "weight": float(weights[row, asset]),
                "weight_at_end": float(weights[-1, asset]),
                "settled": delisting,
            }
        )
    return found


def ended_sentences(positions: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence for each of the positions of `ended_positions`."""
    how = {"last_close": "was settled at its last close", "freeze": "stayed at its last close"}

    def when(time: str | int) -> str:
        return f"on {time.removesuffix('T00:00:00')}" if isinstance(time, str) else f"at bar {time}"

    return [
        f"{row['symbol']} ended {when(row['ended'])}, {row['bars_after']} bars before the last: a position of "
        f"{row['weight']:.1%} of equity "
        + how.get(row["settled"], f"was settled at its last close and a return of {row['settled']}")
        + (f", {row['weight_at_end']:.1%} of equity at the end" if row["settled"] == "freeze" else "")
        + f" (env.delisting: {row['settled']})."
        for row in positions
    ]
