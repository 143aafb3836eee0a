"""Tables of closes alone: settlements, fixings, indices. Every price of their bars is the close."""

from __future__ import annotations

import numpy as np
import pandas as pd

from jaxppo.envs.data.currencies import MOST_NAMED
from jaxppo.envs.data.rows import Table
from jaxppo.errors import DataError

REGULAR = 0.6
"""Share of the steps of a table of closes that must lie within a factor of two of its usual step: trades come at any
time, closes do not."""
FEWEST_STEPS = 4
"""Steps from which that can be judged."""


def check_spacing(part: pd.DataFrame, table: Table) -> None:
    """Refuses a table of single trades, which has prices without open, high and low as well.

    Args:
      part: rows of a table, `symbol` and `utc` (ns).
      table: as it was read.

    Raises:
      DataError: its times come at no usual distance.
    """
    ordered = part.drop_duplicates(["symbol", "utc", "close"]).sort_values(["symbol", "utc"], kind="stable")
    same = ordered["symbol"].to_numpy()[1:] == ordered["symbol"].to_numpy()[:-1]
    steps = np.diff(ordered["utc"].to_numpy())[same].astype(np.float64)
    if len(steps) < FEWEST_STEPS:
        return
    usual = np.median(steps)
    regular = np.mean((steps >= usual / 2) & (steps <= 2 * usual) & (steps > 0))
    if regular < REGULAR:
        raise DataError(
            f"{table.name}: no column for open, high, low; found {', '.join(map(str, table.frame.columns[:12]))}, "
            "at times of no usual distance; these look like single trades, make bars of them first"
        )


def closes_only_line(tables: list[Table]) -> str:
    """Says which tables have closes alone, and what that means; empty where none has."""
    names = [table.name for table in tables if table.closes_only]
    if not names:
        return ""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return (
        f"{', '.join(names[:MOST_NAMED])}{more}: closes without open, high and low; every price of a bar is its close, "
        "so an order that is decided at one close fills at the next close"
    )
