"""What a command is doing, on stderr: a bar over work of known size, and the phases of the rest."""

from __future__ import annotations

import contextlib
import contextvars
import sys
import threading
import time
from collections.abc import Iterator
from typing import Protocol

import tqdm

from jaxppo.run import profile

HEARTBEAT = 5.0
"""Seconds after which a bar that nothing moved is drawn again."""
IN_A_FILE = 30.0
"""Seconds between two drawings where each stays, as in the log of a batch job."""
TICK = 1.0
"""Seconds after which the time of a phase is."""


class _Display(Protocol):
    """What shows phases."""

    def announce(self, phase: str) -> None:
        """Names what is being done now."""

    def hide(self) -> None:
        """Makes place for another display."""


_shown: contextvars.ContextVar[_Display | None] = contextvars.ContextVar("progress", default=None)


def announce(phase: str) -> None:
    """Names what is being done on the display that is shown, if there is one.

    Args:
      phase: such as "compiling", "training", "evaluating" or "report".
    """
    profile.enter(phase)
    shown = _shown.get()
    if shown is not None:
        shown.announce(phase)


class Progress:
    """Shows a bar over steps, or other units, or minutes on stderr, with the phase of the job and the time; close it.

    Args:
      steps: budget in environment steps or other units, or None.
      minutes: budget in minutes; counts where `steps` is None.
      enabled: False prints nothing.
      done: units, or seconds of training, that are done already.
      unit: what `steps` counts.
    """

    def __init__(self, steps: int | None, minutes: float | None, enabled: bool, done: float = 0.0, unit: str = "step"):
        self._by_steps = steps is not None
        total, unit = (round(60 * (minutes or 0.0), 1), "s") if steps is None else (steps, unit)
        self._before = _shown.get()
        if self._before is not None:
            self._before.hide()
        self._bar = tqdm.tqdm(
            total=total, unit=unit, unit_scale=self._by_steps, disable=not enabled, dynamic_ncols=True
        )
        self._bar.n = min(done, total)
        self._phase, self._since, self._ended = "", time.monotonic(), False
        replaced = sys.stderr.isatty() or "ipykernel" in sys.modules  # a notebook shows the last drawing only, too
        self._pause, self._drawn = (0.0 if replaced else IN_A_FILE), time.monotonic()
        self._closed = threading.Event()
        _shown.set(self)
        if enabled:
            threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while not self._closed.wait(max(HEARTBEAT, self._pause)):
            self._draw()

    def _draw(self) -> None:
        if self._ended:
            seconds = time.monotonic() - self._since
            self._bar.set_description_str(f"{self._phase}: {seconds:.0f} s" if self._phase else "", refresh=False)
        self._bar.refresh()

    def announce(self, phase: str) -> None:
        """Names what is being done now; see `announce`."""
        self._phase, self._since = phase, time.monotonic()
        if self._ended:
            self._draw()
        else:
            self._bar.set_description(phase)

    def end(self) -> None:
        """Leaves the bar as it is: what follows is shown below it with the time that it takes, not with a rate."""
        if not self._bar.disable and not self._ended:
            self._bar.refresh()
            self._bar.fp.write("\n")
        self._phase, self._ended, self._bar.bar_format = "", True, "{desc}"

    def hide(self) -> None:
        """Leaves the bar: another one comes below it."""

    def update(self, steps: int, seconds: float, **shown: str) -> None:
        """Moves the bar and shows figures beside it.

        Args:
          steps: environment steps, or other units, done.
          seconds: of training.
          shown: figures as text, by name.
        """
        self._bar.n = min(steps if self._by_steps else round(seconds, 1), self._bar.total)
        self._bar.set_postfix(shown, refresh=False)
        if time.monotonic() - self._drawn >= self._pause:
            self._drawn = time.monotonic()
            self._bar.refresh()

    def close(self) -> None:
        """Leaves the last state on screen."""
        if not self._closed.is_set():
            self._closed.set()
            self._bar.close()
            _shown.set(self._before)


class Phases:
    """Shows on a terminal what is being done and for how long, in a line that goes when it is closed."""

    def __init__(self) -> None:
        self._phase, self._since = "", 0.0
        self._writing, self._closed = threading.Lock(), threading.Event()
        self._before = _shown.get()
        _shown.set(self)
        threading.Thread(target=self._tick, daemon=True).start()

    def _tick(self) -> None:
        while not self._closed.wait(TICK):
            self._draw()

    def _draw(self) -> None:
        with self._writing:
            if self._phase and not self._closed.is_set():
                # The cursor goes back to the start: what others print takes the place of the line.
                minutes, seconds = divmod(int(time.monotonic() - self._since), 60)
                sys.stderr.write(f"\r\x1b[K{self._phase}  {minutes}:{seconds:02}\r")
                sys.stderr.flush()

    def announce(self, phase: str) -> None:
        """Names what is being done now; see `announce`."""
        self._phase, self._since = phase, time.monotonic()
        self._draw()

    def hide(self) -> None:
        """Clears the line until something else is announced."""
        with self._writing:
            if self._phase:
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()
            self._phase = ""

    def close(self) -> None:
        """Clears the line."""
        self.hide()
        self._closed.set()
        _shown.set(self._before)


@contextlib.contextmanager
def phases(enabled: bool) -> Iterator[None]:
    """Shows what is announced until the block ends, on a terminal; nothing where stderr is a file.

    Args:
      enabled: False shows nothing.
    """
    if not (enabled and sys.stderr.isatty()):
        yield
        return
    with contextlib.closing(Phases()):
        yield
