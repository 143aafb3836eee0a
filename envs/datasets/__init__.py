"""Real price data that ships with the package; README.md in this folder states provenance and licence of each file."""

from __future__ import annotations

import difflib
import importlib.resources
import pathlib

FILES = {"us5_1d": "us5_1d.csv.gz"}
"""Files of the shipped data sets by name: `us5_1d` is AAPL, FB, GOOG, IBM and MSFT, daily, 2000-03 to 2013-03."""


def path(name: str) -> pathlib.Path:
    """Path of a shipped data set on this machine; `load_market` takes its name as well.

    Args:
      name: one of `FILES`.

    Raises:
      KeyError: no data set has that name; the message lists the names.
    """
    if name not in FILES:
        near = difflib.get_close_matches(name, FILES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise KeyError(f"no shipped data set is called {name!r}: there is {', '.join(sorted(FILES))}{hint}")
    return pathlib.Path(str(importlib.resources.files(__name__).joinpath(FILES[name])))
