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

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]  # the only way to say that a module is absent

NAME = ".lock"
_held: set[pathlib.Path] = set()
"""Locks of this process."""


@contextlib.contextmanager
def owned(folder: pathlib.Path, *, empty: bool = False) -> Iterator[None]:
    """Owns a folder until the block ends. A lock whose process is gone on this host is taken over.

    Args:
      folder: must exist.
      empty: whether nothing else may be in it: it is that of a new run.

    Raises:
      ConfigError: another process owns it, or has written into it; or something in it leads elsewhere.
      OSError: it cannot be written.
    """
    path = folder / NAME
    _acquire(path)
    _held.add(path)
    try:
        if empty and not is_unused(folder):
            raise ConfigError(f"--output {folder} is not empty: another process has written into it; give another one")
        _refuse_links(folder)
        yield
    finally:
        _held.discard(path)
        with contextlib.suppress(OSError):
            path.unlink()


def is_unused(folder: pathlib.Path) -> bool:
    """Whether a folder holds nothing but what a command leaves that is killed before its first file is whole.

    Args:
      folder: that is there.
    """
    return all(entry.name == NAME or entry.name.endswith(".part") for entry in folder.iterdir())


def owner_of(folder: pathlib.Path) -> tuple[dict[str, Any], bool]:
    """Process and host that own a folder, and whether the process is gone; nothing, and False, for a free folder.

    Args:
      folder: that is there.
    """
    try:
        owner = _owner(folder / NAME)
    except FileNotFoundError:
        return {}, False
    return owner, _is_gone(owner)


def release() -> None:
    """Gives up all folders that this process owns: it ends now."""
    for path in _held:
        with contextlib.suppress(OSError):
            path.unlink()


def _refuse_links(folder: pathlib.Path) -> None:
    """Refuses links in a folder, which may come from a stranger: what is written there must not land elsewhere."""
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            entry = pathlib.Path(place, name)
            if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                raise ConfigError(f"{entry}: is a link to another place, or no regular file; remove it")


def _acquire(path: pathlib.Path) -> None:
    """Makes the file of the lock, or takes over that of a process that is gone."""
    owner: dict[str, Any] = {}
    for _ in range(3):
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):  # its owner has just ended
                owner = _owner(path)
                if _is_gone(owner):
                    _take_over(path, owner)
                    return
                break
            continue
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(_this_process(), file)
        return
    raise _in_use(path, owner)


def _take_over(path: pathlib.Path, owner: dict[str, Any]) -> None:
    """Writes this process into the lock of one that is gone; of several that try, only one succeeds.

    Raises:
      ConfigError: another process was faster.
    """
    with open(os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)), "r+", encoding="utf-8") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _in_use(path, {}) from None
        # The file at that place may be another one by now, or have another owner.
        same = path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())
        if not same or _owner(path) != owner:
            raise _in_use(path, _owner(path))
        file.truncate()
        json.dump(_this_process(), file)
        file.flush()


def _in_use(path: pathlib.Path, owner: dict[str, Any]) -> ConfigError:
    """The error for a folder that another process owns."""
    who = f"process {owner.get('pid', 'unknown')} on {owner.get('host', 'an unknown host')}"
    return ConfigError(
        f"{path.parent}: another process is writing into it ({str(who)[:200]}); wait for it, or delete {path} if it is "
        "gone"
    )


def _this_process() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": _started(os.getpid())}


def _owner(path: pathlib.Path) -> dict[str, Any]:
    """Process and host of a lock; nothing where it cannot be read.

    Raises:
      FileNotFoundError: there is none any more.
    """
    if path.exists() and not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
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
