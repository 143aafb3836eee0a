"""Bars of a crypto exchange, through ccxt; they need no keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from jaxppo.deploy.bars.polled import Bars, SourceError
from jaxppo.envs.data.sources.exchanges import FIELDS, all_pages
from jaxppo.errors import ConfigError


def ccxt_bars(name: str, symbols: Sequence[str], seconds: float) -> CcxtBars:
    """Bars of an exchange by its name.

    Args:
      name: of the exchange, as ccxt has it.
      symbols: such as BTC/USDT.
      seconds: of a bar.

    Raises:
      ConfigError: ccxt is missing, has no such exchange, or see `CcxtBars`.
      SourceError: the exchange cannot be reached.
    """
    ccxt = _ccxt()
    if name not in ccxt.exchanges:
        raise ConfigError(f"--feed ccxt:{name[:40]}: no exchange of ccxt has that name")
    return CcxtBars(getattr(ccxt, name)({"enableRateLimit": True}), symbols, seconds)


class CcxtBars:
    """Bars of an exchange.

    Args:
      exchange: of ccxt.
      symbols: such as BTC/USDT.
      seconds: of a bar.

    Raises:
      ConfigError: a symbol that the exchange has not, or no bars of that length.
      SourceError: the exchange cannot be reached.
    """

    def __init__(self, exchange: Any, symbols: Sequence[str], seconds: float):
        self.name, self._exchange, self._errors = f"ccxt:{exchange.id}", exchange, _ccxt()
        self._symbols, self._seconds = tuple(symbols), seconds
        markets = self._called(exchange.load_markets)
        unknown = [symbol for symbol in symbols if symbol not in markets]
        if unknown:
            raise ConfigError(f"--feed {self.name}: has no market {unknown[0]}; symbols are such as BTC/USDT")
        lengths = {exchange.parse_timeframe(name): name for name in exchange.timeframes or ()}
        if seconds not in lengths:
            known = ", ".join(lengths.values()) or "none"
            raise ConfigError(f"--feed {self.name}: has no bars of {seconds:g} s, as the policy needs; it has {known}")
        self._timeframe = lengths[seconds]

    def bars(self, start: int, end: int) -> Bars:
        """See `jaxppo.deploy.bars.polled.Source`; volumes are in the base currency."""
        found: Bars = {}
        for symbol in self._symbols:
            for milliseconds, *values in self._rows(symbol, start, end):
                found.setdefault(milliseconds // 1000, {})[symbol] = dict(zip(FIELDS, values, strict=False))
        return found

    def span(self, n_bars: int) -> float:
        """Seconds back from now within which there are so many bars: an exchange has no hours."""
        return n_bars * self._seconds

    def _rows(self, symbol: str, start: int, end: int) -> list[list[Any]]:
        """Bars of a symbol, page by page: milliseconds, open, high, low, close, volume."""

        def page(since: int) -> list[list[Any]]:
            return self._called(partial(self._exchange.fetch_ohlcv, symbol, self._timeframe, since=since))

        return all_pages(page, start, end, self._seconds)

    def _called(self, function: Callable[[], Any]) -> Any:
        """What a function of ccxt returns."""
        ccxt = self._errors
        try:
            return function()
        except (ccxt.AuthenticationError, ccxt.BadSymbol, ccxt.NotSupported) as error:
            raise ConfigError(f"--feed {self.name}: {_said(error)}") from None
        except ccxt.BaseError as error:
            raise SourceError(f"{self.name}: {_said(error)}") from None


def _said(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())[:200]


def _ccxt() -> Any:
    """The package."""
    try:
        import ccxt
    except ImportError:
        raise ConfigError("--feed ccxt needs the extra `ccxt`: pip install 'jaxppo[ccxt]'") from None
    return ccxt
