"""Where an iteration's numbers go: metrics.jsonl, TensorBoard, and a progress bar."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pathlib
from typing import Any

import tensorboardX
import tqdm
from tensorboardX.proto.summary_pb2 import Summary

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
    """Appends rows to `metrics.jsonl` and TensorBoard.

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
        file = {"filename_suffix": f".{iteration:08d}"}  # files are named by the second; a quick resume has its own
        self._board = tensorboardX.SummaryWriter(str(folder / "tensorboard"), purge_step=iteration + 1, **file)

    def write(self, row: dict[str, Any]) -> None:
        """One row; numbers that are not finite become null."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        self._digest.update(_without_clock(clean).encode())
        self._file.write(json.dumps(clean) + "\n")
        self._file.flush()
        numbers = {k: v for k, v in clean.items() if isinstance(v, int | float) and k != "iteration"}
        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        self._board.file_writer.add_summary(Summary(value=values), row["iteration"])  # one event for all of them

    def sync(self) -> str:
        """Has the rows on the disk before it returns; their digest for `check_metrics`, in hexadecimal."""
        os.fsync(self._file.fileno())
        return self._digest.hexdigest()

    def close(self) -> None:
        """Flushes and closes both."""
        self._file.close()
        self._board.close()


class Progress:
    """Shows a progress bar over steps or minutes on stderr.

    Args:
      steps: budget in environment steps, or None.
      minutes: budget in minutes; counts where `steps` is None.
      enabled: False prints nothing.
    """

    def __init__(self, steps: int | None, minutes: float | None, enabled: bool):
        self._by_steps = steps is not None
        total, unit = (round(60 * (minutes or 0.0), 1), "s") if steps is None else (steps, "step")
        self._bar = tqdm.tqdm(
            total=total, unit=unit, unit_scale=self._by_steps, disable=not enabled, dynamic_ncols=True
        )

    def update(self, steps: int, seconds: float, **shown: str) -> None:
        """Moves the bar and shows figures beside it.

        Args:
          steps: environment steps done.
          seconds: wall time since the start.
          shown: figures as text, by name.
        """
        self._bar.n = min(steps if self._by_steps else round(seconds, 1), self._bar.total)
        self._bar.set_postfix(shown, refresh=True)

    def close(self) -> None:
        """Leaves the last state on screen."""
        self._bar.close()
