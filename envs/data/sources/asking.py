"""Asking over the network: again after a pause where that may help, and one line where it does not."""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

from jaxppo.errors import DataError

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError)
"""What clients raise where there is no answer, or none in the form that they know."""
PAUSES, LIMITED_PAUSES = (1.0, 2.0, 4.0), (2.0, 5.0, 15.0, 30.0)
"""Seconds before a source is asked again that does not answer, or that says it was asked too often."""
UNRESOLVED = ("resolve", "getaddrinfo", "name or service", "nodename nor servname")
"""Words of a machine without a network, where asking again is no use."""


class Unavailable(Exception):
    """A source that did not answer, or answered that it cannot now.

    Args:
      message: what it said.
      limited: whether it was asked too often.
    """

    def __init__(self, message: str, limited: bool = False):
        super().__init__(message)
        self.limited = limited


def asked(ask: Callable[[], Answer], source: str, sleep: Callable[[float], None] | None = None) -> Answer:
    """What a source answers, asked again with growing pauses while it does not.

    Args:
      ask: asks once; raises `Unavailable` where asking again may help.
      source: its name, for messages.
      sleep: waits so many seconds.

    Raises:
      DataError: it never answered; says whether the machine seems to be offline.
    """
    tries = 0
    while True:
        tries += 1
        try:
            return ask()
        except Unavailable as error:
            said = " ".join(str(error).split())
            text = said[:160]
            if not error.limited and any(word in said.lower() for word in UNRESOLVED):
                raise DataError(f"{source}: cannot be reached; is this machine offline? ({text})") from None
            pauses = LIMITED_PAUSES if error.limited else PAUSES
            if tries > len(pauses):
                what = "was asked too often" if error.limited else "gives no usable answer"
                raise DataError(f"{source}: {what} ({text}), {tries} times; try again later") from None
            logger.info("%s: %s; asked again in %g s", source, text, pauses[tries - 1])
            (sleep or time.sleep)(pauses[tries - 1])


def extra(module: str, name: str, source: str) -> ModuleType:
    """Imports a package that an extra installs.

    Args:
      module: to import.
      name: of the extra.
      source: that needs it, for the message.

    Raises:
      DataError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise DataError(f"{source} needs the extra {name!r}: pip install 'jaxppo[{name}]'") from None
