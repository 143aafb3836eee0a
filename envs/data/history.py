"""Checks that need the whole history of an asset: adjustment, dividends, holes, jumps, splits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxppo.envs.data.checks import beyond_float32, describe_size
from jaxppo.envs.data.rows import PRICES, LoadOptions, Rows, time_text
from jaxppo.envs.data.spikes import USUAL_MOVES, check_spikes, typical_move
from jaxppo.envs.data.times import DAY

SPLIT_RATIOS = (2, 3, 4, 5, 6, 7, 8, 10, 15, 20, 25, 30, 40, 50, 100)
DOUBTFUL_RATIOS = {"3:2": 1.5, "5:2": 2.5}
"""Splits that are seldom and near enough to real losses that the report warns and nothing is refused."""
ADJUSTED = "give adjusted prices (a column adj_close or adj_factor), or pass split_tolerance=0 if it is real"
RESTATED = "pass adjust=False to use the prices as they are"


def adjust_prices(rows: Rows, options: LoadOptions) -> str | None:
    """Multiplies prices and quotes by adj_close / close (or adj_factor) and divides volume by it.

    The factor of a bar is constant up to the next split or dividend, so returns inside the past do not see it: only the
    level of old prices depends on later events.

    Returns:
      The column used, or None.
    """
    frame = rows.frame
    if not options.adjust:
        return None
    factor, used = np.ones(len(frame)), {}
    symbols = frame["symbol"].cat.codes.to_numpy()
    for name in ("adj_factor", "adj_close"):
        given = frame[name].to_numpy()
        have = np.bincount(symbols, np.isfinite(given) | np.isinf(given)) > 0
        own = have[symbols]
        factor[own] = (given / frame["close"].to_numpy() if name == "adj_close" else given)[own]
        used |= dict.fromkeys(np.flatnonzero(have), name)
    if not used:
        return None
    bad = ~(np.isfinite(factor) & (factor > 0))
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        name = used[symbols[at]]
        raise rows.refuse(
            at, f"{name} is {frame[name].iloc[at]:g}: prices cannot be adjusted", RESTATED, int(bad.sum())
        )
    _check_dividends(rows, factor)
    scaled = {column: frame[column] * factor for column in (*PRICES, "bid", "ask")}
    rows.frame = frame.assign(**scaled, volume=frame["volume"] / factor)
    _refuse_first(
        rows,
        beyond_float32(rows.frame),
        lambda i: f"after adjustment by {used[symbols[i]]}, {describe_size(rows.frame.iloc[i])}",
        lambda i: RESTATED,
    )
    names = "/".join(sorted(set(used.values())))
    n_symbols = len(np.unique(symbols))
    return names if len(used) == n_symbols else f"{names} for {len(used)} of {n_symbols} symbols"


def _check_dividends(rows: Rows, factor: np.ndarray) -> None:
    """Where the data states dividends, the adjustment must contain them: factor_tm1 / factor_t = 1 - D_t / close_tm1.

    In bars longer than a day the factor may step one bar after the dividend is stated.
    """
    frame = rows.frame
    dividend, close = frame["dividend"].to_numpy(), frame["close"].to_numpy()
    follows = _follows(rows)
    paid = follows & (dividend > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = -np.log(np.maximum(1 - dividend / np.roll(close, 1), 1e-3))
        found = np.where(follows, np.log(factor / np.roll(factor, 1)), 0.0)
    off = np.minimum(np.abs(found - expected), np.abs(np.roll(found, -1) - expected))
    bad = paid & (off > np.maximum(0.005, 0.5 * expected))
    _refuse_first(
        rows,
        bad,
        lambda i: (
            f"a dividend of {dividend[i]:g} is {100 * dividend[i] / close[i - 1]:.2g} % of the previous close "
            f"{close[i - 1]:g}, but the adjustment allows for {abs(100 * np.expm1(-found[i])):.2f} %"
        ),
        lambda i: RESTATED,
    )


def _follows(rows: Rows) -> np.ndarray:
    """`[N]` bool: the row before is the same asset's previous bar."""
    return np.append(False, np.diff(rows.frame["symbol"].cat.codes.to_numpy()) == 0)


