"""Real price data that ships with the package; provenance and licence of each file are in the README beside it."""

from __future__ import annotations

import difflib
import importlib.resources
import pathlib

FILES = {"us5_1d": "us5_1d.csv.gz"}
"""Name of each shipped data set and its file: `us5_1d` is AAPL, FB, GOOG, IBM and MSFT, daily, 2000-03 to 2013-03."""


def path(name: str) -> pathlib.Path:
    """Path of a shipped data set on this machine.

    Args:
      name: one of `FILES`.

    Returns:
      Path of a file that `envs.load_market` reads.

    Raises:
      KeyError: there is no data set of that name; the message lists those there are.
    """
    if name not in FILES:
        near = difflib.get_close_matches(name, FILES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise KeyError(f"no shipped data set is called {name!r}: there is {', '.join(sorted(FILES))}{hint}")
    return pathlib.Path(str(importlib.resources.files(__name__).joinpath(FILES[name])))
