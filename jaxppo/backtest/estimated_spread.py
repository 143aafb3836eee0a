"""Whether a result rests on half-spreads that were estimated."""

from __future__ import annotations

import numpy as np

from jaxppo.backtest.ledger import Ledger
from jaxppo.envs.market.market_data import MarketData

FACTOR = 3.0
"""By how much an estimate of the half-spread may be off: by invariance those of five US stocks are within it."""


def estimated_spread_sentences(ledger: Ledger, market: MarketData) -> tuple[str, ...]:
    """Says so where an account gains or loses by the error of its half-spreads alone, at the same trades.

    Args:
      ledger: of the account.
      market: what it traded.
    """
    symbols = market.info.report.get("symbols", {})
    by = sorted({counts["spread"].partition("by ")[2] for counts in symbols.values() if "by " in counts["spread"]})
    capital, paid = float(ledger.equity[0]), float(np.sum(np.asarray(ledger.costs.spread), dtype=np.float64))
    gain = float(ledger.equity[-1]) - capital
    best, worst = (gain + (1.0 - factor) * paid for factor in (1.0 / FACTOR, FACTOR))
    if not by or not worst < 0.0 < best:
        return ()
    return (
        f"The half-spreads, estimated by {' and '.join(by)}, decide this result: at the same trades the account would "
        f"have made {best / capital:+.1%} with a third of them and {worst / capital:+.1%} with three times as much.",
    )
