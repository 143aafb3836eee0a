"""Stopping at the next good moment instead of at once."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def stop_requested(saying: bytes = b"stopping after this iteration") -> Iterator[list[int]]:
    """Collects the number of the first SIGINT or SIGTERM in a list; the second one acts as usual."""
    received: list[int] = []
    previous: dict[int, Any] = {}

    def handle(number: int, frame: Any) -> None:
        received.append(number)
        os.write(2, b"\n" + saying + b"; once more stops at once\n")
        for known, handler in previous.items():
            signal.signal(known, handler)

    with contextlib.suppress(ValueError):  # only the main thread can catch signals
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, handle)
    try:
        yield received
    finally:
        for known, handler in previous.items():
            signal.signal(known, handler)
