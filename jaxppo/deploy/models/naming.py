"""Names and semantic versions of models: both become folders, so nothing else passes."""

from __future__ import annotations

import re
from collections.abc import Iterable

from jaxppo.errors import ConfigError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*", re.ASCII)
VERSION = re.compile(
    r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    r"(?:-((?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)(?:\.(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*))*))?",
    re.ASCII,
)
LONGEST = 64
"""Characters of a name or of a version."""
BUMPS = ("major", "minor", "patch")

Order = tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...]]


def check_name(name: str) -> str:
    """Refuses what is no name of a model.

    Args:
      name: letters, digits, `_`, `-` and single dots.

    Returns:
      The name.

    Raises:
      ConfigError: it is none.
    """
    if len(name) > LONGEST or not NAME.fullmatch(name):
        raise ConfigError(
            f"model {name!r:.100} is no name; up to {LONGEST} letters, digits, '_', '-' and single dots are expected"
        )
    return name


def check_version(version: str) -> str:
    """Refuses what is no semantic version.

    Args:
      version: such as 1.2.0 or 1.2.0-rc.1, without build metadata.

    Returns:
      The version.

    Raises:
      ConfigError: it is none.
    """
    if len(version) > LONGEST or not VERSION.fullmatch(version):
        raise ConfigError(f"version {version!r:.100} is no semantic version; 1.2.0 or 1.2.0-rc.1 is expected")
    return version


def version_order(version: str) -> Order:
    """Precedence of a semantic version, as a key to sort by.

    Args:
      version: from `check_version`.

    Reference: Semantic Versioning 2.0.0, item 11.
    """
    core, _, before = version.partition("-")
    parts = before.split(".") if before else []
    ordered = tuple((not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts)
    return tuple(int(part) for part in core.split(".")), not before, ordered


def next_version(known: Iterable[str], bump: str = "minor") -> str:
    """The version after the highest of those that are there; after 0.0.0 where there is none.

    Args:
      known: versions.
      bump: what is raised: major, minor or patch.

    Raises:
      ConfigError: another word.
    """
    if bump not in BUMPS:
        raise ConfigError(f"--bump is {bump!r:.100}; allowed: {', '.join(BUMPS)}")
    highest = max(known, key=version_order, default="0.0.0")
    place, core = BUMPS.index(bump), list(version_order(highest)[0])
    return ".".join(str(part) for part in [*core[:place], core[place] + 1, *[0] * (2 - place)])
