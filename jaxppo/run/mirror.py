"""Folders of object stores: results are written into a local copy, file by file sent after it, and fetched to go on."""

from __future__ import annotations

import os
import pathlib
import re
import tempfile
from collections.abc import Sequence
from typing import Any

from jaxppo.errors import ConfigError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_copies: list[tempfile.TemporaryDirectory] = []
"""Local copies, which are deleted when the process ends: results that were returned read from them."""


def is_url(path: str | pathlib.Path | None) -> bool:
    """Whether a path is that of an object store or another file system of fsspec, such as `s3://bucket/folder`."""
    return isinstance(path, str) and _URL.match(path) is not None


class Mirror:
    """A folder on any file system of fsspec, and its local copy. A local folder is its own copy.

    Object stores have no locks: what another process writes to the same place at the same time is not noticed.

    Args:
      place: path or URL of the folder; None for none.
      option: that it was given as, for messages.
      fetched: patterns of the files in it that are fetched at once; each at most one folder deep.

    Attributes:
      local: the local folder; None for none.
      place: as given.

    Raises:
      ConfigError: the URL names no file system that is known here, cannot be read, or holds other files alone.
    """

    def __init__(self, place: str | pathlib.Path | None, option: str, fetched: Sequence[str] = ()):
        self.place, self._option, self._files = place, option, None
        if place is None or not is_url(place):
            self.local = None if place is None else pathlib.Path(place)
            return
        import fsspec

        try:
            self._files, root = fsspec.core.url_to_fs(str(place))
            self._root = root.rstrip("/")
            copy = tempfile.TemporaryDirectory(prefix="jaxppo-", ignore_cleanup_errors=True)
            self.local = pathlib.Path(copy.name, "copy")
            found = [file for pattern in fetched for file in self._files.glob(f"{self._root}/{pattern}")]
            other = not found and self._files.exists(self._root) and bool(self._files.ls(self._root))
            for file in map(str, found):
                target = self.local / file[len(self._root) :].lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(file, str(target))
        except Exception as error:  # libraries of object stores have errors of their own
            raise ConfigError(f"{option} {place} cannot be used: {_first(error)}") from None
        if other:
            raise ConfigError(f"{option} {place} is not empty, and holds none of {', '.join(fetched)}; give another")
        _copies.append(copy)

    def send(self, *paths: pathlib.Path) -> None:
        """Sends files of the local copy to where they belong; does nothing for a local folder.

        Args:
          paths: in the local copy.

        Raises:
          OSError: it did not work.
        """
        files: Any = self._files
        if files is None or self.local is None:
            return
        for path in paths:
            target = f"{self._root}/{path.relative_to(self.local).as_posix()}"
            try:
                files.makedirs(os.path.dirname(target), exist_ok=True)
                files.put_file(str(path), target)
            except Exception as error:  # see above
                raise OSError(f"{self._option} {self.place} cannot be written: {_first(error)}") from None


def refuse_url(path: str | pathlib.Path | None, option: str) -> None:
    """Refuses a URL where only a local folder will do.

    Args:
      path: as given.
      option: that it was given as.

    Raises:
      ConfigError: it is a URL.
    """
    if is_url(path):
        raise ConfigError(
            f"{option} is {path}; it must be a local folder, or one that is mounted. Monte Carlo jobs take URLs"
        )


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
