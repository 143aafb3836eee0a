"""Checks of the whole history of an asset: adjustment, dividends, holes, jumps, splits."""

from __future__ import annotations

import numpy as np

from jaxppo.envs.data.checks import beyond_float32, describe_size
from jaxppo.envs.data.options import LoadOptions
from jaxppo.envs.data.rows import PRICES, Rows, rounded_up, time_text
from jaxppo.envs.data.spikes import USUAL_MOVES, check_spikes, typical_move
from jaxppo.envs.data.times import DAY

SPLIT_RATIOS = (2, 3, 4, 5, 6, 7, 8, 10, 15, 20, 25, 30, 40, 50, 100)
DOUBTFUL_RATIOS = {"3:2": 1.5, "5:2": 2.5}
"""Rare splits at ratios that real losses reach too: the report warns, the data is accepted."""
ADJUSTED = "give adjusted prices (a column adj_close or adj_factor), or pass split_tolerance=0 if it is real"
RESTATED = "pass adjust=False to use the prices as they are"


def adjust_prices(rows: Rows, options: LoadOptions) -> str | None:
    """Multiplies prices and quotes by adj_close / close (or adj_factor) and divides volume by it.

    The close of the file stays, as `raw_close`: a tick is a fraction of it.

    Args:
      rows: checked rows in order of symbol and time; changed.
      options: `adjust` applies.

    Returns:
      Name of the column used, or None.

    Raises:
      DataError: the factor is not positive, contradicts a stated dividend, or leaves the range of prices.
    """
    rows.frame = frame = rows.frame.assign(raw_close=rows.frame["close"])
    if not options.adjust:
        return None
    # The factor is constant up to the next split or dividend: returns in the past do not see later events.
    factor, used = np.ones(len(frame)), dict[int, str]()
    symbols = frame["symbol"].cat.codes.to_numpy()
    for name in ("adj_factor", "adj_close"):
        given = frame[name].to_numpy()
        has_column = np.bincount(symbols, np.isfinite(given) | np.isinf(given)) > 0
        applies = has_column[symbols]
        factor[applies] = (given / frame["close"].to_numpy() if name == "adj_close" else given)[applies]
        used |= dict.fromkeys(np.flatnonzero(has_column), name)
    if not used:
        return None

    def describe(i: int) -> tuple[str, str]:
        name = used[symbols[i]]
        return f"{name} is {frame[name].iloc[i]:g}: prices cannot be adjusted", RESTATED

    rows.raise_at_first(~(np.isfinite(factor) & (factor > 0)), describe)
    _check_dividends(rows, factor)
    scaled = {column: frame[column] * factor for column in (*PRICES, "bid", "ask")}
    rows.frame = frame.assign(**scaled, volume=frame["volume"] / factor)
    rows.raise_at_first(
        beyond_float32(rows.frame),
        lambda i: (f"after adjustment by {used[symbols[i]]}, {describe_size(rows.frame.iloc[i])}", RESTATED),
    )
    names = "/".join(sorted(set(used.values())))
    n_symbols = len(np.unique(symbols))
    return names if len(used) == n_symbols else f"{names} for {len(used)} of {n_symbols} symbols"


