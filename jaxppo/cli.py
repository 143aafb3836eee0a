"""What the scripts share: one-line errors and exit codes."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from envs import DataError
from jaxppo.config import ConfigError

USER_ERROR = 2
INTERRUPTED = 130


class OneLineParser(argparse.ArgumentParser):
    """An argument parser that reports a mistake as a `ConfigError` and whose options cannot be abbreviated."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Raises `ConfigError`."""
        raise ConfigError(f"{message}; see --help")


def run(main: Callable[[Sequence[str]], None], arguments: Sequence[str] | None = None) -> int:
    """Runs `main` and turns a user's mistake into one line on stderr.

    Returns:
      0; 2 for a `ConfigError` or `DataError`; 130 when interrupted where nothing is left to save.
    """
    try:
        main(sys.argv[1:] if arguments is None else arguments)
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def shard_of(text: str) -> tuple[int, int]:
    """`(I, N)` of "I/N".

    Raises:
      ConfigError: something else.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None:
        raise ConfigError(f"--shard is {text!r}; it must be I/N, for example 0/4")
    return int(found[1]), int(found[2])
