"""The result of a check."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """What a check found.

    Attributes:
      level: `ok`; `warn` for what works and deserves a look; `fix` for what keeps jaxppo from working.
      about: what was checked, in a word.
      text: what there is, and what to do about it, in a line.
    """

    level: Literal["ok", "warn", "fix"]
    about: str
    text: str

    def __str__(self) -> str:
        """The line that is printed."""
        return f"{self.level:<6}{self.about:<10}{self.text}"