def _check_dividends(rows: Rows, factor: np.ndarray) -> None:
    """Checks that the adjustment contains the stated dividends: factor_tm1 / factor_t = 1 - D_t / close_tm1."""
    frame = rows.frame
    dividend, close = frame["dividend"].to_numpy(), frame["close"].to_numpy()
    follows = _follows(rows)
    paid = follows & (dividend > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = -np.log(np.maximum(1 - dividend / np.roll(close, 1), 1e-3))
        found = np.where(follows, np.log(factor / np.roll(factor, 1)), 0.0)
    # In bars longer than a day the factor may step one bar after the dividend is stated.
    off = np.minimum(np.abs(found - expected), np.abs(np.roll(found, -1) - expected))
    bad = paid & (off > np.maximum(0.005, 0.5 * expected))
    rows.raise_at_first(
        bad,
        lambda i: (
            f"a dividend of {dividend[i]:g} is {100 * dividend[i] / close[i - 1]:.2g} % of the previous close "
            f"{close[i - 1]:g}, but the adjustment allows for {abs(100 * np.expm1(-found[i])):.2f} %",
            RESTATED,
        ),
    )


def _follows(rows: Rows) -> np.ndarray:
    """Marks rows that follow a bar of the same asset: `[N]` bool."""
    return np.append(False, np.diff(rows.frame["symbol"].cat.codes.to_numpy()) == 0)


def check_history(rows: Rows, daily: bool, options: LoadOptions) -> None:
    """Checks for holes (a reused ticker), and for jumps that suggest splits, unit errors or bad prints.

    Args:
      rows: adjusted rows in order of symbol and time; gets warnings on doubtful gaps.
      daily: whether bars are stamped with dates.
      options: `max_hole_days`, `max_log_range`, `max_log_jump`, `max_log_spike` and `split_tolerance` apply.

    Raises:
      DataError: the first bar beyond a limit, with the option that accepts it.
    """
    frame = rows.frame
    follows = _follows(rows)
    hole = np.append(0, np.diff(frame["utc"].to_numpy())) / DAY
    rows.raise_at_first(
        follows & (hole > options.max_hole_days),
        lambda i: (
            f"no bar for {hole[i]:.0f} days before this one: a reused ticker or a missing piece",
            f"pass max_hole_days={np.ceil(hole[i]):.0f} if it is the same asset",
        ),
    )
    open_, high, low, close = (np.log(frame[name].to_numpy()) for name in PRICES)
    span = high - low
    rows.raise_at_first(
        span > options.max_log_range,
        lambda i: (
            f"high is {np.exp(span[i]):.3g} times low within one bar: a unit error",
            f"pass max_log_range={rounded_up(span[i])} if it is real",
        ),
    )
    empty = np.maximum(low - np.roll(high, 1), 0) - np.maximum(np.roll(low, 1) - high, 0)
    gap, move = open_ - np.roll(close, 1), close - np.roll(close, 1)
    rows.raise_at_first(
        follows & (np.abs(empty) > options.max_log_jump),
        lambda i: (
            f"close goes from {np.exp(close[i - 1]):g} to {np.exp(close[i]):g} (log {move[i]:+.2f}) "
            "with no price in between: an unadjusted split, a unit error or another asset",
            f"pass max_log_jump={rounded_up(abs(empty[i]))} if it is real",
        ),
    )
    if options.split_tolerance > 0:
        # A split leaves quiet bars around a gap without prices in it; a crash trades through it.
        quiet = np.maximum(span, np.roll(span, 1)) < np.abs(gap) / 3
        suspect = follows & quiet & (np.abs(empty) > np.abs(gap) / 2)
        _check_gaps(rows, gap, suspect, options.split_tolerance)
        _check_stated_splits(rows, move, follows, options.split_tolerance)
        far = (-gap > USUAL_MOVES * typical_move(frame)) & (hole < max(6.0, 2.5 * np.median(hole)))
        _warn_of_doubtful_gaps(rows, gap, suspect & far, options.split_tolerance)
    check_spikes(rows, daily, options)


def _check_gaps(rows: Rows, gap: np.ndarray, suspect: np.ndarray, tolerance: float) -> None:
    """Checks for gaps between quiet bars at a whole ratio, as unadjusted splits leave them."""
    ratios = np.log(SPLIT_RATIOS)
    nearest = np.abs(np.abs(gap)[:, None] - ratios).argmin(axis=1)
    off = np.abs(np.abs(gap) - ratios[nearest])

    def describe(i: int) -> tuple[str, str]:
        ratio = SPLIT_RATIOS[nearest[i]]
        name = f"{ratio}:1" if gap[i] < 0 else f"1:{ratio}"
        return _split_finding(gap[i], name), ADJUSTED

    rows.raise_at_first(suspect & (off < tolerance), describe)


def _split_finding(gap: float, split: str, time: str = "") -> str:
    return f"the open{time} is {np.exp(gap):.3g} times the previous close: it looks like an unadjusted {split} split"


def _warn_of_doubtful_gaps(rows: Rows, gap: np.ndarray, suspect: np.ndarray, tolerance: float) -> None:
    """Warns of suspect gaps at the ratio of a rare split."""
    # Falls only: takeover bids lift prices by a half to another quiet level, and splits of 2:3 hardly occur.
    for name, ratio in DOUBTFUL_RATIOS.items():
        for i in np.flatnonzero(suspect & (np.abs(gap + np.log(ratio)) < tolerance)):
            row = rows.frame.iloc[i]
            finding = _split_finding(gap[i], name, f" of {time_text(row['written'])}")
            rows.warnings.append(f"{row['symbol']}: {finding}")


def _check_stated_splits(rows: Rows, move: np.ndarray, follows: np.ndarray, tolerance: float) -> None:
    """Checks that prices do not move by the ratio of a stated split."""
    stated = rows.frame["split"].to_numpy()
    size = np.abs(np.log(np.where(stated > 0, stated, 1.0)))
    rows.raise_at_first(
        follows & (size > 0.1) & (np.abs(np.abs(move) - size) < tolerance),
        lambda i: (
            f"a split of {stated[i]:g} is stated here and close moves by a factor of {np.exp(move[i]):.3g}: "
            "prices are not adjusted for it",
            ADJUSTED,
        ),
    )
