"""The files of an exported policy, sealed: every one with its SHA-256, and none beside them."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxppo.errors import ConfigError

NAME, SEAL, FORMAT = "manifest.json", "sha256", 1


def write_manifest(folder: pathlib.Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the manifest of all files of a folder.

    Args:
      folder: of the export, complete but for the manifest.
      about: what the manifest says beside them, JSON-serialisable.
    """
    files = {
        path.name: {"bytes": path.stat().st_size, SEAL: _digest(path.read_bytes())}
        for path in sorted(folder.iterdir())
        if path.name != NAME
    }
    manifest = {**about, "format": FORMAT, "files": files}
    manifest[SEAL] = _digest(_text(manifest).encode())
    (folder / NAME).write_bytes(_text(manifest).encode())
    return manifest


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """Reads a manifest, and verifies every file of its folder.

    Args:
      folder: of the export.

    Raises:
      ConfigError: no export, another format, or a file that was changed, is missing, or is not of it.
    """
    path = folder / NAME
    try:
        raw = path.read_bytes()
        manifest = json.loads(raw)
        sealed = {name: value for name, value in manifest.items() if name != SEAL}
        files = manifest["files"]
        intact = _text(manifest).encode() == raw and _digest(_text(sealed).encode()) == manifest[SEAL]
        format_ = manifest["format"]
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; no exported policy is there") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ConfigError(f"{path}: damaged; export the policy anew") from None
    if not intact:
        raise ConfigError(f"{path}: it was changed; export the policy anew")
    if format_ != FORMAT:
        raise ConfigError(f"{path}: format is {format_}; this version reads format {FORMAT}")
    there = {one.name for one in folder.iterdir()} - {NAME}
    missing, surplus = sorted(set(files) - there), sorted(there - set(files))
    if missing or surplus:
        raise ConfigError(
            f"{folder / (missing or surplus)[0]}: {'is missing' if missing else 'is no file of the exported policy'}"
        )
    for name, entry in files.items():
        if (folder / name).is_symlink() or not (folder / name).is_file():
            raise ConfigError(f"{folder / name}: is no plain file")
        if _digest((folder / name).read_bytes()) != entry[SEAL]:
            raise ConfigError(f"{folder / name}: it was changed; export the policy anew")
    return manifest


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _text(content: Mapping[str, Any]) -> str:
    """JSON in the one way that it is written."""
    return json.dumps(content, indent=2, sort_keys=True) + "\n"
