"""What the scripts share: one-line errors and exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from envs import DataError
from jaxppo.config import ConfigError

USER_ERROR = 2


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line on stderr, exit code 2, and whose options cannot be abbreviated."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Ends the program."""
        self.exit(USER_ERROR, f"error: {message}\n")


def run(main: Callable[[Sequence[str]], None], arguments: Sequence[str] | None = None) -> int:
    """Runs `main` and turns a user's mistake into one line on stderr.

    Returns:
      0, or 2 for a `ConfigError` or `DataError`.
    """
    try:
        main(sys.argv[1:] if arguments is None else arguments)
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    return 0
