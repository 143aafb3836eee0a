"""The market as arrays: `MarketData`, a pytree that compiled functions take as an argument."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from flax import struct

SECONDS_PER_YEAR = 365.25 * 24 * 3600


@dataclasses.dataclass(frozen=True, eq=False)
class MarketInfo:
    """Names, times and provenance of a market; host-side only.

    Rides on `MarketData` as static metadata. All instances compare equal on purpose: nothing here may reach
    compiled code, so a market with other names or dates but the same shape must not recompile. For the same reason a
    jitted function that *returns* a `MarketData` returns the info of the call that compiled it: slice and rename
    outside.

    Attributes:
      symbols: one name per asset, in column order; empty for an unnamed (simulated) market.
      timestamps: `[T]` datetime64[ns], UTC, start of each bar; empty if unknown.
      report: what the loader counted and repaired (JSON-serialisable).
    """

    symbols: tuple[str, ...] = ()
    timestamps: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, "datetime64[ns]"))
    report: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MarketInfo)

    def __hash__(self) -> int:
        return 0


@struct.dataclass
class MarketData:
    """Bars of `A` assets on one time axis of `T` bars (leading batch axes are allowed under `vmap`).

    Prices are adjusted for splits and dividends, strictly positive and finite everywhere. Where `tradable` is False
    nothing can be filled: either the asset had no bar, and its four prices repeat the last known close (1.0 before its
    first bar), or it had one in which nobody traded, and the prices are those quoted.

    Attributes:
      open: `[T, A]` price, currency per share.
      high: `[T, A]` price.
      low: `[T, A]` price.
      close: `[T, A]` price; also the price at which positions are marked.
      volume: `[T, A]` shares traded in the bar; 0 where unknown.
      half_spread: `[T, A]` half of the bid-ask spread as a fraction of the mid price, >= 0, known at the close of
        bar t.
      tradable: `[T, A]` bool, the asset printed a bar and somebody traded.
      volume_known: `[A]` bool; False means volume is not reported at all (spot FX), not that nobody traded.
      minute_of_day: `[T]` int32 in [0, 1440), start of the bar, exchange time; 0 for daily bars.
      session: `[T]` int32, non-decreasing id of the trading session.
      day_of_week: `[T]` int32, Monday is 0.
      seconds_since_previous: `[T]` float32, time since the start of the previous bar; 0 for the first.
      info: host-side names and times.
    """

    open: jax.Array
    high: jax.Array
    low: jax.Array
    close: jax.Array
    volume: jax.Array
    half_spread: jax.Array
    tradable: jax.Array
    volume_known: jax.Array
    minute_of_day: jax.Array
    session: jax.Array
    day_of_week: jax.Array
    seconds_since_previous: jax.Array
    info: MarketInfo = struct.field(pytree_node=False, default_factory=MarketInfo)

    @property
    def n_bars(self) -> int:
        """Number of bars T."""
        return self.close.shape[-2]

    @property
    def n_assets(self) -> int:
        """Number of assets A."""
        return self.close.shape[-1]


def slice_bars(market: MarketData, start: int, stop: int) -> MarketData:
    """Bars `start <= t < stop` (Python ints) of an unbatched market, times included; host-side."""
    info = dataclasses.replace(market.info, timestamps=market.info.timestamps[start:stop])
    per_asset = {"volume_known"}
    arrays = {
        field.name: getattr(market, field.name)[start:stop]
        for field in dataclasses.fields(market)
        if field.name not in per_asset | {"info"}
    }
    return market.replace(**arrays, info=info)


def periods_per_year(market: MarketData) -> float:
    """Bars per calendar year, counted on the market's own time axis (about 252 for daily US equities).

    Uses `info.timestamps` where known, else `seconds_since_previous`; 252 for a market without any time. Intraday bars
    are counted as bars per session times sessions per year, so that a file of a few sessions does not miss the night or
    weekend after its last bar.
    """
    times = market.info.timestamps
    if len(times) > 1:
        _, starts, bars = np.unique(np.asarray(market.session), return_index=True, return_counts=True)
        if len(starts) < market.n_bars / 2:
            per_session = float(bars[1:-1].mean()) if len(bars) > 2 else float(bars.max())
            return per_session * _sessions_per_year(times[starts])
        seconds = float((times[-1] - times[0]) / np.timedelta64(1, "s"))
    else:
        seconds = float(np.asarray(market.seconds_since_previous, dtype=np.float64).sum())
    if seconds <= 0:
        return 252.0
    return (market.n_bars - 1) / (seconds / SECONDS_PER_YEAR)


def _sessions_per_year(starts: np.ndarray) -> float:
    """From the start times `[n]` of consecutive sessions; without one on a weekend, as a share of the weekdays."""
    days = starts.astype("datetime64[D]")
    if np.all(np.is_busday(days)):
        weekdays = int(np.busday_count(days[0], days[-1]))
        return SECONDS_PER_YEAR / 86400.0 * 5.0 / 7.0 * ((len(days) - 1) / weekdays if weekdays else 1.0)
    elapsed = float((starts[-1] - starts[0]) / np.timedelta64(1, "s"))
    return SECONDS_PER_YEAR * ((len(days) - 1) / elapsed if elapsed else 1.0 / 86400.0)
