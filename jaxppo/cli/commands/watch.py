"""Shows how far a run, a walk-forward or a Monte Carlo job is, until it ends: jaxppo watch runs/NAME

It only reads the folder, from another terminal or another machine that sees it. Ctrl-C ends the watching, not the run.
"""

import math
import shutil
import sys
import time
from collections.abc import Sequence

from jaxppo.cli.command import OneLineParser
from jaxppo.cli.watching import View, Watched
from jaxppo.errors import ConfigError

EVERY = 2.0


def main(arguments: Sequence[str]) -> None:
    parser = OneLineParser("watch", __doc__)
    parser.add_argument("run", metavar="RUN", help="folder")
    parser.add_argument(
        "--every", default=str(EVERY), metavar="S", help=f"seconds between two looks (default: {EVERY:g})"
    )
    parser.add_argument("--once", action="store_true", help="look once")
    known = parser.parse_args(arguments)
    every, watched = _seconds(known.every), Watched(known.run)
    shown: list[str] = []
    while True:
        view = watched.look()
        shown = _show(view, shown)
        if view.over or known.once:
            break
        time.sleep(every)
    if view.state == "interrupted":
        print(f"nothing writes there; {watched.remedy}")


def _show(view: View, shown: list[str]) -> list[str]:
    """Prints a view: in the place of the one before on a terminal, else where it is another."""
    lines = list(view.lines)
    if sys.stdout.isatty():
        columns = shutil.get_terminal_size().columns
        title, *rest = lines  # a folder and its state: the end says more
        lines = [title[1 - columns :], *(line[: columns - 1] for line in rest)]
        above = f"\x1b[{len(shown)}F\x1b[J" if shown else ""
        print(above + "\n".join(lines), flush=True)
    elif lines != shown:
        print("\n".join(lines), flush=True)
    return lines


def _seconds(text: str) -> float:
    """Seconds between two looks."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0.1 <= found <= 3600:
        raise ConfigError(f"--every is {text!r}; it must be seconds, from 0.1 to 3600")
    return found
