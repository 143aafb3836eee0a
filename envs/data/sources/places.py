"""Where prices on this machine lie, also those that a pattern or the name of a database means."""

from __future__ import annotations

import glob
import pathlib

from jaxppo.envs.data.sources.databases import split_name
from jaxppo.envs.data.sources.lakes import is_pattern
from jaxppo.envs.data.sources.request import DATABASE, is_download, kind_of


def absolute(source: str) -> str:
    """The same prices, named so that the current folder does not matter; a download is itself.

    Args:
      source: file, folder, pattern or source.
    """
    if is_download(source):
        return source
    if kind_of(source) == DATABASE:
        file, what = split_name(source)
        return f"{DATABASE}:{pathlib.Path(file).expanduser().absolute()}:{what}"
    return str(pathlib.Path(source).expanduser().absolute())


def is_there(source: str) -> bool:
    """Whether a source is a download, or has a file on this machine.

    Args:
      source: file, folder, pattern or source.
    """
    if is_download(source):
        return True
    if kind_of(source) == DATABASE:
        return pathlib.Path(split_name(source)[0]).expanduser().is_file()
    path = pathlib.Path(source).expanduser()
    return path.exists() or (is_pattern(source) and any(glob.iglob(str(path), recursive=True)))
