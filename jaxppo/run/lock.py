"""One owner of a folder: two processes that write into it would lose each other's rows."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import Any

from jaxppo.errors import ConfigError

NAME = ".lock"


@contextlib.contextmanager
def owned(folder: pathlib.Path, *, empty: bool = False) -> Iterator[None]:
    """Owns a folder until the block ends. A lock whose process is gone on this host is taken over.

    Args:
      folder: must exist.
      empty: whether nothing else may be in it: it is that of a new run.

    Raises:
      ConfigError: another process owns it, or has written into it.
      OSError: it cannot be written.
    """
    path = folder / NAME
    _acquire(path)
    try:
        if empty and any(entry.name != NAME for entry in folder.iterdir()):
            raise ConfigError(f"--output {folder} is not empty: another process has written into it; give another one")
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _acquire(path: pathlib.Path) -> None:
    """Makes the file of the lock."""
    for _ in range(2):
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            owner = _owner(path)
            if not _is_gone(owner):
                raise ConfigError(
                    f"{path.parent}: another process is writing into it (process {owner.get('pid', 'unknown')} on "
                    f"{owner.get('host', 'an unknown host')}); wait for it, or delete {path} if it is gone"
                ) from None
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            continue
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"pid": os.getpid(), "host": socket.gethostname(), "started": _started(os.getpid())}, file)
        return
    raise ConfigError(f"{path.parent}: another process is writing into it; wait for it, or delete {path} if it is gone")


def _owner(path: pathlib.Path) -> dict[str, Any]:
    """Process and host of a lock; nothing where it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_gone(owner: dict[str, Any]) -> bool:
    """Whether the process of a lock ran on this host and has ended."""
    pid = owner.get("pid")
    if owner.get("host") != socket.gethostname() or not isinstance(pid, int) or pid <= 0:
        return False
    with contextlib.suppress(PermissionError):  # it lives, and is another user's
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
    # A later process may have the number of one that is gone.
    return owner.get("started") != _started(pid)


def _started(pid: int) -> str | None:
    """When a process began, in the system's own words; None where the system does not say."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
