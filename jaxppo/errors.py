"""Mistakes of users: each message is one line that names the thing, its value and what is allowed."""

from __future__ import annotations

LONGEST = 480
"""Characters of a message; of a longer one the middle is left out."""


class UserError(ValueError):
    """A mistake that the command line reports in one short line of printable characters, with exit code 2."""

    def __init__(self, message: str):
        super().__init__(_one_line(str(message)))


class ConfigError(UserError):
    """A mistake in a configuration or an option: names the key, the value and what is allowed."""


class DataError(UserError):
    """Prices that cannot be used as they are: names the file, symbol, row and finding, and the way out."""


def _one_line(text: str) -> str:
    """Text with single spaces, escapes for what a terminal would act on, and no more than `LONGEST` characters."""
    if len(text) > 4 * LONGEST:  # a value of a million characters
        text = f"{text[: 2 * LONGEST]} {text[-2 * LONGEST :]}"
    line = " ".join(text.split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 + 5 :]}"
