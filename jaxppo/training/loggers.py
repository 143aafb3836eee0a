"""Where an iteration's numbers go first: metrics.jsonl and a progress bar; `jaxppo.tracking` has the rest."""

from __future__ import annotations

import contextvars
import hashlib
import json
import math
import os
import pathlib
import threading
from typing import Any

import tqdm

from jaxppo.errors import ConfigError
from jaxppo.run.folder import read_metrics


def check_metrics(folder: pathlib.Path, iteration: int, digest: str | None) -> None:
    """Refuses `metrics.jsonl` of a run whose rows are not those that were written.

    Args:
      folder: the run.
      iteration: of the checkpoint that the run goes on from: so many rows must be there.
      digest: of these rows, see `MetricsLog.sync`; None in a checkpoint of an earlier version.

    Raises:
      ConfigError: a row is missing, or was changed.
    """
    rows = read_metrics(folder, least=iteration)[:iteration]
    if digest is not None and _digest_of(rows).hexdigest() != digest:
        raise ConfigError(f"{folder / 'metrics.jsonl'}: damaged: a row was changed; restore it from a copy")


def _digest_of(rows: list[dict[str, Any]]) -> Any:
    """SHA-256 of rows without what depends on the clock: a resumed run has that of a whole one."""
    return hashlib.sha256("".join(map(_without_clock, rows)).encode())


def _without_clock(row: dict[str, Any]) -> str:
    return json.dumps({name: value for name, value in row.items() if name != "steps_per_second"}) + "\n"


class MetricsLog:
    """Appends rows to `metrics.jsonl`.

    Args:
      folder: the run.
      iteration: rows after this iteration are dropped: a resumed run writes them again.
    """

    def __init__(self, folder: pathlib.Path, iteration: int):
        path, draft = folder / "metrics.jsonl", folder / "metrics.jsonl.part"
        kept = [row for row in read_metrics(folder) if row["iteration"] <= iteration]
        self._digest = _digest_of(kept)
        draft.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        draft.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """One row; numbers that are not finite become null."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        self._digest.update(_without_clock(clean).encode())
        self._file.write(json.dumps(clean) + "\n")
        self._file.flush()

    def sync(self) -> str:
        """Has the rows on the disk before it returns; their digest for `check_metrics`, in hexadecimal."""
        os.fsync(self._file.fileno())
        return self._digest.hexdigest()

    def close(self) -> None:
        """Flushes and closes the file."""
        self._file.close()


HEARTBEAT = 5.0
"""Seconds after which a bar that nothing moved is drawn again."""
_shown: contextvars.ContextVar[Progress | None] = contextvars.ContextVar("progress", default=None)


def announce(phase: str) -> None:
    """Names what is being done on the bar that is shown, if there is one.

    Args:
      phase: such as "compiling", "training", "evaluating" or "report".
    """
    bar = _shown.get()
    if bar is not None:
        bar.announce(phase)


class Progress:
    """Shows a progress bar over steps or minutes on stderr, with the phase of the job and the time; close it.

    Args:
      steps: budget in environment steps, or None.
      minutes: budget in minutes; counts where `steps` is None.
      enabled: False prints nothing.
      done: steps, or seconds of training, that are done already.
    """

    def __init__(self, steps: int | None, minutes: float | None, enabled: bool, done: float = 0.0):
        self._by_steps = steps is not None
        total, unit = (round(60 * (minutes or 0.0), 1), "s") if steps is None else (steps, "step")
        self._bar = tqdm.tqdm(
            total=total, unit=unit, unit_scale=self._by_steps, disable=not enabled, dynamic_ncols=True
        )
        self._bar.n = min(done, total)
        self._closed = threading.Event()
        self._before = _shown.set(self)
        if enabled:
            threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while not self._closed.wait(HEARTBEAT):
            self._bar.refresh()

    def announce(self, phase: str) -> None:
        """Names what is being done now; see `announce`."""
        self._bar.set_description(phase)

    def update(self, steps: int, seconds: float, **shown: str) -> None:
        """Moves the bar and shows figures beside it.

        Args:
          steps: environment steps done.
          seconds: of training.
          shown: figures as text, by name.
        """
        self._bar.n = min(steps if self._by_steps else round(seconds, 1), self._bar.total)
        self._bar.set_postfix(shown, refresh=True)

    def close(self) -> None:
        """Leaves the last state on screen."""
        if not self._closed.is_set():
            self._closed.set()
            self._bar.close()
            _shown.reset(self._before)
