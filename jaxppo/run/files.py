"""Files of a folder: written in one move, and sealed, so that a later change of a single bit is found.

A sealed file carries the SHA-256 of its content, and the version of the format it is written in.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from jaxppo.errors import ConfigError

FORMAT = 1
"""Version of the format of run, walk-forward and Monte Carlo folders; files without one are from before 0.2.0."""
SEAL, VERSION = "sha256", "format"
_SEAL_LINE = "# sha256: "
"""Begins the last line of a sealed text file."""


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file beside its place, and moves it there once it is on the disk, so that no reader sees half of it.

    Args:
      path: of the file.
      text: its content.
    """
    draft = path.with_name(path.name + ".part")
    with open(draft, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes a JSON file in one move.

    Args:
      path: of the file.
      content: of the file.
    """
    write_text(path, json.dumps(content, indent=2) + "\n")


def digest_of(content: Any) -> str:
    """SHA-256 of what JSON keeps of an object, in hexadecimal; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_sealed(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes a JSON file with its format and its digest, in one move.

    Args:
      path: of the file.
      content: of the file, JSON-serialisable.
    """
    kept = {**content, VERSION: FORMAT}
    write_json(path, {**kept, SEAL: digest_of(kept)})


def read_sealed(path: pathlib.Path, needed: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a JSON file that `write_sealed`, or a version without seals, has written.

    Args:
      path: of the file.
      needed: keys that it must have.

    Returns:
      Its content, without format and digest.

    Raises:
      FileNotFoundError: there is none.
      ConfigError: it is no JSON object, was made by a newer version, lacks a key, or was changed since it was written.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for, a device read for ever
        raise ConfigError(f"{path}: is not a regular file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{path}: damaged; a JSON object is expected") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: damaged; a JSON object is expected")
    version, seal = content.pop(VERSION, None), content.pop(SEAL, None)
    if version is not None and (type(version) is not int or version < 1):
        raise ConfigError(f"{path}: damaged; its format is {str(version)[:100]!r}, which is no version")
    if version is not None and version > FORMAT:
        raise ConfigError(
            f"{path}: made by a newer version of jaxppo (format {version}; this one reads up to {FORMAT}); "
            "update jaxppo"
        )
    lacking = next((key for key in needed if key not in content), None)
    if lacking is not None:
        raise ConfigError(f"{path} has no {lacking}: it is damaged, or of another version")
    versioned = content if version is None else {**content, VERSION: version}
    if (version is not None or seal is not None) and seal != digest_of(versioned):
        raise ConfigError(f"{path}: damaged; it was changed after it was written")
    return content


def sealed_text(text: str) -> str:
    """A text with a last line that holds its digest, as a comment.

    Args:
      text: whole lines.
    """
    return f"{text}{_SEAL_LINE}{hashlib.sha256(text.encode()).hexdigest()}\n"


def check_text(path: pathlib.Path) -> None:
    """Refuses a text file that was changed since `sealed_text` made it; one without a seal is accepted.

    Args:
      path: of the file; one that cannot be read is left to its reader.

    Raises:
      ConfigError: its seal is that of another text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return
    kept, line, seal = text.rpartition(_SEAL_LINE)
    if line and seal.strip() != hashlib.sha256(kept.encode()).hexdigest():
        raise ConfigError(
            f"{path}: was changed after the run wrote it; restore it, or delete its last line ({_SEAL_LINE.strip()}) "
            "if the change is meant"
        )