def check_history(rows: Rows, daily: bool, options: LoadOptions) -> None:
    """Holes that suggest another company under the same ticker; jumps that suggest splits, unit errors, bad prints."""
    frame = rows.frame
    follows = _follows(rows)
    hole = np.append(0, np.diff(frame["utc"].to_numpy())) / DAY
    _refuse_first(
        rows,
        follows & (hole > options.max_hole_days),
        lambda i: f"no bar for {hole[i]:.0f} days before this one: a reused ticker or a missing piece",
        lambda i: f"pass max_hole_days={np.ceil(hole[i]):.0f} if it is the same asset",
    )
    open_, high, low, close = (np.log(frame[name].to_numpy()) for name in PRICES)
    span = high - low
    _refuse_first(
        rows,
        span > options.max_log_range,
        lambda i: f"high is {np.exp(span[i]):.3g} times low within one bar: a unit error",
        lambda i: f"pass max_log_range={_round_up(span[i])} if it is real",
    )
    empty = np.maximum(low - np.roll(high, 1), 0) - np.maximum(np.roll(low, 1) - high, 0)
    gap, move = open_ - np.roll(close, 1), close - np.roll(close, 1)
    _refuse_first(
        rows,
        follows & (np.abs(empty) > options.max_log_jump),
        lambda i: (
            f"close goes from {np.exp(close[i - 1]):g} to {np.exp(close[i]):g} (log {move[i]:+.2f}) "
            "with no price in between: an unadjusted split, a unit error or another asset"
        ),
        lambda i: f"pass max_log_jump={_round_up(abs(empty[i]))} if it is real",
    )
    if options.split_tolerance > 0:
        quiet = np.maximum(span, np.roll(span, 1)) < np.abs(gap) / 3
        suspect = follows & quiet & (np.abs(empty) > np.abs(gap) / 2)
        _check_gaps(rows, gap, suspect, options.split_tolerance)
        _check_stated_splits(rows, move, follows, options.split_tolerance)
        far = (-gap > USUAL_MOVES * typical_move(frame)) & (hole < max(6.0, 2.5 * np.median(hole)))
        _note_doubtful_gaps(rows, gap, suspect & far, options.split_tolerance)
    check_spikes(rows, daily, options)


def _check_gaps(rows: Rows, gap: np.ndarray, suspect: np.ndarray, tolerance: float) -> None:
    """Gaps between quiet bars at a whole ratio, as splits leave them; a crash is neither so exact nor so quiet."""
    ratios = np.log(SPLIT_RATIOS)
    nearest = np.abs(np.abs(gap)[:, None] - ratios).argmin(axis=1)
    off = np.abs(np.abs(gap) - ratios[nearest])

    def describe(i: int) -> str:
        ratio = SPLIT_RATIOS[nearest[i]]
        name = f"{ratio}:1" if gap[i] < 0 else f"1:{ratio}"
        return f"the open is {np.exp(gap[i]):.3g} times the previous close: it looks like an unadjusted {name} split"

    _refuse_first(rows, suspect & (off < tolerance), describe, lambda i: ADJUSTED)


def _note_doubtful_gaps(rows: Rows, gap: np.ndarray, suspect: np.ndarray, tolerance: float) -> None:
    """Falls without a hole between quiet bars, far beyond the usual moves, at a ratio of splits that is no whole one.

    Rises are left out: takeover bids lift prices by a half to another quiet level, and splits of 2:3 hardly occur.
    """
    for name, ratio in DOUBTFUL_RATIOS.items():
        for i in np.flatnonzero(suspect & (np.abs(gap + np.log(ratio)) < tolerance)):
            row = rows.frame.iloc[i]
            rows.suspicions.append(
                f"{row['symbol']}: the open of {time_text(row['written'])} is {np.exp(gap[i]):.3g} times the previous "
                f"close: it looks like an unadjusted {name} split"
            )


def _check_stated_splits(rows: Rows, move: np.ndarray, follows: np.ndarray, tolerance: float) -> None:
    """Where the data states a split, adjusted prices do not move by its ratio."""
    stated = rows.frame["split"].to_numpy()
    size = np.abs(np.log(np.where(stated > 0, stated, 1.0)))
    _refuse_first(
        rows,
        follows & (size > 0.1) & (np.abs(np.abs(move) - size) < tolerance),
        lambda i: (
            f"a split of {stated[i]:g} is stated here and close moves by a factor of {np.exp(move[i]):.3g}: "
            "prices are not adjusted for it"
        ),
        lambda i: ADJUSTED,
    )


def _refuse_first(rows: Rows, bad: np.ndarray, describe: Callable[[int], str], way_out: Callable[[int], str]) -> None:
    """Refuses the first bar in the mask, if any."""
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        raise rows.refuse(at, describe(at), way_out(at), int(bad.sum()))


def _round_up(value: float) -> str:
    return f"{np.ceil(value * 10 + 1e-9) / 10:.1f}"
