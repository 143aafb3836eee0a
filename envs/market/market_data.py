"""`MarketData`: the market as a pytree of arrays that compiled functions take as an argument."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from flax import struct

from jaxppo.errors import DataError

SECONDS_PER_YEAR = 365.25 * 24 * 3600
SYMBOLS_SHOWN = 6
"""Symbols that the `repr` of a market names."""

PER_ASSET = ("volume_known", "futures", "info")
"""Fields of a market that have no axis of time."""


@dataclasses.dataclass(frozen=True, eq=False)
class MarketInfo:
    """Symbols, times and data report of a market; host-side only.

    `MarketData` carries it as static metadata. All instances compare equal on purpose: nothing here reaches compiled
    code, so a market of the same shape with other symbols or dates does not recompile. For the same reason a jitted
    function that *returns* a `MarketData` returns the info of the call that compiled it: slice and rename outside.

    Attributes:
      symbols: `A` names in column order; empty for an unnamed (simulated) market.
      timestamps: `[T]` datetime64[ns], UTC, start of each bar; empty if unknown.
      report: counts, repairs and warnings of `load_market` (JSON-serialisable); empty for a simulated market.
      periods_per_year: bars per year where the calendar of the exchange says so; None where the times have to.
    """

    symbols: tuple[str, ...] = ()
    timestamps: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, "datetime64[ns]"))
    report: dict[str, Any] = dataclasses.field(default_factory=dict)
    periods_per_year: float | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MarketInfo)

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return f"MarketInfo({', '.join(filter(None, (_shortened(self.symbols), _period(self.timestamps))))})"


class Dividends(struct.PyTreeNode):
    """Dividends that accounts are paid in cash, see `jaxppo.envs.market.dividends`.

    Attributes:
      amount: `[T, A]` currency per share at the bar of the ex-date, >= 0; 0 for none.
      factor: `[T, A]` >= 1, non-decreasing: the prices of the market over those as traded.
    """

    amount: jax.Array
    factor: jax.Array


class MarketData(struct.PyTreeNode):
    """Bars of `A` assets on one time axis of `T` bars; leading batch axes are allowed.

    Prices are adjusted for splits and dividends, strictly positive and finite everywhere. Where `tradable` is False,
    no order fills. There are two cases. Without a bar, the asset's four prices repeat its last close (1.0 before its
    first bar), its volume is 0 and its half-spread repeats. With a bar in which nobody traded, the quoted prices stand.

    Attributes:
      open: `[T, A]` price, currency per share.
      high: `[T, A]` price.
      low: `[T, A]` price.
      close: `[T, A]` price; also the price at which positions are marked, unless there are `dividends`: see `mark`.
      volume: `[T, A]` shares traded in the bar; 0 where unknown.
      half_spread: `[T, A]` half of the bid-ask spread, fraction of the mid price, >= 0, known at the close of bar t.
      tradable: `[T, A]` bool, the asset has a bar and somebody traded.
      volume_known: `[A]` bool; False means that volume is not reported in shares (spot FX, counted ticks), not that
        nobody traded.
      minute_of_day: `[T]` int32 in [0, 1440), start of the bar, exchange time; 0 for daily bars.
      session: `[T]` int32, non-decreasing id of the trading session.
      day_of_week: `[T]` int32, Monday is 0.
      seconds_since_previous: `[T]` float32, time since the start of the previous bar; 0 for the first.
      info: host-side names and times.
      ended: `[T, A]` bool, the asset's last bar is past: delisted, expired or taken over, which is known when it
        happens; `()` in a market in which none ends.
      carry: `[T, A]` expected excess return if the price stands still (roll yield, dividend or interest less
        financing), fraction per year, known at the close of bar t; NaN where unknown, `()` in a market without it.
      futures: `[A]` bool, the asset is a future: a position in it costs no cash, and its profit is settled every bar;
        `()` in a market without any.
      columns: name -> `[T, A]` float32, columns of a user's own, known at the close of t, NaN where unknown; or `()`.
        `column` reads one.
      funding: `[T, A]` rate that longs pay to shorts at the open of bar t, fraction of notional, 0 for none; `()` in a
        market without it.
      dividends: `Dividends` that accounts are paid; `()` where prices, and nothing else, contain them.
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
    ended: Any = ()
    carry: Any = ()
    futures: Any = ()
    columns: Any = ()
    funding: Any = ()
    dividends: Any = ()

    @property
    def n_bars(self) -> int:
        """Number of bars T."""
        return self.close.shape[-2]

    @property
    def n_assets(self) -> int:
        """Number of assets A."""
        return self.close.shape[-1]

    def column(self, name: str) -> jax.Array:
        """A column of a user's own, `[T, A]`, NaN where unknown.

        Args:
          name: as it was loaded.

        Raises:
          DataError: the market was loaded without it; says which columns it has.
        """
        if isinstance(self.columns, tuple) or name not in self.columns:
            raise DataError(no_column(name, self))
        return self.columns[name]

    def mark(self, bar: Any) -> jax.Array:
        """Prices `[A]` at which positions are marked at the close of a bar, currency per share, as traded."""
        close = self.close[bar]
        return close if isinstance(self.dividends, tuple) else close / self.dividends.factor[bar]

    def __repr__(self) -> str:
        # Transformations put tracers, shardings or axis numbers into the fields, and print them in their errors.
        shape: tuple[int, ...] = getattr(self.close, "shape", ())
        if len(shape) < 2:
            return f"MarketData(fields of type {type(self.close).__name__})"
        batch = f"batch {shape[:-2]} of " if len(shape) > 2 else ""
        described = (_shortened(self.info.symbols), _period(self.info.timestamps))
        return f"MarketData({', '.join(filter(None, (f'{batch}{shape[-2]} bars x {shape[-1]} assets', *described)))})"


