"""Bad prints: prices that leave the level of an asset and return to it at once."""

from __future__ import annotations

import numpy as np
import pandas as pd

from jaxppo.envs.data.options import LoadOptions
from jaxppo.envs.data.rows import Rows, rounded_up

LONGEST_SPIKE = 3
"""Most bars of a bad print; a move that lasts longer counts as real."""
USUAL_MOVES = 10.0
"""Multiple of the asset's usual move up to which an excursion is accepted."""


def typical_move(frame: pd.DataFrame, largest: float = 1.0) -> np.ndarray:
    """Median absolute close-to-close move of each row's asset.

    Args:
      frame: rows in order of symbol and time.
      largest: largest move that counts, log price, > 0; moves of 0 do not count either.

    Returns:
      `[N]` log price, >= 0; 0 for an asset without such moves.
    """
    moves = np.log(frame["close"]).groupby(frame["symbol"], observed=True).diff().abs()
    moves = moves.where((moves > 0) & (moves <= largest))
    return moves.groupby(frame["symbol"], observed=True).transform("median").fillna(0.0).to_numpy()


def check_spikes(rows: Rows, daily: bool, options: LoadOptions) -> None:
    """Checks for opens and closes that return to their level within a few bars, and for stray highs and lows of days.

    The test looks at later bars, but it only accepts or refuses the whole history: no bar that is used depends on later
    ones. A lasting jump passes, however large.

    Args:
      rows: adjusted rows in order of symbol and time.
      daily: whether bars are stamped with dates.
      options: `max_log_spike` applies.

    Raises:
      DataError: the first bad print, with the limit that accepts them all.
    """
    frame = rows.frame
    limit = np.maximum(options.max_log_spike, USUAL_MOVES * typical_move(frame, options.max_log_spike))
    # Raw intraday feeds keep prints that exchanges later cancel; the official high and low of a day do not.
    found = _spikes(frame) | (_wicks(frame) if daily else {})
    largest = np.max(list(found.values()), axis=0)
    bad = largest > limit

    def describe(at: int) -> tuple[str, str]:
        name = max(found, key=lambda price: found[price][at])
        around = "the prices before and after it" if name in ("open", "close") else "every open and close around it"
        factor = np.exp(found[name][at])
        finding = f"{name} {frame[name].iloc[at]:g} is a factor of {factor:.3g} off {around}: a bad print"
        return finding, f"mend or remove the row, or pass max_log_spike={rounded_up(largest[bad].max())} if it is real"

    rows.raise_at_first(bad, describe)


def _spikes(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """Measures how far opens and closes stand out of the path `open_0, close_0, open_1, close_1, ...` of their asset.

    A run `p_i .. p_j` of at most `2 LONGEST_SPIKE` prices stands out by `min(run) - max(p_im1, p_jp1)` above its
    surroundings, or by `min(p_im1, p_jp1) - max(run)` below them.

    Args:
      frame: rows in order of symbol and time.

    Returns:
      `open` and `close`, each `[N]` log price, >= 0: the largest excess of the runs that hold the price.
    """
    path = np.log(frame[["open", "close"]].to_numpy()).ravel()
    asset = np.repeat(frame["symbol"].cat.codes.to_numpy(), 2)
    excess = np.zeros(len(path))
    lowest = highest = path
    for length in range(1, min(2 * LONGEST_SPIKE, len(path) - 2) + 1):
        if length > 1:
            lowest, highest = np.minimum(lowest[:-1], path[length - 1 :]), np.maximum(highest[:-1], path[length - 1 :])
        before, after = path[: -length - 1], path[length + 1 :]
        out = np.maximum(lowest[1:-1] - np.maximum(before, after), np.minimum(before, after) - highest[1:-1])
        out = np.where(asset[: -length - 1] == asset[length + 1 :], out, 0.0)
        for offset in range(1, length + 1):
            held = excess[offset : offset + len(out)]
            np.maximum(held, out, out=held)
    return {"open": excess[::2], "close": excess[1::2]}


def _wicks(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """Measures how far high and low lie beyond every open and close of their bar and of the bars beside it.

    Args:
      frame: rows in order of symbol and time.

    Returns:
      `high` and `low`, each `[N]` log price; negative where a neighbour reaches farther.
    """
    bodies = np.log(frame[["open", "close"]])
    asset = frame["symbol"].cat.codes

    def farthest(body: pd.Series) -> np.ndarray:
        return np.fmax.reduce([body.groupby(asset).shift(step).to_numpy() for step in (-1, 0, 1)])

    high, low = np.log(frame["high"].to_numpy()), np.log(frame["low"].to_numpy())
    return {"high": high - farthest(bodies.max(axis=1)), "low": -farthest(-bodies.min(axis=1)) - low}
