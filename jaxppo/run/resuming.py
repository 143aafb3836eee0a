"""The command that goes on with a folder; imports no JAX."""

from __future__ import annotations

import os
import shlex

COMMANDS = {"run": "train", "walk_forward": "walk-forward", "sweep": "sweep"}
"""Kind of a folder, as in its metadata.json -> command that writes such folders."""


def resume_command(folder: str | os.PathLike[str], kind: str = "run") -> str:
    """The command that goes on with a folder, for a shell.

    Args:
      folder: of a run, a walk-forward or a sweep.
      kind: which of these, as in metadata.json.
    """
    return f"jaxppo {COMMANDS.get(kind, COMMANDS['run'])} --resume --output {shlex.quote(os.fspath(folder))}"
