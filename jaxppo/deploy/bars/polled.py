"""A feed that asks a source for bars: closed ones alone, all assets of a time in one record, times in order.

The rules:
  - a bar has closed once its length has passed since its start, and a second more;
  - the record of a time is handed on when all assets have their bar of it, or `quiet` seconds after the close;
  - a source that cannot be reached is asked again after 1, 2, 4, ... seconds, at most 60; after 15 minutes without an
    answer the feed ends with an error.
"""

from __future__ import annotations

import queue
import threading
import time as clock
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from jaxppo.deploy.feed import DAY, SECOND, FeedRules
from jaxppo.deploy.session import schedule_around
from jaxppo.deploy.trading.feeds import POLL, BadRecord, Fed
from jaxppo.envs.data.sessions import off_session
from jaxppo.errors import ConfigError

Bars = dict[int, dict[str, dict[str, Any]]]
"""Start of the bars, seconds since 1970 -> symbol -> open, high, low, close, volume."""
FIRST_PAUSE, LONGEST_PAUSE, GIVE_UP = 1.0, 60.0, 900.0
"""Seconds until a source is asked again that cannot be reached: the first and the most; and until the feed ends."""
MISSING, LONGEST_WAIT = 2.0, 60.0
"""Seconds until a source is asked again while an asset is missing, and at most."""
SETTLED = 1.0
"""Seconds after which a bar has closed, since clocks differ."""
QUIET = 10.0
"""Seconds after the close of a bar after which it is handed on without the assets that are missing."""


class SourceError(OSError):
    """A source that cannot be reached, or whose answer is not understood."""


class Source(Protocol):
    """Where bars are asked for.

    Attributes:
      name: as on the command line.
    """

    name: str

    def bars(self, start: int, end: int) -> Bars:
        """Bars that begin at `start` or later and before `end`, closed or not.

        Args:
          start: seconds since 1970.
          end: likewise.

        Raises:
          SourceError: it cannot be reached.
          ConfigError: it will not answer: no such symbol, or no rights.
        """

    def span(self, n_bars: int) -> float:
        """Seconds back from now within which there are so many bars, or more.

        Args:
          n_bars: that are needed.
        """


class Poller:
    """Asks a source, and says what is complete and when to ask again.

    Args:
      source: of bars.
      rules: how the policy reads them.
      since: start of the last bar that is known, ns since 1970; None begins `n_bars` back.
      n_bars: of the past, to warm up with.
      quiet: seconds after the close of a bar after which it is handed on without the assets that are missing.
      now: seconds since 1970.

    Raises:
      ConfigError: the policy needs quotes, which bars have not.
    """

    def __init__(
        self,
        source: Source,
        rules: FeedRules,
        *,
        since: int | None = None,
        n_bars: int = 0,
        quiet: float | None = None,
        now: Callable[[], float] = clock.time,
    ):
        if "quoted" in rules.spread:
            raise ConfigError(f"--feed {source.name}: has no quotes, and data.spread of the policy is quoted")
        self._source, self._rules, self._now = source, rules, now
        self._quiet = QUIET if quiet is None else quiet
        self._last = int(now() - source.span(n_bars + 2)) if since is None else since // SECOND  # two have not closed
        self._pause, self._answered = FIRST_PAUSE, now()

    def poll(self) -> tuple[list[Fed], float]:
        """Records that are complete, in order, and seconds until the next question.

        Raises:
          SourceError: there has been no answer for too long.
          ConfigError: see `Source.bars`.
        """
        try:
            found = self._joined(self._source.bars(self._last + 1, int(self._now()) + 1))
        except SourceError as error:
            if self._now() - self._answered >= GIVE_UP:
                raise SourceError(f"{error}; no answer for {GIVE_UP / 60:g} minutes") from None
            pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
            return [BadRecord(f"{error}; asked again in {pause:g} s")], pause
        now, self._pause = self._now(), FIRST_PAUSE
        self._answered = now
        length = self._rules.bar_seconds
        told: list[Fed] = []
        for time in sorted(time for time in found if self._last < time <= now - length - SETTLED):
            if len(found[time]) < len(self._rules.symbols) and now < time + length + self._quiet:
                return told, MISSING
            told.append({"time": time, "bars": found[time]})
            self._last = time
        closes = length - (now - SETTLED - self._last) % length  # of the bar that has begun, if none is missing
        return told, min(closes, LONGEST_WAIT)

    def _joined(self, bars: Bars) -> Bars:
        """Bars in trading hours, with the times and volumes that the policy reads."""
        found: Bars = {}
        for time, of_time in bars.items():
            start = time - time % (DAY // SECOND) if self._rules.daily else time
            if self._is_outside(start):
                continue
            for symbol, bar in of_time.items():
                found.setdefault(start, {})[symbol] = self._as_read(symbol, bar)
        return found

    def _is_outside(self, time: int) -> bool:
        """Whether no session of the policy's calendar touches a bar."""
        rules = self._rules
        if rules.calendar is None:
            return False
        schedule = schedule_around(rules.calendar, time * SECOND // (90 * DAY))
        length = int(rules.bar_seconds * SECOND)
        return bool(off_session(np.asarray([time * SECOND]), rules.daily, length, schedule)[0])

    def _as_read(self, symbol: str, bar: dict[str, Any]) -> dict[str, Any]:
        """A bar with its volume in quote currency, where the policy reads that; sources have units."""
        if not self._rules.notional or not all(isinstance(bar.get(x), int | float) for x in ("volume", "close")):
            return bar
        multiplier = self._rules.multiplier[self._rules.symbols.index(symbol)]
        return bar | {"volume": bar["volume"] * bar["close"] * multiplier}


def polled_feed(poller: Poller) -> Iterator[Fed]:
    """Records of a source, which is asked in a thread of its own, so that no reader is held up.

    Args:
      poller: of the source.

    Raises:
      SourceError: there has been no answer for too long.
      ConfigError: see `Source.bars`.
    """
    waiting: queue.Queue[Fed | Exception] = queue.Queue(maxsize=1024)
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            try:
                told, pause = poller.poll()
            except Exception as error:  # it is raised where the feed is read
                waiting.put(error)
                return
            for one in told:
                waiting.put(one)
            ended.wait(pause)

    threading.Thread(target=ask, daemon=True).start()
    try:
        while True:
            try:
                found = waiting.get(timeout=POLL)
            except queue.Empty:
                yield None
                continue
            if isinstance(found, Exception):
                raise found
            yield found
    finally:
        ended.set()
