"""The page of a trader on a port of this machine."""

from __future__ import annotations

import http.server
import pathlib
import threading
from typing import Any

from jaxppo.errors import ConfigError

HOST = "127.0.0.1"


def serve_page(page: pathlib.Path, port: int) -> http.server.ThreadingHTTPServer:
    """Serves one file, and nothing else, to this machine alone, in a thread of its own.

    Args:
      page: the file.
      port: 0 takes a free one.

    Returns:
      The server; `server_port` is its port, `shutdown()` ends it.

    Raises:
      ConfigError: the port is taken.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answers with the page; anything else is not found."""
            try:
                content = page.read_bytes() if self.path in ("/", f"/{page.name}") else None
            except OSError:
                content = None
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content or b"not here")

        def log_message(self, *arguments: Any) -> None:
            """Says nothing."""

    try:
        server = http.server.ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError):
        raise ConfigError(f"--serve {port}: the port cannot be used; give another one, or 0 for a free one") from None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