def no_column(name: str | None, market: MarketData) -> str:
    """Says that a market lacks a column of a user's own, which it has, and how others are loaded.

    Args:
      name: of the column; None where it is not known.
      market: that lacks it.
    """
    which = "a column of your own" if name is None else f"the column {name!r}"
    has = "none" if isinstance(market.columns, tuple) else ", ".join(market.columns)
    loaded = [name or "NAME"] if isinstance(market.columns, tuple) else [*market.columns, name]
    return (
        f"{which} is read, and the market has {has}; name it in data.columns, or in load_market(..., columns={loaded})"
    )


def _shortened(symbols: tuple[str, ...]) -> str:
    """The first symbols, and how many more there are."""
    more = len(symbols) - SYMBOLS_SHOWN
    return " ".join(symbols[:SYMBOLS_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _period(times: np.ndarray) -> str:
    """First and last of the times `[T]`, and the usual length of a bar."""
    if not len(times):
        return ""
    ends = times[[0, -1]]
    days = ends.astype("datetime64[D]")
    first, last = (days if np.all(ends == days) else ends.astype("datetime64[m]")).astype(str)
    if len(times) == 1:
        return str(first)
    # A thousand bars show the usual length; a market may have millions.
    seconds = float(np.median(np.diff(times[:1000]) / np.timedelta64(1, "s")))
    name, size = next((u for u in (("d", 86400), ("h", 3600), ("min", 60)) if seconds % u[1] == 0), ("s", 1))
    return f"{first} to {last}, {seconds / size:g} {name} a bar"


def slice_bars(market: MarketData, start: int, stop: int) -> MarketData:
    """Returns the bars `start <= t < stop` of an unbatched market, with their times; host-side.

    Args:
      market: `[T, A]` bars.
      start: first bar, as in Python slices (negative counts from the end).
      stop: bar after the last one, likewise.

    Example:
      >>> from jaxppo.envs import load_market, slice_bars
      >>> slice_bars(load_market("us5_1d", symbols=["IBM", "MSFT"]), 0, 252)
      MarketData(252 bars x 2 assets, IBM MSFT, 2000-03-01 to 2001-02-28, 1 d a bar)
    """
    info = dataclasses.replace(market.info, timestamps=market.info.timestamps[start:stop])
    per_bar = {name: x for name, x in vars(market).items() if name not in PER_ASSET}
    return market.replace(**jax.tree.map(lambda x: x[start:stop], per_bar), info=info)


def with_next_bar(market: MarketData) -> MarketData:
    """Appends the bar in which orders of the last close fill, of which nothing is known; host-side.

    Its prices are the last closes and nothing has traded in it. What is known of it at the last close (half-spread,
    volatility, usual volume) is in its row of the table of bars, as for any other.

    Args:
      market: `[T, A]` bars, unbatched.

    Returns:
      `[T + 1, A]` bars.
    """
    last = slice_bars(market, market.n_bars - 1, market.n_bars)
    times = market.info.timestamps
    usual = np.median(np.diff(times)) if len(times) > 1 else np.timedelta64(1, "D")
    stamps = np.append(times, times[-1:] + usual) if len(times) else times
    seconds = np.full(1, usual / np.timedelta64(1, "s"), np.float32)
    bar = last.replace(
        open=last.close, high=last.close, low=last.close, volume=0 * last.volume, seconds_since_previous=seconds,
        funding=jax.tree.map(jax.numpy.zeros_like, last.funding),
    )  # fmt: skip
    if not isinstance(last.dividends, tuple):
        bar = bar.replace(dividends=last.dividends.replace(amount=0 * last.dividends.amount))
    per_bar, after = ({name: x for name, x in vars(one).items() if name not in PER_ASSET} for one in (market, bar))
    joined = jax.tree.map(lambda x, y: np.concatenate([np.asarray(x), np.asarray(y)]), per_bar, after)
    return market.replace(
        **jax.tree.map(jax.numpy.asarray, joined), info=dataclasses.replace(market.info, timestamps=stamps)
    )
