"""Under which ids trackers know a run, so that a resumed run goes on where it was."""

from __future__ import annotations

import json
import pathlib

from jaxppo.run.files import write_json

PLACE = "tracking"
"""Folder in that of the run with a file for each tracker."""


def known_id(path: pathlib.Path, new: str) -> str:
    """The id under which a tracker knows a run; a new one is recorded.

    Args:
      path: of the file that records it.
      new: the id of a run that has none.

    Raises:
      OSError: the file cannot be read or written.
      ValueError: it is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        write_json(path, {"id": new})
        return new
    if not isinstance(found, dict) or not isinstance(found.get("id"), str):
        raise ValueError(f"{path} is damaged; delete it to begin another run")
    return found["id"]
