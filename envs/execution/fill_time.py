"""How long a full position takes to fill: whether volumes can be units of the asset, for an account of a given size."""

from __future__ import annotations

import numpy as np

from jaxppo.envs.data.currencies import is_spot_currency
from jaxppo.envs.data.volume import MOST_NAMED, no_volume_line
from jaxppo.envs.market.market_data import MarketData

SLOWEST = 20
"""Bars, or those of a usual session if they are more, that a full position may take to fill without a question.

An account that works an order for longer than a month of daily bars, or a day of shorter ones, is too large for the
market, or the volume counts something else. Filling a million takes liquid shares a fraction of an hour, single minutes
of shares 17 bars at most, bitcoin 5 hours; counted ticks of EURUSD take hundreds of hours.
"""
SLOWEST_CURRENCY = 1
"""The same for pairs of currencies. No exchange counts their spot trades: what feeds give are mostly ticks, and the
true volume of an hour would fill any account at once."""


def bars_to_fill(market: MarketData, position: float, participation: float) -> np.ndarray:
    """Measures the bars that a position takes to fill at a share of the volume of a median bar.

    `bars_a = position / (participation * median_t(close_ta * volume_ta))` over the bars with volume.

    Args:
      market: `[T, A]` bars.
      position: currency, > 0.
      participation: largest share of the volume of a bar, in (0, 1].

    Returns:
      `[A]` bars, > 0; 0 where volume is not reported.
    """
    volume, close = (np.asarray(x, np.float64) for x in (market.volume, market.mark(slice(None))))
    bars = np.zeros(market.n_assets)
    for asset in np.flatnonzero(np.asarray(market.volume_known)):
        traded = volume[:, asset] > 0
        if traded.any():
            notional = np.median((close[:, asset] * volume[:, asset])[traded])
            bars[asset] = position / (participation * notional)
    return bars


def implausible_volume(market: MarketData, position: float, participation: float | None) -> list[str]:
    """Warns of assets that an account could hardly buy, if their volume is units: a line each, the worst first.

    Only volumes that a price file gave, and nobody has said what they count, are questioned.

    Args:
      market: as loaded.
      position: largest position in one asset, currency, > 0.
      participation: limit on the share of a bar's volume; None for none, which takes the whole volume of a bar.
    """
    report = market.info.report
    if "volume" not in report or report["volume"] is not None:
        return []
    limit = 1.0 if participation is None else min(participation, 1.0)
    bars = bars_to_fill(market, position, limit)
    session = float(np.median(np.unique(np.asarray(market.session), return_counts=True)[1]))
    symbols = market.info.symbols
    slowest = [SLOWEST_CURRENCY if is_spot_currency(symbol) else max(SLOWEST, session) for symbol in symbols]
    found = [int(asset) for asset in np.argsort(-bars, kind="stable") if bars[asset] > slowest[asset]]
    settle = "a thin market, or no volume in units: set data.volume: ticks|notional|none, or shares (volume= in Python)"
    lines = [
        f"a full position of {position:,.0f} in {symbols[asset]} would take {bars[asset]:,.0f} bars to fill at "
        f"{100 * limit:.3g} % of the volume of a median bar: {settle}"
        for asset in found[:MOST_NAMED]
    ]
    if len(found) > MOST_NAMED:
        lines.append(f"{len(found) - MOST_NAMED} more symbols would take as unlikely long to fill: see data.volume")
    return lines


def volume_sentences(market: MarketData, position: float, participation: float | None) -> tuple[str, ...]:
    """Says what a reader of results must know of the volumes behind them; nothing where they are as they should be.

    Args:
      market: what was traded.
      position: largest position in one asset, currency, > 0.
      participation: limit on the share of a bar's volume; None for none.
    """
    names = market.info.symbols or tuple(f"asset {i}" for i in range(market.n_assets))
    unknown = [name for name, known in zip(names, np.asarray(market.volume_known), strict=True) if not known]
    lines = [no_volume_line(unknown, len(names))] if unknown else []
    lines += implausible_volume(market, position, participation)
    return tuple(f"{line[0].upper()}{line[1:]}." for line in lines)
