"""A log that survives a kill at any instant: lines of JSON, each on the disk before anything follows from it.

Every line carries a digest of itself and of the digest before, so that a changed, missing or swapped line is found.
Half a line at the end is what a kill leaves: nothing followed from it, and it is cut off.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from typing import Any

from jaxppo.errors import ConfigError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]  # the only way to say that a module is absent

SEAL = "sha256"


class Log:
    """An append-only file with one owner.

    Args:
      path: of the file; one that is there is read and gone on with.

    Attributes:
      entries: the lines that were there, each with `kind`.

    Raises:
      ConfigError: another process has it open, or it is damaged.
      OSError: it cannot be read or written.
    """

    def __init__(self, path: str | pathlib.Path):
        self.path = pathlib.Path(path)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        self._file = os.open(self.path, flags, 0o600)
        self._seal = ""
        try:
            self._own()
            self.entries = self._read()
        except BaseException:
            self.close()
            raise

    def append(self, kind: str, **content: Any) -> dict[str, Any]:
        """Writes a line, and returns once it is on the disk.

        Args:
          kind: of the line.
          content: JSON-serialisable, numbers finite.

        Returns:
          The line.

        Raises:
          OSError: it could not be written; the log must not be used on.
        """
        entry = {"kind": kind, **content}
        seal = _seal(self._seal, entry)
        rest = (json.dumps({**entry, SEAL: seal}, allow_nan=False) + "\n").encode()
        while rest:
            rest = rest[os.write(self._file, rest) :]
        os.fsync(self._file)
        self._seal = seal
        return entry

    def close(self) -> None:
        """Gives the file up."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _own(self) -> None:
        """Locks the file until it is closed or the process ends."""
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{self.path.parent}: another process trades in this folder") from None

    def _read(self) -> list[dict[str, Any]]:
        """All whole lines; cuts off half of one."""
        with open(self.path, "rb") as file:
            raw = file.read()
        whole = raw.rfind(b"\n") + 1
        if whole < len(raw):
            os.ftruncate(self._file, whole)
            os.fsync(self._file)
        entries = []
        for number, line in enumerate(raw[:whole].splitlines(), start=1):
            try:
                entry = json.loads(line)
                seal = entry.pop(SEAL)
                intact = isinstance(entry["kind"], str) and seal == _seal(self._seal, entry)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                intact = False
            if not intact:
                raise ConfigError(f"{self.path}: line {number} is damaged, or was changed, moved or removed")
            self._seal = seal
            entries.append(entry)
        return entries


def write_file(path: pathlib.Path, text: str) -> None:
    """Writes a file beside its place, and moves it there, so that no reader sees half of it.

    Args:
      path: of the file.
      text: its content.
    """
    draft = path.with_name(path.name + ".part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def sync_folder(folder: pathlib.Path) -> None:
    """Puts the names of a folder on the disk, where the system can.

    Args:
      folder: whose files were moved to their places.
    """
    if os.name != "posix":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _seal(before: str, entry: dict[str, Any]) -> str:
    """Digest of a line and of the digest before."""
    return hashlib.sha256((before + json.dumps(entry, sort_keys=True)).encode()).hexdigest()
