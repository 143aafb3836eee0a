"""Returns by month of the calendar."""

from __future__ import annotations

import numpy as np


def monthly_returns(equity: np.ndarray, times: np.ndarray) -> dict[str, float]:
    """Return of each month: equity at its last close over that at the last close before it, less 1.

    A bar belongs to the month of its time. The first and the last month may be parts of one. Together they compound to
    the return of the whole period.

    Args:
      equity: `[n + 1]` currency, the start included.
      times: `[n + 1]` datetime64, UTC, increasing; empty for a market without times.

    Returns:
      `"2020-01"` -> return, fraction; months without a bar are left out. 0 once nothing is left.
    """
    equity = np.asarray(equity, np.float64)
    if not len(times):
        return {}
    months = np.asarray(times)[1:].astype("datetime64[M]")
    last = np.flatnonzero(np.r_[months[1:] != months[:-1], True]) + 1
    before, after = equity[np.r_[0, last[:-1]]], equity[last]
    alive = before > 0
    change = np.where(alive, after / np.where(alive, before, 1.0) - 1.0, 0.0)
    return dict(zip(months[last - 1].astype(str).tolist(), change.tolist(), strict=True))
