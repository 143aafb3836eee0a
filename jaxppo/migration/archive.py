"""Zip files read as data: in memory alone, and only what can be as large as it claims."""

from __future__ import annotations

import io
import os
import pathlib
import struct
import zipfile
import zlib
from typing import NamedTuple

from jaxppo.errors import ConfigError

LARGEST = 2**30
"""Bytes that the files of an archive may have together, unpacked."""
MOST_RATIO = 100
"""Times that a file may be larger than its packed form: weights pack poorly, JSON about tenfold."""
SMALL = 2**16
"""Bytes of a file whose ratio does not matter."""
DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, IndexError, KeyError, MemoryError, NotImplementedError,
    OSError, OverflowError, RuntimeError, ValueError,
)  # fmt: skip
"""What `zipfile` raises for a file that is damaged, encrypted or packed in a way that it does not know."""


class Archive(NamedTuple):
    """A zip file whose list of files was checked.

    Attributes:
      zipped: the open file.
      where: what errors call it.
    """

    zipped: zipfile.ZipFile
    where: str

    def names(self) -> list[str]:
        """Names of its files."""
        return self.zipped.namelist()

    def read(self, name: str) -> bytes:
        """The content of one file.

        Raises:
          ConfigError: there is no such file, or it is damaged.
        """
        if name not in self.zipped.NameToInfo:
            raise ConfigError(f"{self.where}: has no file {name}")
        try:
            return self.zipped.read(name)
        except DAMAGE as error:
            raise ConfigError(f"{self.where}: {name} is damaged: {error}") from None


def read_file(path: str | os.PathLike, expected: str) -> bytes:
    """The bytes of a file.

    Args:
      path: of the file.
      expected: what it should be, for errors.

    Raises:
      ConfigError: there is no such file, it cannot be read, or it is too large.
    """
    file = pathlib.Path(path)
    try:
        if not file.is_file():
            found = "is not a file" if file.exists() else "no such file"
            raise ConfigError(f"{path}: {found}; {expected} is expected")
        if file.stat().st_size > LARGEST:
            raise ConfigError(f"{path}: has {file.stat().st_size} bytes; at most {LARGEST} are read")
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None


def open_archive(data: bytes, where: str) -> Archive:
    """Opens a zip file and checks what it lists, before anything is unpacked.

    Args:
      data: the file.
      where: what errors call it.

    Raises:
      ConfigError: it is no zip file, or one that nobody should unpack.
    """
    try:
        zipped = zipfile.ZipFile(io.BytesIO(data))
    except DAMAGE as error:
        raise ConfigError(f"{where}: not a zip file, or a damaged one: {error}") from None
    problem = _problem(zipped.infolist())
    if problem:
        raise ConfigError(f"{where}: {problem}")
    return Archive(zipped, where)


def _problem(listed: list[zipfile.ZipInfo]) -> str:
    """What is wrong with a list of files; nothing where all is well."""
    seen: set[str] = set()
    for info in listed:
        name = info.filename
        if name in seen:
            return f"holds two files named {name}"
        if pathlib.PurePosixPath(name).is_absolute() or ".." in name.replace("\\", "/").split("/"):
            return f"names a file outside of itself: {name}"
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            return f"{name} is packed by method {info.compress_type}; it must be stored or deflated"
        if info.file_size > SMALL and info.file_size > MOST_RATIO * info.compress_size:
            return f"{name} unpacks to {info.file_size} bytes from {info.compress_size}, more than {MOST_RATIO} times"
        seen.add(name)
    total = sum(info.file_size for info in listed)
    return f"unpacks to {total} bytes; at most {LARGEST} are read" if total > LARGEST else ""
