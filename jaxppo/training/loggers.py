"""Where an iteration's numbers go first: metrics.jsonl; `jaxppo.tracking` has the rest."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pathlib
from typing import Any

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
