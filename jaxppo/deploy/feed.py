"""Bars as they come in: read, checked, and turned into what a live step is told of them; host-side, without JAX.

Rules, which are those of `jaxppo.envs.load_market` as far as one bar can show a fault:
  - a record without a usable time, not after the last one, or too long after it is refused as a whole;
  - an asset that the record does not name has no bar: it is not tradable, and its prices repeat its last close;
  - a bar that cannot be right counts as no bar of that asset, and the reason is told;
  - assets that the policy does not know are left out.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import zoneinfo
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxppo.envs.market.spread import by_invariance, estimated_half_spread, moves_and_value
from jaxppo.errors import DataError

PRICES = ("open", "high", "low", "close")
SECOND, DAY = 10**9, 86_400 * 10**9
EARLIEST, LATEST = -2_208_988_800 * SECOND, 7_258_118_400 * SECOND
"""Times of bars lie between these, ns since 1970: 1900 to 2200."""
SMALLEST, LARGEST, LARGEST_OWN, LARGEST_FUNDING = 1e-9, 1e15, 1e30, 0.2
WIDEST = 0.5
SPLIT_RATIOS = (2, 3, 4, 5, 6, 7, 8, 10, 15, 20, 25, 30, 40, 50, 100)


class RefusedError(ValueError):
    """A record that is not used: why, in one line."""


ARRAYS = ("close", "ranges", "half_spread", "carry", "columns", "ended", "listed", "recent")
"""What a feed remembers of assets."""


@dataclasses.dataclass(frozen=True)
class FeedRules:
    """How bars of a market are read; of a run, see `jaxppo.deploy.spec.feed_rules`.

    Attributes:
      symbols: of the A assets, in order.
      daily: whether bars are stamped with dates.
      bar_seconds: usual time between bars.
      timezone: clock of the exchange.
      calendar: exchange_calendars name for the numbers of sessions; None counts local dates.
      volume_known: of each asset, whether its volume is in units.
      counted: of each asset, whether a volume of 0 says that nobody traded.
      notional: whether volumes are in quote currency.
      multiplier: of each asset, value of a contract over its price.
      spread: of each asset: quoted, invariance, edge or fixed.
      half_spread: of each asset, for fixed, fraction of the price; None otherwise.
      tick: of each asset; None for none.
      min_half_spread: floor of estimates.
      widest_edge: largest half-spread by edge, fraction of the price.
      spread_window: bars per estimate.
      range_tolerance: see `load_market`, as the following.
      max_log_jump: of log prices.
      max_log_range: of log prices.
      split_tolerance: of log prices.
      max_hole_days: longest time without a record, days.
      optional: fields that there are beside prices and volume: `ended`, `carry`, `funding`.
      columns: own columns of the user, see `data.columns`; `funding` likewise, the name of its rate, or empty.
    """

    symbols: tuple[str, ...]
    daily: bool
    bar_seconds: float
    timezone: str
    calendar: str | None
    volume_known: tuple[bool, ...]
    counted: tuple[bool, ...]
    notional: bool
    multiplier: tuple[float, ...]
    spread: tuple[str, ...]
    half_spread: tuple[float | None, ...]
    tick: tuple[float | None, ...]
    min_half_spread: float
    widest_edge: float
    spread_window: int
    range_tolerance: float
    max_log_jump: float
    max_log_range: float
    split_tolerance: float
    max_hole_days: float
    optional: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    funding: str = ""


@dataclasses.dataclass(frozen=True)
class Reading:
    """A record, read.

    Attributes:
      time: start of the bar, ns since 1970, UTC.
      fields: name -> array, as in `jaxppo.deploy.live_step.LiveBar`.
      refused: symbol -> why its bar counts as none.
      unknown: names in the record that are no assets of the policy.
    """

    time: int
    fields: dict[str, np.ndarray]
    refused: dict[str, str]
    unknown: tuple[str, ...]


class Feed:
    """Reads records of one market in order of time.

    Args:
      rules: how bars are read.
    """

    def __init__(self, rules: FeedRules):
        self.rules = rules
        n, kept = len(rules.symbols), rules.spread_window + 1
        self.time: int | None = None
        self.session, self.date = 0, None  # type: tuple[int, int | None]
        self.close = np.ones(n)
        self.ranges = np.zeros((n, 2))
        self.half_spread = np.full(n, rules.min_half_spread)
        self.carry = np.full(n, np.nan)
        self.columns = np.full((len(rules.columns), n), np.nan)
        self.ended, self.listed = np.zeros(n, bool), np.zeros(n, bool)
        self.recent = np.full((n, kept, 5), np.nan)
        self._zone = zoneinfo.ZoneInfo(rules.timezone)
        self._schedule: Any = None

    def read(self, record: Any) -> Reading:
        """Reads the bars of one time, and remembers what the next record needs.

        Args:
          record: `time` (ISO text, or seconds, milliseconds or nanoseconds since 1970), start of the bar, and `bars`:
            symbol -> open, high, low, close, volume, and where there are such bid, ask, carry, ended.

        Raises:
          RefusedError: the record is not used, and nothing has changed.
        """
        if not isinstance(record, Mapping) or not isinstance(record.get("bars"), Mapping):
            raise RefusedError(
                "a record is a mapping with time and bars, such as {'time': ..., 'bars': {'SPY': {...}}}"
            )
        time = self._checked_time(record.get("time"))
        calendar = self._calendar(time)  # the last that can refuse a record
        rules, n = self.rules, len(self.rules.symbols)
        self.funding = np.zeros(n)
        bars = np.stack([self.close] * 4, axis=1)
        volume, tradable, refused = np.zeros(n), np.zeros(n, bool), {}
        for place, symbol in enumerate(rules.symbols):
            if symbol not in record["bars"]:
                continue
            try:
                found = self._checked_bar(place, record["bars"][symbol])
            except RefusedError as error:
                refused[symbol] = str(error)
                continue
            bars[place], counted = found["prices"], found["volume"]
            volume[place] = counted if rules.volume_known[place] else 0.0
            tradable[place] = counted > 0 or not rules.counted[place]
            self._remember(place, found)
        unknown = tuple(str(name)[:40] for name in record["bars"] if name not in rules.symbols)
        fields = {name: bars[:, i] for i, name in enumerate(PRICES)}
        fields |= {"volume": volume, "half_spread": self.half_spread.copy(), "tradable": tradable}
        fields |= {name: getattr(self, name).copy() for name in rules.optional}
        fields |= {f"columns.{name}": row.copy() for name, row in zip(rules.columns, self.columns, strict=True)}
        return Reading(time, fields | calendar, refused, unknown)

    def peek_time(self, record: Mapping[str, Any]) -> int:
        """The time of a record, ns since 1970, without reading it.

        Args:
          record: see `read`.

        Raises:
          RefusedError: no usable time.
        """
        return parse_time(record.get("time"), self._zone)

    def state(self) -> dict[str, Any]:
        """What is remembered, as plain numbers."""
        plain = {name: getattr(self, name).tolist() for name in ARRAYS}
        return {"time": self.time, "session": self.session, "date": self.date, **plain}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Remembers what `state` has said.

        Args:
          state: from `state`.
        """
        for name in ARRAYS:
            like = getattr(self, name)
            setattr(self, name, np.asarray(state[name], like.dtype).reshape(like.shape))
        self.time, self.session, self.date = state["time"], state["session"], state["date"]

    def _checked_time(self, value: Any) -> int:
        """The time of a record, ns since 1970, after the last one."""
        time = parse_time(value, self._zone)
        if self.rules.daily:
            time -= time % DAY
        if self.time is not None and time <= self.time:
            kind = "was read before" if time == self.time else "is out of order"
            raise RefusedError(f"the bar of {time_text(time)} {kind}: the last one is of {time_text(self.time)}")
        if self.time is not None and time - self.time > self.rules.max_hole_days * DAY:
            raise RefusedError(
                f"the bar of {time_text(time)} comes {(time - self.time) / DAY:.0f} days after the last one, more than "
                f"{self.rules.max_hole_days:g}; start anew with the prices between"
            )
        return time

    def _checked_bar(self, place: int, bar: Any) -> dict[str, Any]:
        """Prices in the units of the account, volume and quotes of one asset."""
        rules = self.rules
        if not isinstance(bar, Mapping):
            raise RefusedError("a bar is a mapping with open, high, low, close and volume")
        if self.ended[place]:
            raise RefusedError("the asset has ended")
        close = _number(bar, "close")
        prices = np.asarray([_number(bar, name) if bar.get(name) is not None else close for name in PRICES])
        if not np.all((prices >= SMALLEST) & (prices <= LARGEST)):
            raise RefusedError(
                f"prices {', '.join(f'{x:g}' for x in prices)} are not within {SMALLEST:g} to {LARGEST:g}"
            )
        top, bottom = max(prices[0], prices[3]), min(prices[0], prices[3])
        if prices[1] < top * (1 - rules.range_tolerance) or prices[2] > bottom * (1 + rules.range_tolerance):
            raise RefusedError(f"open and close are not within low {prices[2]:g} and high {prices[1]:g}")
        prices[1], prices[2] = max(prices[1], top), min(prices[2], bottom)
        self._check_history(place, prices * rules.multiplier[place])
        volume = _optional(bar, "volume") or 0.0
        if not 0 <= volume <= LARGEST:
            raise RefusedError(f"volume is {volume:g}")
        if rules.notional:
            volume = volume / close / rules.multiplier[place]
        bid, ask = _optional(bar, "bid"), _optional(bar, "ask")
        quoted = bid is not None and ask is not None
        if quoted and not 0 < bid <= ask:  # type: ignore[operator]
            raise RefusedError(f"bid {bid:g} and ask {ask:g} are no quote")
        if rules.spread[place] == "quoted" and not quoted:
            raise RefusedError("no bid and ask, and data.spread is quoted")
        named = rules.funding if rules.funding in bar else rules.funding.lower()
        carry, funding = _optional(bar, "carry"), _optional(bar, named) or 0.0
        if abs(carry or 0.0) > 100.0 or abs(funding) > LARGEST_FUNDING:
            raise RefusedError(f"carry is {carry or 0.0:g} a year, funding {funding:g}")
        own = [_optional(bar, name if name in bar else name.lower()) for name in rules.columns]
        if any(value is not None and abs(value) > LARGEST_OWN for value in own):
            raise RefusedError(f"a column of your own is beyond {LARGEST_OWN:g}")
        return {
            "prices": prices * rules.multiplier[place],
            "volume": volume,
            "quote": (ask - bid) / (ask + bid) if quoted else None,  # type: ignore[operator]
            "raw_close": close,
            "carry": carry,
            "funding": funding,
            "columns": own,
            "ended": bar.get("ended") is True,
        }

    def _check_history(self, place: int, prices: np.ndarray) -> None:
        """Refuses a range or a jump that no market makes, and what looks like a split."""
        rules = self.rules
        span = math.log(prices[1] / prices[2])
        if span > rules.max_log_range:
            raise RefusedError(f"high is {math.exp(span):.3g} times low within one bar")
        if not self.listed[place]:
            return
        high, low = self.ranges[place]
        empty = max(math.log(prices[2] / high), 0.0) - max(math.log(low / prices[1]), 0.0)
        gap = math.log(prices[0] / self.close[place])
        if abs(empty) > rules.max_log_jump:
            raise RefusedError(f"close goes from {self.close[place]:g} to {prices[3]:g} with no price in between")
        quiet = max(span, math.log(high / low)) < abs(gap) / 3 and abs(empty) > abs(gap) / 2
        off = min(abs(abs(gap) - math.log(ratio)) for ratio in SPLIT_RATIOS)
        if rules.split_tolerance > 0 and quiet and off < rules.split_tolerance:
            raise RefusedError(
                f"the open is {math.exp(gap):.3g} times the last close, which looks like a split; start anew with "
                "adjusted prices"
            )

    def _remember(self, place: int, found: Mapping[str, Any]) -> None:
        """What the next bar needs of this one."""
        prices, rules = found["prices"], self.rules
        self.close[place], self.ranges[place], self.listed[place] = prices[3], prices[1:3], True
        self.recent[place] = np.roll(self.recent[place], -1, axis=0)
        self.recent[place, -1] = (*prices, found["volume"])
        self.half_spread[place] = self._half_spread(place, found["quote"], found["raw_close"])
        self.funding[place] = found["funding"]
        self.carry[place] = self.carry[place] if found["carry"] is None else found["carry"]
        for number, value in enumerate(found["columns"]):
            if value is not None:
                self.columns[number, place] = value
        self.ended[place] = found["ended"] and "ended" in rules.optional

    def _half_spread(self, place: int, quote: float | None, raw_close: float) -> float:
        """Half-spread of the last bar of an asset, as `jaxppo.envs.data.spreads.half_spreads` has it."""
        rules = self.rules
        if quote is not None:
            return quote
        tick, source = rules.tick[place], rules.spread[place]
        floor = 0.0 if tick is None else tick / 2 / raw_close
        rows = self.recent[place][np.isfinite(self.recent[place][:, 3])]
        if source == "fixed":
            return max(rules.half_spread[place] or 0.0, floor)
        if source == "edge":
            floor = max(floor, rules.min_half_spread)
            found = estimated_half_spread(*rows[:, :4].T, window=rules.spread_window, floor=rules.min_half_spread)[-1]
            return max(min(float(found), rules.widest_edge), floor)
        # The oldest row is there for the return of the one after it.
        moves, traded = (x[-rules.spread_window :].mean() for x in moves_and_value(*rows[:, 1:].T))
        found = float(by_invariance(moves, traded))
        return max(min(float(found), WIDEST) if math.isfinite(found) else rules.min_half_spread, floor)

    def _calendar(self, time: int) -> dict[str, np.ndarray]:
        """Minute of day, session, weekday and seconds since the last record; remembers the time."""
        local = time
        if not self.rules.daily:
            moment = datetime.datetime.fromtimestamp(time // SECOND, self._zone)
            offset = moment.utcoffset() or datetime.timedelta()
            local = time + int(offset.total_seconds()) * SECOND
        day = local // DAY
        number = day if self.rules.calendar is None else self._session_of(time)
        if self.date is not None and number > self.date:
            self.session += 1
        self.date = number if self.date is None else max(number, self.date)
        seconds = 0.0 if self.time is None else (time - self.time) / 1e9
        self.time = time
        minute = 0 if self.rules.daily else local % DAY // (60 * SECOND)
        whole = {"minute_of_day": minute, "session": self.session, "day_of_week": (day + 3) % 7}
        found = {name: np.asarray(value, np.int32) for name, value in whole.items()}
        return found | {"seconds_since_previous": np.asarray(seconds, np.float32)}

    def _session_of(self, time: int) -> int:
        """Number of the session of the calendar that a time belongs to."""
        from jaxppo.envs.data.sessions import load_schedule, session_numbers  # takes a second, and few calendars

        name = self.rules.calendar
        assert name is not None
        if self._schedule is None or time > self._schedule.closes[-2]:
            try:
                self._schedule = load_schedule(name, time - 400 * DAY, time + 30 * DAY)
            except DataError as error:
                raise RefusedError(str(error)) from None
        number = int(session_numbers(np.asarray([time]), self.rules.daily, self._schedule)[0])
        return int(self._schedule.dates[min(number, len(self._schedule.dates) - 1)] // DAY)


def parse_time(value: Any, zone: datetime.tzinfo) -> int:
    """Nanoseconds since 1970, UTC.

    Args:
      value: ISO text, on the clock of `zone` where it has no offset; or seconds, milliseconds, microseconds or
        nanoseconds since 1970, told apart by size.
      zone: of text without an offset.

    Raises:
      RefusedError: no time between 1900 and 2200.
    """
    time: int | None = None
    if isinstance(value, str) and len(value) <= 40:
        try:
            moment = datetime.datetime.fromisoformat(value.strip())
            moment = moment.replace(tzinfo=zone) if moment.tzinfo is None else moment
            since = moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
            time = (since.days * 86_400 + since.seconds) * SECOND + since.microseconds * 1000
        except (ValueError, OverflowError):
            time = None
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e19:  # NaN is not
        for unit, largest in ((SECOND, 1e11), (10**6, 1e14), (1000, 1e17), (1, 1e19)):
            if abs(value) < largest:
                time = round(value * unit)
                break
    if time is None or not EARLIEST <= time <= LATEST:
        raise RefusedError(f"time is {str(value)[:40]!r}; ISO text or a number since 1970 is expected")
    return time


def time_text(time: int) -> str:
    """A time, ns since 1970, to the second."""
    return str(np.datetime64(time, "ns").astype("datetime64[s]"))


def _optional(bar: Mapping[str, Any], name: str) -> float | None:
    """A field that may be missing, as None or NaN."""
    value = bar.get(name)
    return None if value is None or (isinstance(value, float) and math.isnan(value)) else _number(bar, name)


def _number(bar: Mapping[str, Any], name: str) -> float:
    """A field of a bar as a finite number."""
    value = bar.get(name)
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RefusedError(f"{name} is {str(value)[:40]!r}, which is no number")
    return number
