"""Out-of-sample returns that stay with a model: bar by bar, with when each bar begins and ends."""

from __future__ import annotations

import hashlib
import io
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxppo.errors import ConfigError

FILE = "returns.npz"
_DAMAGE = (KeyError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""Exceptions of numpy on a file that is cut short or changed."""


class Returns(NamedTuple):
    """What a model and its reference earned out of sample.

    Attributes:
      start: `[n]` int64, close from which a return counts: ns since 1970, or number of the bar without times.
      end: `[n]` int64, close up to which it counts.
      model: `[n]` float64, simple return per bar of the model, net of costs.
      reference: `[n]` float64, of what it is measured against where no model is in use.
    """

    start: np.ndarray
    end: np.ndarray
    model: np.ndarray
    reference: np.ndarray


class Evaluated(NamedTuple):
    """Returns of a version, with what has to be known to set them beside those of another.

    Attributes:
      title: name and version.
      about: its entry: `periods` (bars per year), `timed`, `data_fingerprint` and so on.
      returns: bar by bar.
    """

    title: str
    about: Mapping[str, Any]
    returns: Returns


def write_returns(folder: pathlib.Path, returns: Returns) -> str:
    """Writes returns into the folder of a version.

    Args:
      folder: of the version.
      returns: to write.

    Returns:
      SHA-256 of the file, which seals it.
    """
    held = io.BytesIO()
    np.savez_compressed(held, **returns._asdict())
    (folder / FILE).write_bytes(held.getvalue())
    return hashlib.sha256(held.getvalue()).hexdigest()


def read_returns(folder: pathlib.Path, seal: str) -> Returns:
    """Reads the returns of a version.

    Args:
      folder: of the version.
      seal: from `write_returns`.

    Raises:
      ConfigError: the file is missing or was changed.
    """
    path = folder / FILE
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ConfigError(f"{path}: is not a regular file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != seal:
        raise ConfigError(f"{path}: it was changed; add the run anew")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return Returns(*(file[name] for name in Returns._fields))
    except _DAMAGE as error:
        raise ConfigError(f"{path}: cannot be read by this version: {error!r:.100}") from None


def common_bars(first: Evaluated, second: Evaluated) -> tuple[np.ndarray, np.ndarray]:
    """Places of the bars that two models have in common: those that begin and end at the same closes.

    Bars of markets without times are the same only where the prices are.

    Args:
      first: a model.
      second: another one.

    Returns:
      `[n]` int places in the returns of the first and of the second, in the order of time.
    """
    same_prices = first.about["data_fingerprint"] == second.about["data_fingerprint"]
    timed = first.about["timed"], second.about["timed"]
    if timed[0] != timed[1] or not (timed[0] or same_prices):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    _, ours, theirs = np.intersect1d(first.returns.end, second.returns.end, assume_unique=True, return_indices=True)
    same = first.returns.start[ours] == second.returns.start[theirs]
    return ours[same], theirs[same]
