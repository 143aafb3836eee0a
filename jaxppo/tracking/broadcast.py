"""Several loggers as one that never fails: metrics.jsonl has everything, so nothing here is worth a training."""

from __future__ import annotations

import contextlib
import pathlib
import queue
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxppo.tracking.charts import charts
from jaxppo.tracking.protocol import NO_FIGURES, Curves, LoggedRun, Logger, Results, Status

PATIENCE = 120.0
"""Seconds that the end of a training waits for what is still to be sent."""
LONGEST_SHOWN = 200
"""Characters of an error in a warning."""


class Guarded:
    """Calls a logger so that its errors end nothing: the first is reported on stderr.

    Args:
      logger: that may fail; after a failed `start` it is not called again.
    """

    def __init__(self, logger: Logger):
        self._logger = logger
        self._warned = self._dead = False

    def start(self, run: LoggedRun) -> None:
        """See `Logger`."""
        self._dead = not self._call("start", run)

    def write(self, row: Mapping[str, Any]) -> None:
        """See `Logger`."""
        self._call("write", row)

    def finish(self, results: Results) -> None:
        """See `Logger`."""
        self._call("finish", results)

    def close(self, status: Status) -> None:
        """See `Logger`."""
        self._call("close", status)

    def warn(self, problem: str) -> None:
        """Reports a problem, unless one was reported before."""
        if not self._warned:
            self._warned = True
            print(f"{type(self._logger).__name__}: {problem}; the run folder has everything", file=sys.stderr)

    def _call(self, method: str, argument: Any) -> bool:
        """Whether a method was called without an error."""
        if self._dead:
            return False
        try:
            getattr(self._logger, method)(argument)
        except (Exception, SystemExit) as error:
            self.warn(f"{method} failed, training goes on: {_in_one_line(error)}")
            return False
        return True


def _in_one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_SHOWN]


class Background:
    """Calls a logger on a thread of its own, in order; see `in_background`."""

    def __init__(self, logger: Logger, patience: float = PATIENCE):
        self._logger, self._patience = logger, patience

    def start(self, run: LoggedRun) -> None:
        """See `Logger`."""
        self._guarded = Guarded(self._logger)
        self._calls: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True, name=type(self._logger).__name__)
        self._thread.start()
        self._calls.put(("start", run))

    def write(self, row: Mapping[str, Any]) -> None:
        """See `Logger`."""
        self._calls.put(("write", dict(row)))

    def finish(self, results: Results) -> None:
        """See `Logger`."""
        self._calls.put(("finish", results))

    def close(self, status: Status) -> None:
        """See `Logger`; waits until everything is sent, at most `patience` seconds."""
        self._calls.put(("close", status))
        self._thread.join(self._patience)
        if self._thread.is_alive():
            self._guarded.warn(f"not everything is sent after {self._patience:.0f} s")

    def _work(self) -> None:
        method = ""
        while method != "close":
            method, argument = self._calls.get()
            getattr(self._guarded, method)(argument)


def in_background(logger: Logger, patience: float = PATIENCE) -> Logger:
    """Calls a logger on a thread of its own, so that training does not wait for a server.

    Args:
      logger: whose methods are called there, one after the other.
      patience: seconds that the end of a training waits for it, > 0.
    """
    return Background(logger, patience)


class Loggers:
    """Several loggers, told the same; none of them can end a training.

    Args:
      loggers: called in this order.
    """

    def __init__(self, loggers: Sequence[Logger] = ()):
        self._loggers = [Guarded(logger) for logger in loggers]
        self._finished = False

    @contextlib.contextmanager
    def opened(self, run: LoggedRun) -> Iterator[None]:
        """Starts the loggers, and closes them at the end of the block, however it ends.

        Args:
          run: the training.
        """
        for logger in self._loggers:
            logger.start(run)
        status: Status = "failed"
        try:
            yield
            status = "finished" if self._finished else "stopped"
        except KeyboardInterrupt:
            status = "stopped"
            raise
        finally:
            for logger in self._loggers:
                logger.close(status)

    def write(self, row: Mapping[str, Any]) -> None:
        """Passes a row on.

        Args:
          row: of an iteration.
        """
        for logger in self._loggers:
            logger.write(row)

    def finish(self, summary: Mapping[str, Any], report: pathlib.Path | None, curves: Curves | None = None) -> None:
        """Passes the results on, with figures of the test period.

        Args:
          summary: content of summary.json.
          report: report.html, if there is one.
          curves: accounts over the test period, if that is known.
        """
        self._finished, figures = True, NO_FIGURES
        if curves is not None and self._loggers:
            try:
                figures = charts(curves)
            except Exception as error:
                print(f"figures of the test period cannot be drawn: {_in_one_line(error)}", file=sys.stderr)
        results = Results(summary, report, figures)
        for logger in self._loggers:
            logger.finish(results)
