"""The entry of a version: what is known of it, sealed, beside the exported policy."""

from __future__ import annotations

import dataclasses
import datetime
import getpass
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxppo.deploy.manifest import NAME as MANIFEST
from jaxppo.deploy.manifest import read_manifest
from jaxppo.deploy.models.returns import Evaluated, read_returns
from jaxppo.errors import ConfigError
from jaxppo.run.files import digest_of, read_sealed, write_sealed

ENTRY, POLICY = "entry.json", "policy"
NEEDED = (
    "version", "parent", "run", "commit", "data_fingerprint", "symbols", "metrics", "selection", "trial", "gate",
    "reference", "periods", "timed", "first_bar", "last_bar", "seals", "when", "by",
)  # fmt: skip
"""Keys of an entry."""
LONGEST = 500
"""Characters of a reason."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A version of a model.

    Attributes:
      name: of the model.
      version: semantic.
      stage: candidate, staging, production or archived.
      folder: `policy` in it is the exported policy.
      entry: metrics, selection, parent, run, commit, fingerprint of the prices and so on.
      history: the lines that name the version, in order.
    """

    name: str
    version: str
    stage: str
    folder: pathlib.Path
    entry: Mapping[str, Any]
    history: tuple[Mapping[str, Any], ...]

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name}@{self.version}"

    def evaluated(self) -> Evaluated:
        """Its out-of-sample returns.

        Raises:
          ConfigError: they are missing or were changed.
        """
        return Evaluated(self.title, self.entry, read_returns(self.folder, self.entry["seals"]["returns"]))

    def verify(self) -> None:
        """Verifies every byte of the exported policy.

        Raises:
          ConfigError: it was changed, or is another one.
        """
        read_manifest(self.folder / POLICY)
        found = hashlib.sha256((self.folder / POLICY / MANIFEST).read_bytes()).hexdigest()
        if found != self.entry["seals"]["policy"]:
            raise ConfigError(f"{self.folder / POLICY}: is another policy than the one that was added")


def write_entry(folder: pathlib.Path, entry: Mapping[str, Any]) -> str:
    """Writes the entry of a version.

    Args:
      folder: of the version.
      entry: `NEEDED`, JSON-serialisable.

    Returns:
      Its digest, which the history keeps.
    """
    write_sealed(folder / ENTRY, dict(entry))
    return digest_of(dict(entry))


def read_entry(folder: pathlib.Path, digest: str) -> dict[str, Any]:
    """Reads the entry of a version.

    Args:
      folder: of the version.
      digest: from `write_entry`, as the history has it.

    Raises:
      ConfigError: it is missing, damaged, or not the one that was added.
    """
    path = folder / ENTRY
    try:
        entry = read_sealed(path, NEEDED)
    except FileNotFoundError:
        raise ConfigError(f"{path}: is missing, but the history has its version; restore it from a copy") from None
    if digest_of(entry) != digest:
        raise ConfigError(f"{path}: is not the entry that was added; restore it from a copy")
    return entry


def stamp(by: str | None) -> dict[str, str]:
    """When something is done, UTC, and by whom.

    Args:
      by: a name; None takes that of the user of the process.

    Raises:
      ConfigError: an empty name, or a long one.
    """
    if by is None:
        try:
            by = getpass.getuser()
        except (OSError, KeyError, ImportError):  # a process without a user, or a system without them
            by = "unknown"
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"when": now, "by": one_line("--by", by)}


def one_line(option: str, text: str) -> str:
    """A text on one line.

    Args:
      option: that gives it.
      text: of a user.

    Raises:
      ConfigError: it is empty, or longer than `LONGEST`.
    """
    line = " ".join(text.split())
    if not line or len(line) > LONGEST:
        raise ConfigError(f"{option} has {len(line)} characters; 1 to {LONGEST} are expected")
    return line
