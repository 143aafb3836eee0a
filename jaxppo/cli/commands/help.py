"""Explains a key, a section or a command: jaxppo help costs, jaxppo help costs.commission_bps, jaxppo help train

A word such as stop or Sharpe finds the keys that have it in their name or meaning. `jaxppo help all` explains every
key of the configuration.
"""

import os
import signal
import sys
from collections.abc import Sequence

from jaxppo.cli.command import OneLineParser
from jaxppo.cli.keys import explain
from jaxppo.cli.main import COMMANDS, dispatch, overview


def main(arguments: Sequence[str]) -> int | None:
    parser = OneLineParser("help", __doc__)
    parser.add_argument("name", nargs="?", metavar="NAME", help="of a key, a section or a command; all for every key")
    known, options = parser.parse_known_args(arguments)
    names = [name for name in (known.name, *options) if name is not None]  # a key may be written as an option
    if len(names) > 1:
        parser.error(f"one name is explained at a time, not {' '.join(names)}")
    if names and names[0] in {command.name for command in COMMANDS}:
        return dispatch([names[0], "--help"])
    text = f"{explain(names[0])}\n" if names else overview()
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:  # as of a pager that was left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return signal.SIGPIPE
    return None
