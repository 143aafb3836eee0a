"""Bars of US stocks from Alpaca, through alpaca-py."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from jaxppo.deploy.bars.polled import Bars, SourceError
from jaxppo.envs.data.sources.alpaca_client import alpaca_keys, said, with_timeout
from jaxppo.errors import ConfigError

FEEDS = ("iex", "sip")
FIELDS = {"open": "o", "high": "h", "low": "l", "close": "c", "volume": "v"}
REFUSED = (400, 401, 403, 404, 422)
"""Answers that do not change when one asks again: symbols or rights."""
INTRADAY, DAILY, LONGEST_BREAK = 5.2, 1.5, 7 * 86_400.0
"""Seconds of clock a second of regular hours, days a session, and seconds that holidays may add."""


def alpaca_bars(feed: str, symbols: Sequence[str], seconds: float) -> AlpacaBars:
    """Bars with the keys of the environment.

    Args:
      feed: `iex`, the trades of one exchange, which every account has; or `sip`, those of all, which is subscribed to.
      symbols: of stocks.
      seconds: of a bar.

    Raises:
      ConfigError: no such feed, alpaca-py is missing, keys are, or no bars of that length.
    """
    option = f"--feed alpaca{'' if feed == FEEDS[0] else ':' + feed[:40]}"
    if feed not in FEEDS:
        raise ConfigError(f"{option}: must be alpaca for IEX, or alpaca:sip")
    key, secret = alpaca_keys(option)
    try:
        from alpaca.data.historical import StockHistoricalDataClient
    except ImportError:
        raise ConfigError(f"{option} needs the extra `alpaca`: pip install 'jaxppo[alpaca]'") from None
    return AlpacaBars(StockHistoricalDataClient(key, secret, raw_data=True), symbols, seconds, feed)


class AlpacaBars:
    """Bars of stocks, adjusted for splits and dividends up to now; intraday ones go beyond regular hours.

    Args:
      client: a `StockHistoricalDataClient` of raw data.
      symbols: of stocks.
      seconds: of a bar.
      feed: `iex` or `sip`.

    Raises:
      ConfigError: no bars of that length.
    """

    def __init__(self, client: Any, symbols: Sequence[str], seconds: float, feed: str = FEEDS[0]):
        self.name = "alpaca" if feed == FEEDS[0] else f"alpaca:{feed}"
        self._client, self._symbols, self._seconds, self._feed = with_timeout(client), list(symbols), seconds, feed
        self._timeframe = self._length(seconds)

    def bars(self, start: int, end: int) -> Bars:
        """See `jaxppo.deploy.bars.polled.Source`; volumes are in shares."""
        from alpaca.common.exceptions import APIError
        from alpaca.data.enums import Adjustment, DataFeed
        from alpaca.data.requests import StockBarsRequest

        first, last = (datetime.datetime.fromtimestamp(time, datetime.UTC) for time in (start, end - 1))
        request = StockBarsRequest(
            symbol_or_symbols=self._symbols,
            timeframe=self._timeframe,
            start=first,
            end=last,
            adjustment=Adjustment.ALL,
            feed=DataFeed(self._feed),
        )
        try:
            answer = self._client.get_stock_bars(request)
            return self._read(answer)
        except APIError as error:
            if error.status_code in REFUSED:
                raise ConfigError(f"--feed {self.name}: {said(error)}") from None
            raise SourceError(f"{self.name}: {said(error)}") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # no answer, or none of that form
            raise SourceError(f"{self.name}: {said(error)}") from None

    def span(self, n_bars: int) -> float:
        """Seconds back from now within which there are so many bars, or more."""
        return n_bars * self._seconds * (DAILY if self._seconds >= 86_400 else INTRADAY) + LONGEST_BREAK

    def _read(self, answer: dict[str, list[dict[str, Any]]]) -> Bars:
        """Bars of an answer: symbol -> a list."""
        found: Bars = {}
        for symbol, rows in answer.items():
            for row in rows:
                time = int(datetime.datetime.fromisoformat(row["t"]).timestamp())
                found.setdefault(time, {})[symbol] = {name: row[letter] for name, letter in FIELDS.items()}
        return found

    def _length(self, seconds: float) -> Any:
        """Bars of a length, as Alpaca has it."""
        from alpaca.data.timeframe import TimeFrame, TimeFrameUnit

        units = {86_400: TimeFrameUnit.Day, 3600: TimeFrameUnit.Hour, 60: TimeFrameUnit.Minute}
        for length, unit in units.items():
            if seconds % length == 0:
                try:
                    return TimeFrame(int(seconds // length), unit)
                except ValueError:  # the next unit may do
                    continue
        raise ConfigError(
            f"--feed {self.name}: has no bars of {seconds:g} s, as the policy needs; it has 1 to 59 minutes, 1 to 23 "
            "hours, and a day"
        )
