"""Configurations that ship with the package, by name: those of `configs/` in the repository."""

from __future__ import annotations

import difflib
import os
import pathlib

from jaxppo.errors import ConfigError

FOLDER = pathlib.Path(__file__).parents[1] / "configs"


def shipped() -> dict[str, pathlib.Path]:
    """Name and file of each."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def find_config(source: str | os.PathLike) -> pathlib.Path:
    """Finds a configuration: a file, or the one of that name that ships where there is no such file.

    Args:
      source: a path, or a name without a folder and without a suffix.

    Raises:
      ConfigError: there is no such file, and none of that name ships; names those that do.
    """
    path, known = pathlib.Path(source), shipped()
    name = str(source)
    if not name:
        raise ConfigError("the path of the config file is empty; give a YAML file, or quickstart, which ships")
    plain = path.name == name and not path.suffix
    if plain and name in known and not path.is_file():
        return known[name]
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError):  # a name that no file can have: reading it says why
        return path
    else:
        return path
    if plain:
        near = difflib.get_close_matches(name, known, 1)
        guess = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{name}: no such config file, nor one that ships: {', '.join(known)}{guess}")
    hint = f"; --config {path.stem} takes the one that ships" if path.stem in known else ""
    raise ConfigError(f"{source}: no such config file{hint}")
