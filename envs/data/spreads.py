"""The half-spread of the bars of one asset: quoted, given, or estimated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd

from jaxppo.envs.data.options import LoadOptions
from jaxppo.envs.data.rows import PRICES
from jaxppo.envs.data.volume import is_known
from jaxppo.envs.market.spread import estimated_half_spread, invariant_half_spread
from jaxppo.errors import DataError

EDGE_CAP = 20e-4
"""Largest half-spread of an estimate that nobody has asked for: without volume EDGE stands in for invariance, and at
spreads far below the volatility of a bar it is noise."""
WIDEST = 0.5
"""Largest half-spread of any estimate, fraction of the price."""

Value = TypeVar("Value")


class HalfSpreads(NamedTuple):
    """Half-spreads of the bars of one asset.

    Attributes:
      values: `[N]` fraction of the price.
      quoted: `[N]` bool, from quotes.
      source: of those that are not: `invariance`, `edge` or `fixed`.
      at_floor: `[N]` bool, not quoted, and the smallest that is possible.
    """

    values: np.ndarray
    quoted: np.ndarray
    source: str
    at_floor: np.ndarray


def half_spreads(symbol: str, frame: pd.DataFrame, options: LoadOptions) -> HalfSpreads:
    """Half-spread of each bar: that of its closing quote, or what `options.spread` says where there is none.

    Args:
      symbol: of the asset.
      frame: its checked and adjusted rows in order of time; `raw_close` is the close before any adjustment.
      options: `spread`, `half_spread`, `tick`, `min_half_spread`, `spread_window` and `volume` apply.

    Raises:
      DataError: a bar without a quote although `spread` is `quoted`, volume that cannot be used although it is
        `invariance`, or no value for the symbol although it is `fixed`.
    """
    bid, ask = frame["bid"].to_numpy(), frame["ask"].to_numpy()
    quoted = np.isfinite(bid) & np.isfinite(ask)
    usable = is_known(frame["volume"].to_numpy(), options)
    source = options.spread or ("invariance" if usable else "edge")
    if source == "quoted" and not quoted.all():
        raise DataError(
            f"{symbol}: {int((~quoted).sum())} of {len(quoted)} bars have no bid and ask; spread='quoted' needs them, "
            "choose invariance, edge or fixed"
        )
    if source == "invariance" and not usable and not quoted.all():
        raise DataError(f"{symbol}: no usable volume, which spread='invariance' needs; choose edge or fixed")
    tick = of_symbol(options.tick, symbol)
    floor = np.zeros(len(frame)) if tick is None else tick / 2 / frame["raw_close"].to_numpy()
    if source == "fixed":
        value = of_symbol(options.half_spread, symbol)
        if value is None and not quoted.all():
            raise DataError(f"{symbol}: half_spread has no value for it, and spread='fixed' needs one")
        estimate = np.full(len(frame), np.nan if value is None else value)
    elif source == "edge":
        prices = [frame[name].to_numpy() for name in PRICES]
        estimate = estimated_half_spread(*prices, window=options.spread_window, floor=options.min_half_spread)
        estimate = np.minimum(estimate, WIDEST if options.spread else EDGE_CAP)
        floor = np.maximum(floor, options.min_half_spread)
    else:
        columns = (frame[name].to_numpy() for name in ("high", "low", "close", "volume"))
        estimate = invariant_half_spread(*columns, window=options.spread_window)
        estimate = np.where(np.isfinite(estimate), np.minimum(estimate, WIDEST), options.min_half_spread)
    with np.errstate(invalid="ignore"):
        values = np.where(quoted, (ask - bid) / (ask + bid), np.maximum(estimate, floor))
    return HalfSpreads(values, quoted, source, ~quoted & (values <= floor))


def check_symbols(names: Sequence[str], options: LoadOptions) -> None:
    """Refuses values for symbols that are not there.

    Args:
      names: symbols of the market.
      options: `half_spread`, `tick`, `multiplier` and `futures` apply.

    Raises:
      DataError: names the first of them.
    """
    for name in ("half_spread", "tick", "multiplier"):
        given = getattr(options, name)
        unknown = sorted({*given} - {*names}) if isinstance(given, Mapping) else []
        if unknown:
            raise DataError(f"{name} has a value for {unknown[0]}, which is none of {', '.join(names[:8])}")
    unknown = [] if isinstance(options.futures, bool) else sorted({*options.futures} - {*names})
    if unknown:
        raise DataError(f"futures names {unknown[0]}, which is none of {', '.join(names[:8])}")


def of_symbol(given: Value | Mapping[str, Value] | None, symbol: str) -> Value | None:
    """The value of a symbol: that of all, or its own; None where there is none.

    Args:
      given: one for all, or a value per symbol.
      symbol: of the asset.
    """
    return given.get(symbol) if isinstance(given, Mapping) else given
