"""What the name of a source asks for."""

from __future__ import annotations

import dataclasses
import hashlib
import re

from jaxppo.envs.data.sources.timeframes import Timeframe, timeframe_of
from jaxppo.errors import DataError

FORMS = {
    "yfinance": "yfinance:SYMBOL[,SYMBOL][:1d]",
    "ccxt": "ccxt:EXCHANGE:BASE/QUOTE[,BASE/QUOTE][:1d]",
    "alpaca": "alpaca:SYMBOL[,SYMBOL][:1Day]",
    "hf": "hf:OWNER/NAME[:CONFIG[:SPLIT]]",
}
"""Sources that are downloaded, and how their names are written."""
DATABASE = "duckdb"
KINDS = (*FORMS, DATABASE)
DAY = Timeframe(1, "d")
_PIN = re.compile(r"(.*)#([0-9a-f]{8,64})", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Request:
    """Prices to download.

    Attributes:
      source: its name, as it was given, without the hash of a download.
      kind: a key of `FORMS`.
      place: exchange, or owner and name of a data set; empty where there is only one.
      symbols: to ask for; of a data set, its configuration and split where they are named.
      timeframe: length of the bars; None for a data set, which has what it has.
      start: first date, `YYYY-MM-DD`; None as far back as the source goes.
      end: last date, included; None up to the last finished bar.
      pin: beginning of the SHA-256 of the download that is meant; empty for the newest one that is kept.
    """

    source: str
    kind: str
    place: str
    symbols: tuple[str, ...]
    timeframe: Timeframe | None
    start: str | None
    end: str | None
    pin: str = ""

    @property
    def folder(self) -> str:
        """Name of the folder that keeps its downloads: readable, and one for each request."""
        asked = "\n".join(map(str, (self.kind, self.place, *self.symbols, self.timeframe, self.start, self.end)))
        readable = re.sub(r"[^A-Za-z0-9]+", "-", self.source).strip("-")[:60]
        return f"{readable}-{hashlib.sha256(asked.encode()).hexdigest()[:12]}"


def kind_of(source: object) -> str | None:
    """The kind of source that a text names; None for a file.

    Args:
      source: such as `yfinance:SPY`; anything else is no name.
    """
    kind, colon, _ = source.partition(":") if isinstance(source, str) else ("", "", "")
    return kind if colon and kind in KINDS else None


def is_download(source: object) -> bool:
    """Whether a text names a source that is downloaded from.

    Args:
      source: such as `yfinance:SPY`; anything else is no name.
    """
    return kind_of(source) in FORMS


def request_of(source: str, start: str | None = None, end: str | None = None) -> Request:
    """Reads the name of a source.

    Args:
      source: as in `FORMS`, perhaps with `#` and the beginning of a SHA-256 behind it.
      start: first date.
      end: last date.

    Raises:
      DataError: it is not written as in `FORMS`, or names a symbol twice.
    """
    found = _PIN.fullmatch(source)
    name, pin = (found[1], found[2]) if found else (source, "")
    kind, _, rest = name.partition(":")
    if kind == "hf":
        place, _, part = rest.partition(":")
        if re.fullmatch(r"[\w.-]+/[\w.-]+", place) is None:
            raise _not_written(source, kind)
        return Request(name, kind, place, tuple(filter(None, part.split(":", 1))), None, start, end, pin)
    place = ""
    if kind == "ccxt":
        place, _, rest = rest.partition(":")
    before, colon, after = rest.rpartition(":")
    timeframe = timeframe_of(after) if colon else None
    # A colon may be part of a symbol: BTC/USDT:USDT is a perpetual future.
    listed = before if timeframe else rest
    symbols = tuple(symbol.strip() for symbol in listed.split(","))
    symbols = symbols if kind == "ccxt" else tuple(symbol.upper() for symbol in symbols)
    if not all(symbols) or (kind == "ccxt") != bool(place) or any({*" #"} & {*symbol} for symbol in symbols):
        raise _not_written(source, kind)
    if kind != "ccxt" and ":" in listed:
        raise DataError(f"{source[:80]}: {after[:20]!r} is no length of bars, such as 1d, 1h or 15m")
    twice = next((symbol for symbol in symbols if symbols.count(symbol) > 1), None)
    if twice is not None:
        raise DataError(f"{source[:80]}: names {twice} more than once")
    return Request(name, kind, place, symbols, timeframe or DAY, start, end, pin)


def _not_written(source: str, kind: str) -> DataError:
    return DataError(f"{source[:80]}: a source of {kind} is written {FORMS[kind]}")
