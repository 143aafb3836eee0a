"""Where records come from: a growing CSV file, lines of JSON, a WebSocket.

A feed yields records as `jaxppo.deploy.feed.Feed.read` takes them, `BadRecord` for what is none, and None where there
is nothing new, so that whoever reads it is never held up.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import json
import pathlib
import queue
import threading
import time as clock
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from jaxppo.deploy.feed import RefusedError, parse_time
from jaxppo.errors import DataError

POLL = 0.2
"""Seconds between looks at a feed that has nothing new."""
LONGEST_LINE = 2**20
"""Bytes; a longer line is no record."""
TIME_COLUMNS = ("time", "date", "datetime", "timestamp")
NO_NUMBERS = ("time", "symbol", "ended")
TRUE = ("true", "1", "yes")


@dataclasses.dataclass(frozen=True)
class BadRecord:
    """What is no record.

    Attributes:
      reason: why, in one line.
    """

    reason: str


Fed = dict[str, Any] | BadRecord | None


def json_record(line: str | bytes) -> Fed:
    """The record of a line of JSON; None for an empty line.

    Args:
      line: of the feed.
    """
    if len(line) > LONGEST_LINE:
        return BadRecord(f"a line of {len(line)} characters; a record has at most {LONGEST_LINE}")
    if not line.strip():
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadRecord(f"no JSON: {str(error)[:80]}")
    return found if isinstance(found, dict) else BadRecord("a record is an object with time and bars")


def json_lines(lines: Iterable[str]) -> Iterator[Fed]:
    """Records of lines that are there.

    Args:
      lines: of JSON, a record each.
    """
    return (json_record(line) for line in lines)


def json_stream(stream: TextIO) -> Iterator[Fed]:
    """Records of a stream that lines may still come from, such as standard input, until it ends.

    Args:
      stream: of lines of JSON.
    """
    waiting: queue.Queue[str | None] = queue.Queue(maxsize=1024)

    def read() -> None:
        try:
            while line := stream.readline(LONGEST_LINE + 2):
                waiting.put(line)
        except (ValueError, OSError):  # closed meanwhile, or bytes that are no text
            pass
        waiting.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = waiting.get(timeout=POLL)
        except queue.Empty:
            yield None
            continue
        if line is None:
            return
        yield json_record(line)


def csv_tail(
    path: str | pathlib.Path,
    *,
    symbol: str | None = None,
    zone: datetime.tzinfo = datetime.UTC,
    quiet: float | None = None,
    follow: bool = True,
    funding: str = "",
) -> Iterator[Fed]:
    """Records of a CSV file in long form (time, symbol, open, high, low, close, volume) that lines are appended to.

    The bars of a time are complete once a later time appears, or nothing was appended for a while.

    Args:
      path: of the file.
      symbol: of all bars, where there is no column of that name.
      zone: of times without an offset.
      quiet: seconds after which the last time is complete; None waits for a later one.
      follow: whether to wait for more at the end of the file; otherwise its last time is complete.
      funding: column that has to be there as well, see `FeedRules`; empty for none.

    Raises:
      DataError: no such file, or a column is missing.
    """
    tail = _Tail(pathlib.Path(path), symbol, zone, funding.lower())
    last = clock.monotonic()
    while True:
        lines = tail.lines()
        if lines:
            last = clock.monotonic()
            yield from tail.taken(lines)
            yield from tail.complete(last=False)
        elif not follow or (quiet is not None and clock.monotonic() - last >= quiet):
            yield from tail.complete(last=True)
        if not lines and not follow:
            return
        if not lines:
            yield None
            clock.sleep(POLL)


class _Tail:
    """What is read of a CSV file so far, and the bars whose time is not complete."""

    def __init__(self, path: pathlib.Path, symbol: str | None, zone: datetime.tzinfo, funding: str):
        self._path, self._symbol, self._zone, self._funding = path, symbol, zone, funding
        self._offset, self._rest = 0, b""
        self._names: list[str] = []
        self._open: dict[int, dict[str, Any]] = {}

    def lines(self) -> list[str]:
        """Whole lines that are new."""
        try:
            with open(self._path, "rb") as file:
                if file.seek(0, 2) < self._offset:  # another file is at this place
                    self._offset, self._rest, self._names = 0, b"", []
                file.seek(self._offset)
                raw = file.read()
        except OSError as error:
            raise DataError(f"{self._path}: cannot be read: {error.strerror}") from None
        self._offset += len(raw)
        *whole, self._rest = (self._rest + raw).split(b"\n")
        self._rest = self._rest[-LONGEST_LINE:]
        return [line.decode("utf-8", "replace").strip() for line in whole]

    def taken(self, lines: list[str]) -> Iterator[Fed]:
        """Keeps the bars of lines; yields what is none."""
        for line in filter(None, lines):
            try:
                cells = next(csv.reader([line[:LONGEST_LINE]], skipinitialspace=True))
            except (csv.Error, StopIteration) as error:
                yield BadRecord(f"no line of a CSV file: {str(error)[:80]}")
                continue
            if not self._names:
                self._names = self._columns(cells)
                continue
            if len(cells) != len(self._names):
                yield BadRecord(f"{len(cells)} cells; the header has {len(self._names)}")
                continue
            try:
                self._keep(dict(zip(self._names, cells, strict=True)))
            except RefusedError as error:
                yield BadRecord(str(error))

    def complete(self, *, last: bool) -> Iterator[Fed]:
        """Records of the times that are complete, in order."""
        times = sorted(self._open)
        for time in times if last else times[:-1]:
            yield self._open.pop(time)

    def _columns(self, cells: list[str]) -> list[str]:
        """Names of the columns, from the header."""
        names = [cell.strip().lstrip("\ufeff").lower() for cell in cells]
        names = ["time" if name in TIME_COLUMNS else name for name in names]
        needed = ("time", "close") if self._symbol else ("time", "symbol", "close")
        missing = [name for name in needed if name not in names]
        if missing or len(set(names)) < len(names):
            what = f"no column {missing[0]}" if missing else "two columns of one name"
            raise DataError(f"{self._path}: {what}; a feed has time, symbol, open, high, low, close, volume")
        if self._funding and self._funding not in names:
            raise DataError(f"{self._path}: no column {self._funding}, the funding that the policy pays (data.funding)")
        return names

    def _keep(self, row: dict[str, str]) -> None:
        """Adds a bar to those of its time."""
        text = row["time"].strip()
        value = float(text) if _is_number(text) else text
        time = parse_time(value, self._zone)
        symbol = row.get("symbol", "").strip() or self._symbol or ""
        record = self._open.setdefault(time, {"time": value, "bars": {}})
        if symbol in record["bars"]:
            raise RefusedError(f"{symbol[:40]} is there twice at {text[:40]}")
        bar: dict[str, Any] = {name: cell for name, cell in row.items() if name not in NO_NUMBERS and cell.strip()}
        if "ended" in row:
            bar["ended"] = row["ended"].strip().lower() in TRUE
        record["bars"][symbol] = bar


def websocket_feed(address: str) -> Iterator[Fed]:
    """Records of a WebSocket, a line of JSON each; connects again when the connection is lost.

    Args:
      address: beginning with ws:// or wss://.

    Raises:
      DataError: the package `websockets` is missing, or the address is none.
    """
    try:
        from websockets.exceptions import InvalidURI, WebSocketException
        from websockets.sync.client import connect
    except ImportError:
        raise DataError("a WebSocket needs the extra `websocket`: pip install 'jaxppo[websocket]'") from None
    while True:
        try:
            with connect(address, max_size=LONGEST_LINE, open_timeout=10) as connection:
                while True:
                    try:
                        yield json_record(connection.recv(timeout=POLL))
                    except TimeoutError:
                        yield None
        except InvalidURI:
            raise DataError(f"{address} is no address of a WebSocket, such as ws://localhost:8000") from None
        except (WebSocketException, OSError, EOFError) as error:
            yield BadRecord(f"{address}: {str(error)[:80] or type(error).__name__}; connecting again")
            clock.sleep(5 * POLL)


def _is_number(text: str) -> bool:
    """Whether a time is a number since 1970; eight digits are a date."""
    return len(text) > 8 and text.replace(".", "", 1).isdigit()
