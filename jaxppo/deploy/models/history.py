"""The history of a model: a line for each thing that was done, each with the digest of the line before.

Stages are not kept anywhere: they follow from the lines. A line that was altered, moved or taken out is found. The
digest of the last line stands in a file of its own, so that a shortened history is found too; a process that is killed
between the line and that file leaves a history that goes on beyond it, which is sound.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxppo.deploy.models.naming import check_version
from jaxppo.errors import ConfigError
from jaxppo.run.files import SEAL, digest_of, read_sealed, write_sealed

HISTORY, HEAD = "history.jsonl", "head.json"
CANDIDATE, STAGING, PRODUCTION, ARCHIVED = STAGES = ("candidate", "staging", "production", "archived")
ADD, PROMOTE, ROLLBACK = "add", "promote", "rollback"
BEFORE = "before"


@dataclasses.dataclass(frozen=True)
class History:
    """What was done to a model, and what follows from it.

    Attributes:
      lines: in order; each has `action`, `version`, `when` and `by`.
      stages: version -> stage, in the order in which versions were added.
      served: versions that were in production and not rolled back, the last of them in production.
    """

    lines: tuple[dict[str, Any], ...]
    stages: Mapping[str, str]
    served: tuple[str, ...]

    @property
    def production(self) -> str | None:
        """The version in production."""
        return self.served[-1] if self.served else None

    def last_in(self, stage: str) -> str | None:
        """The version that came to a stage last, of those that are still in it; None where there is none.

        Args:
          stage: one of `STAGES`.
        """
        if stage == PRODUCTION:
            return self.production
        at = {line["version"]: number for number, line in enumerate(self.lines)}
        there = (version for version, found in self.stages.items() if found == stage)
        return max(there, key=at.__getitem__, default=None)

    def of(self, version: str) -> list[dict[str, Any]]:
        """The lines in which a version is added, promoted or rolled back, to it or from it.

        Args:
          version: of the model.
        """
        return [line for line in self.lines if version in (line["version"], line.get("former"))]


def read_history(folder: pathlib.Path) -> History:
    """Reads and verifies the history of a model.

    Args:
      folder: of the model.

    Returns:
      The history; without lines where nothing was done yet. An unfinished last line is left out.

    Raises:
      ConfigError: a line was altered or is missing, or the file cannot be read.
    """
    path = folder / HISTORY
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ConfigError(f"{path}: is not a regular file; the history was expected there")
    n_known, last = _head(folder)  # before the lines: another process may add some in between
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        text = b""
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    lines: list[dict[str, Any]] = []
    for raw in text.split(b"\n")[:-1]:
        lines.append(_verified(path, raw, lines))
    if len(lines) < n_known or (n_known and lines[n_known - 1][SEAL] != last):
        raise ConfigError(
            f"{path}: {len(lines)} lines where {n_known} were written, or others; restore the history from a copy"
        )
    return _replayed(path, lines)


def append(folder: pathlib.Path, line: Mapping[str, Any]) -> History:
    """Adds a line to the history of a model that this process owns; once it is on the disk, it is done.

    Args:
      folder: of the model.
      line: JSON-serialisable; `action`, `version`, `when`, `by`, and what belongs to the action.

    Returns:
      The history with the line.

    Raises:
      ConfigError: see `read_history`.
      OSError: it cannot be written.
    """
    known = read_history(folder).lines
    content = {**line, BEFORE: known[-1][SEAL] if known else None, "number": len(known) + 1}
    sealed = {**content, SEAL: digest_of(content)}
    after = _replayed(folder / HISTORY, [*known, sealed])
    with open(folder / HISTORY, "ab") as file:
        _cut_unfinished(folder / HISTORY)
        file.write((json.dumps(sealed) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())
    write_sealed(folder / HEAD, {"lines": len(known) + 1, "last": sealed[SEAL]})
    return after


def _cut_unfinished(path: pathlib.Path) -> None:
    """Cuts off a last line that a killed process left unfinished."""
    text = path.read_bytes()
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        os.truncate(path, whole)


def _head(folder: pathlib.Path) -> tuple[int, str | None]:
    """Number of lines that are known to be there, and the digest of the last of them."""
    path = folder / HEAD
    try:
        found = read_sealed(path, ("lines", "last"))
    except FileNotFoundError:
        return 0, None
    if type(found["lines"]) is not int or found["lines"] < 1:
        raise ConfigError(f"{path}: damaged; restore it from a copy")
    return found["lines"], found["last"]


def _verified(path: pathlib.Path, raw: bytes, before: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A line that is what was written, after the lines before it."""
    try:
        line = json.loads(raw)
        seal = digest_of({name: value for name, value in line.items() if name != SEAL})
        if line[SEAL] != seal:
            raise ValueError("altered")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ConfigError(f"{path}: line {len(before) + 1} was altered; restore the history from a copy") from None
    if line.get("number") != len(before) + 1 or line.get(BEFORE) != (before[-1][SEAL] if before else None):
        raise ConfigError(
            f"{path}: line {len(before) + 1} does not follow the one before it: a line was taken out or put in; "
            "restore the history from a copy"
        )
    return line


def _replayed(path: pathlib.Path, lines: Sequence[dict[str, Any]]) -> History:
    """The stages that follow from the lines."""
    stages: dict[str, str] = {}
    served: list[str] = []
    for number, line in enumerate(lines, 1):
        try:
            _step(line, stages, served)
        except (KeyError, ValueError, TypeError):
            raise ConfigError(f"{path}: line {number} is none of a history; restore it from a copy") from None
    return History(tuple(lines), stages, tuple(served))


def _step(line: Mapping[str, Any], stages: dict[str, str], served: list[str]) -> None:
    """Takes stages and versions in production through one line."""
    action, version = line["action"], line["version"]
    if action == ADD and version not in stages and isinstance(line["entry"], str):
        stages[check_version(version)] = CANDIDATE
        return
    known = stages[version]
    if action == PROMOTE and line["to"] == STAGING and known != PRODUCTION:
        stages[version] = STAGING
    elif action == PROMOTE and line["to"] == PRODUCTION and known != PRODUCTION:
        if served:
            stages[served[-1]] = ARCHIVED
        stages[version] = PRODUCTION
        served.append(version)
    elif action == ROLLBACK and len(served) > 1 and served[-2] == version and line["former"] == served[-1]:
        stages[served.pop()] = ARCHIVED
        stages[version] = PRODUCTION
    else:
        raise ValueError(action)
