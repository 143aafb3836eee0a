"""Mistakes of users: each message is one line that names the thing, its value and what is allowed."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake that the command line reports in one line, with exit code 2."""

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).split()))


class ConfigError(UserError):
    """A mistake in a configuration or an option: names the key, the value and what is allowed."""


class DataError(UserError):
    """Prices that cannot be used as they are: names the file, symbol, row and finding, and the way out."""
