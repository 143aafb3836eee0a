"""What the column of volumes counts: units of the asset, quote currency, price changes, or nothing that can be used."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxppo.envs.data.checks import beyond_float32, describe_size
from jaxppo.envs.data.options import LoadOptions
from jaxppo.envs.data.rows import Rows, column_key

TICKS = ("tickvolume", "tickvol")
"""Columns whose name says that they count price changes."""
NOTIONAL = ("quotevolume", "quoteassetvolume", "volumequote", "notionalvolume", "notional", "dollarvolume")
"""Columns whose name says that they are quote currency."""
NAMED = {"ticks": TICKS, "notional": NOTIONAL}
UNUSABLE = ("ticks", "none")
"""Kinds of volume that no size of an order can be compared with."""
MOST_NAMED = 5


def choose_volume(
    found: dict[str, Hashable], columns: Sequence[Hashable], symbols: pd.Series, options: LoadOptions
) -> None:
    """Chooses the column of volumes among several.

    Of `volume_btc, volume_usd, volume` it is the one whose suffix begins the symbol, which counts units of the asset.
    For notional volume it is the one whose suffix ends the symbol. A name that says what is asked for (`tick_volume`,
    `quote_volume`) goes before others.

    Args:
      found: field -> label of its column; changed.
      columns: labels of the table.
      symbols: `[N]` names; the first one counts.
      options: `volume` applies.
    """
    if options.volume == "none":
        found.pop("volume", None)
        return
    symbol = re.sub(r"\W", "", symbols.iloc[0]).lower() if len(symbols) else ""
    belongs = symbol.endswith if options.volume == "notional" else symbol.startswith
    for column in columns:
        match = re.fullmatch(r"volume[\W_]+(\w+)", str(column).strip().lower())
        if match and belongs(match[1]) and symbol != match[1]:
            found["volume"] = column
    for column in columns:
        if column_key(column) in NAMED.get(options.volume or "", ()):
            found["volume"] = column


def in_units(rows: Rows, options: LoadOptions) -> None:
    """Divides notional volume by the close of its own bar: `volume_t / close_t`, units of the asset.

    With it `close_t * volume_t` is the notional of the file again. Nothing of a later bar is read.

    Args:
      rows: checked rows before any adjustment; changed.
      options: `volume` applies.

    Raises:
      DataError: a quotient is beyond the range of volumes.
    """
    if options.volume != "notional":
        return
    rows.frame = rows.frame.assign(volume=rows.frame["volume"] / rows.frame["close"])
    rows.raise_at_first(
        beyond_float32(rows.frame),
        lambda i: (f"notional volume over close: {describe_size(rows.frame.iloc[i])}", "check volume='notional'"),
    )


def is_counted(volume: np.ndarray) -> bool:
    """Whether the volumes `[N]` of an asset report anything: not all are missing or 0."""
    return bool(np.nansum(volume) > 0)


def is_known(volume: np.ndarray, options: LoadOptions) -> bool:
    """Whether sizes of orders can be compared with the volumes `[N]` of an asset."""
    return options.volume not in UNUSABLE and is_counted(volume)


def volume_warnings(symbols: dict[str, dict[str, Any]], rows: Rows, options: LoadOptions) -> list[str]:
    """Says whose volume is unknown, and which column is named as a count of price changes.

    Args:
      symbols: `symbol_report` of every symbol.
      rows: their tables.
      options: `volume` applies.
    """
    unknown = [name for name, counts in symbols.items() if not counts["volume_known"]]
    lines = [no_volume_line(unknown, len(symbols))] if unknown else []
    for table in rows.tables if unknown and options.volume not in UNUSABLE else []:
        keys = {label: column_key(label) for label in table.unused}
        named_so = [label for label, key in keys.items() if "vol" in key and "volatil" not in key]
        if named_so and "volume" not in table.columns:
            lines.append(f"{table.name}: the column {named_so[0]} is not read; rename it to volume if it is that")
    named = {table.columns.get("volume", "") for table in rows.tables}
    counts = sorted(column for column in named if column_key(column) in TICKS)
    if counts and options.volume is None and len(unknown) < len(symbols):
        lines.append(
            f"the column {counts[0]} counts price changes by its name and is read as units of the asset: set "
            "data.volume (volume= in Python) to ticks, or to shares if it is units"
        )
    return lines


def no_volume_line(unknown: Sequence[str], n_symbols: int) -> str:
    """Says which assets have no usable volume, and what that means.

    Args:
      unknown: their names, at least one.
      n_symbols: of the market.
    """
    shown = ", ".join(unknown[:MOST_NAMED]) + (", ..." if len(unknown) > MOST_NAMED else "")
    whose = f"{len(unknown)} of {n_symbols} symbols ({shown})" if n_symbols > 1 else shown
    return f"no usable volume of {whose}: no participation limit and no market impact applies there"
