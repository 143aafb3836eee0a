"""Functions of a user's own that are called after each iteration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxppo.errors import ConfigError
from jaxppo.tracking.protocol import LoggedRun, Logger, Results, Status


class Callback:
    """A function as a `Logger`.

    Args:
      function: of a row of metrics.
    """

    def __init__(self, function: Callable[[Mapping[str, Any]], Any]):
        self._function = function

    def start(self, run: LoggedRun) -> None:
        """See `Logger`."""

    def write(self, row: Mapping[str, Any]) -> None:
        """See `Logger`."""
        self._function(row)

    def finish(self, results: Results) -> None:
        """See `Logger`."""

    def close(self, status: Status) -> None:
        """See `Logger`."""


def with_callbacks(loggers: Sequence[Logger], functions: Sequence[Callable[[Mapping[str, Any]], Any]]) -> list[Logger]:
    """Loggers, and behind them functions as loggers.

    Args:
      loggers: in order.
      functions: in order.

    Raises:
      ConfigError: one that cannot be called.
    """
    for number, function in enumerate(functions):
        if not callable(function):
            raise ConfigError(f"callbacks[{number}] is {function!r}; a function of a row of metrics is expected")
    return [*loggers, *map(Callback, functions)]
