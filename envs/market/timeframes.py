"""Coarser bars, made of the bars of a market, each seen only once it is over.

A coarse bar holds the bars of a session whose starts fall into the same hours (or minutes) of the clock of the
exchange, counted from midnight; `1d` holds a session and `1w` a week from Monday on. It is over when the next one
begins, so that what is left of an early close, a halt or a missing bar need not be known: the first bar of the next one
is the first that sees it. The bar that is still running is never seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxppo.envs.market import streaming
from jaxppo.envs.market.kernels import platform
from jaxppo.envs.market.market_data import MarketData
from jaxppo.envs.market.own_bars import OwnBars, own_bars
from jaxppo.envs.market.rows import followed, row_number, running_count
from jaxppo.envs.market.windows import shift

Timeframe = Literal["5m", "10m", "15m", "20m", "30m", "1h", "2h", "3h", "4h", "6h", "8h", "12h", "1d", "1w"]
Timeframes = tuple[Timeframe, ...]
BarsOfTimeframes = Mapping[str, int]
"""Coarse bars -> most bars of a market in one of them, by which warm-ups are counted."""
DAY, WEEK = 86_400.0, 7 * 86_400.0
FIELDS = ("open", "high", "low", "close", "volume", "half_spread")
TRADED, BEGINS = len(FIELDS), len(FIELDS) + 1
"""Places behind the fields: whether there is a bar, and whether a coarse bar begins."""


class CoarseBars(NamedTuple):
    """Coarse bars on the time axis of the market that they are made of.

    Attributes:
      market: as it was given, but each row has the coarse bar that was over before the row began, and an asset is
        tradable in the first row that sees a new one.
      bars: rows with a new coarse bar of an asset.
      bars_since: `[T, A]` int32, coarse bars of the market since the last one of the asset.
    """

    market: MarketData
    bars: OwnBars
    bars_since: jax.Array


def minutes_of(timeframe: str) -> int | None:
    """Length of a coarse bar in minutes; None for `1d` and `1w`, which follow sessions and weekdays.

    Args:
      timeframe: name of it.
    """
    number, unit = int(timeframe[:-1]), timeframe[-1]
    return number * {"m": 1, "h": 60}[unit] if unit in "mh" else None


def begins(market: MarketData, timeframe: str) -> jax.Array:
    """Whether a coarse bar begins at each bar, `[T]` bool; the first bar begins one.

    Args:
      market: `[T, A]` bars.
      timeframe: name of it.
    """
    weekday, session = market.day_of_week, market.session
    new_session = session != shift(session, 1)
    first = row_number(session) == 0
    minutes = minutes_of(timeframe)
    if minutes is not None:
        hour = jax.lax.div(market.minute_of_day, jnp.full_like(market.minute_of_day, minutes))
        return first | new_session | (hour != shift(hour, 1))
    if timeframe == "1d":
        return first | new_session
    # Of two bars that are less than a week apart the later one has the earlier weekday if a Monday lies between them.
    elapsed, before = market.seconds_since_previous, shift(weekday, 1)
    a_week_later = (elapsed >= WEEK) | ((weekday == before) & (elapsed > WEEK - DAY))
    return first | (weekday < before) | a_week_later


def coarse_bars(market: MarketData, timeframe: str) -> CoarseBars:
    """Makes coarse bars of the own bars of each asset.

    Args:
      market: `[T, A]` bars.
      timeframe: name of it.
    """
    begin = begins(market, timeframe)
    starts = jnp.broadcast_to(begin[:, None], market.tradable.shape)
    columns = [getattr(market, name) for name in FIELDS]
    before = _before(jnp.stack([*columns, market.tradable, starts], axis=-1).astype(jnp.float32))
    known = before[..., TRADED] > 0
    over = starts & known
    # Where an asset has no coarse bar, prices are those of an asset without any bar.
    fields = {name: jnp.where(known, before[..., i], name != "volume") for i, name in enumerate(FIELDS)}
    coarse = market.replace(**fields, tradable=over)
    bars = own_bars(over)
    number = jnp.broadcast_to(running_count(begin)[:, None], over.shape)
    return CoarseBars(coarse, bars, number - bars.computed(lambda number: number, number))


def _before(rows: jax.Array) -> jax.Array:
    """The coarse bar that each row finds: of the rows before it, from where the last one began, `[T, A, 8]`.

    Args:
      rows: `[T, A, 8]`, the six fields of a bar, whether the asset has it, and whether a coarse bar begins with it.
    """
    # A CPU is fastest bar by bar, and a stream has no choice; an accelerator pays for every sequential step.
    if streaming.current() is None and platform() != "cpu":
        return jnp.concatenate([jnp.zeros_like(rows[:1]), jax.lax.associative_scan(_joined, rows)[:-1]])
    return followed(lambda sofar, row: (_joined(sofar, row), sofar), jnp.zeros(rows.shape[1:]), rows)


def _joined(older: jax.Array, newer: jax.Array) -> jax.Array:
    """The coarse bar at the end of two adjacent stretches of rows, each `[..., 8]` with that at its own end."""
    kept = (older[..., TRADED] > 0) & (newer[..., BEGINS] == 0)
    added = newer[..., TRADED] > 0
    open_, high, low, close, volume, spread = ((older[..., i], newer[..., i]) for i in range(len(FIELDS)))
    both = kept & added
    fields = [
        jnp.where(kept, *open_),
        jnp.where(both, jnp.maximum(*high), jnp.where(kept, *high)),
        jnp.where(both, jnp.minimum(*low), jnp.where(kept, *low)),
        jnp.where(added, *close[::-1]),
        jnp.where(kept, volume[0], 0.0) + jnp.where(added, volume[1], 0.0),
        jnp.where(added, *spread[::-1]),
        (kept | added).astype(jnp.float32),
        jnp.maximum(older[..., BEGINS], newer[..., BEGINS]),
    ]
    return jnp.stack(fields, axis=-1)


def bars_per_timeframe(market: MarketData, timeframes: Sequence[str]) -> dict[str, int]:
    """Most bars of a market in one coarse bar; host-side.

    Args:
      market: `[T, A]` bars, unbatched.
      timeframes: names.

    Returns:
      Name -> number of bars, >= 2.

    Raises:
      ValueError: coarse bars that are not longer than the bars, or no multiple of them.
    """
    elapsed = np.asarray(market.seconds_since_previous)[1:]
    steps, counts = np.unique(elapsed, return_counts=True)
    length = float(steps[counts.argmax()]) if len(steps) else 0.0
    found = {}
    for name in timeframes:
        places = np.flatnonzero(np.asarray(begins(market, name)))
        found[name] = int(np.diff(np.append(places, market.n_bars)).max())
        minutes = minutes_of(name)
        if found[name] < 2 or (minutes is not None and 60 * minutes <= length):
            raise ValueError(f"{name} is not longer than a bar of these prices, which has {length / 60:g} minutes")
        if minutes is not None and length and 60 * minutes % length:
            raise ValueError(f"{name} is no multiple of a bar of these prices, which has {length / 60:g} minutes")
    return found
