"""The own code of a run: recorded with its source and hash, kept in its folder, and found again when it is opened."""

from __future__ import annotations

import pathlib
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxppo.errors import ConfigError
from jaxppo.own_code import OwnCode, find, is_registered, known, located, sha256_of

FOLDER = "own_code"
"""Folder within that of a run, with the sources of its own code."""
OF_LIBRARY = "jaxppo"
"""Package whose version a run records anyway."""
SHOWN = 12
"""Characters of a hash that messages show."""


def record(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What a run says of its own code: name -> hash, file, source, and the file in `FOLDER` that it is kept in.

    Args:
      names: of functions that were found; those of jaxppo itself are left out.
    """
    return {
        code.name: {
            "sha256": code.sha256,
            "file": None if code.file is None else str(code.file),
            "kept": _kept(code),
            "source": code.source,
        }
        for code in _of_user(names)
    }


def _of_user(names: Iterable[str]) -> list[OwnCode]:
    """What was found under names, in order, without what is jaxppo's own."""
    found = [known(name) for name in sorted(set(names))]
    return [code for code in found if code is not None and code.name.partition(".")[0] != OF_LIBRARY]


def keep(folder: pathlib.Path, names: Iterable[str]) -> None:
    """Copies the sources of own code into the folder of a run.

    Args:
      folder: of the run.
      names: see `record`.
    """
    for code in _of_user(names):
        kept = pathlib.PurePath(_kept(code))
        (folder / FOLDER / kept).parent.mkdir(parents=True, exist_ok=True)
        for above, package in zip(() if code.file is None else code.file.parents, kept.parents[:-1], strict=False):
            if (above / "__init__.py").is_file():
                shutil.copyfile(above / "__init__.py", folder / FOLDER / package / "__init__.py")
        (folder / FOLDER / kept).write_bytes(code.content)


def _kept(code: OwnCode) -> str:
    """Path of the source within `FOLDER`."""
    module = code.name.partition(":")[0]
    if code.file is None:
        return f"{code.name.replace(':', '.')}.py"
    path = pathlib.PurePath(*module.split("."))
    return str(path / "__init__.py" if code.file.name == "__init__.py" else path.with_suffix(code.file.suffix))


def restore(folder: pathlib.Path, recorded: Mapping[str, Mapping[str, Any]]) -> None:
    """Finds the own code of a run again: beside where it was, in the current folder, or where Python imports from.

    A module is imported only if its file is that of the run, and from the folder of the run only if Python is told to
    look there.

    Args:
      folder: of the run.
      recorded: from `record`.

    Raises:
      ConfigError: it is not there, or is not what the run was trained with; says where the source is kept.
    """
    for name, about in recorded.items():
        kept = folder / FOLDER / str(about.get("kept"))
        path = about.get("file")
        if path is None or is_registered(name):
            found = known(name) if is_registered(name) else None
            if found is None:
                raise ConfigError(
                    f"{folder}: was trained with own code that no module has, {name}; its source is {kept}: define it, "
                    f"with @jaxppo.register(name={name!r}), and open the run there"
                )
            at = f"the one that is registered has {found.sha256[:SHOWN]}"
            again = f"its source is {kept}"
        else:
            module = name.partition(":")[0]
            depth = len(module.split(".")) - (pathlib.Path(path).name != "__init__.py")
            asked = [pathlib.Path(place) for place in sys.path if pathlib.Path(place).resolve() != folder.resolve()]
            places = [*pathlib.Path(path).parents[depth : depth + 1], pathlib.Path.cwd()]
            places = [one for one in places if one.is_absolute() and not one.resolve().is_relative_to(folder.resolve())]
            again = f"to run what is kept: PYTHONPATH={(folder / FOLDER).resolve()}"
            found = _found_again(folder, name, about, [*places, *asked], again)
            at = f"{found.file} has {found.sha256[:SHOWN]}"
        if found.sha256 != about.get("sha256"):
            raise ConfigError(
                f"{folder}: was trained with {name} of SHA-256 {str(about.get('sha256'))[:SHOWN]}, but {at}; results "
                f"would not be those of that agent; {again}"
            )


def _found_again(
    folder: pathlib.Path, name: str, about: Mapping[str, Any], places: Sequence[pathlib.Path], again: str
) -> OwnCode:
    """The function from the first place whose module is that of the run; no other is imported."""
    module = name.partition(":")[0]
    there = [file for file in (located(module, place) for place in places) if file is not None]
    same = [place for place in places if sha256_of(located(module, place)) == about.get("sha256")]
    if there and not same:
        raise ConfigError(
            f"{folder}: was trained with {name} of SHA-256 {str(about.get('sha256'))[:SHOWN]}, but "
            f"{there[0].resolve()} has {sha256_of(there[0])[:SHOWN]}; results would not be those of that agent; {again}"
        )
    if not same:
        searched = ", ".join(dict.fromkeys(map(str, places)))
        raise ConfigError(f"{folder}: its own code is {name!r}; there is no module {module} in {searched}; {again}")
    try:
        return find(name, f"{folder}: its own code", same[:1])
    except ConfigError as error:
        raise ConfigError(f"{error}; {again}") from None
