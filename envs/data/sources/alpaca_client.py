"""What broker and bars of Alpaca share: keys, and an end to waiting."""

from __future__ import annotations

import os
from typing import Any

from jaxppo.errors import ConfigError

KEY, SECRET = "APCA_API_KEY_ID", "APCA_API_SECRET_KEY"
TIMEOUT = 10.0
"""Seconds that an answer may take; alpaca-py waits for ever."""


def alpaca_keys(option: str) -> tuple[str, str]:
    """Key and secret that are in the environment.

    Args:
      option: of the command line that needs them.

    Raises:
      ConfigError: one is not set.
    """
    missing = [variable for variable in (KEY, SECRET) if not os.environ.get(variable)]
    if missing:
        raise ConfigError(f"{option}: {missing[0]} is not set in the environment")
    return os.environ[KEY], os.environ[SECRET]


def with_timeout(client: Any) -> Any:
    """A client whose requests end with an error when there is no answer.

    Args:
      client: of alpaca-py.
    """
    from requests.adapters import HTTPAdapter

    class Impatient(HTTPAdapter):
        def send(self, request: Any, **options: Any) -> Any:  # type: ignore[override]  # options as they come
            return super().send(request, **{**options, "timeout": options.get("timeout") or TIMEOUT})

    for scheme in ("http://", "https://"):
        client._session.mount(scheme, Impatient())
    return client


def said(error: Exception) -> str:
    """What an error says, in one line.

    Args:
      error: of a request.
    """
    return " ".join(str(error).split())[:200]
