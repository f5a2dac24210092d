"""A look at a site: an HTTP server on this machine alone, with the two headers that give pages threads."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ugicm.runtime.errors import UsageError

ADDRESS = "127.0.0.1"
ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
"""With both, a page may share memory between threads."""


class Handler(SimpleHTTPRequestHandler):
    """Files of a folder, with the types that browsers insist on, and headers."""

    extensions_map = {  # noqa: RUF012  the base class declares it so
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".json": "application/json",
    }

    def __init__(self, *args: Any, headers: dict[str, str], **options: Any) -> None:
        self._sent = headers
        super().__init__(*args, **options)

    def end_headers(self) -> None:
        for name, value in self._sent.items():
            self.send_header(name, value)
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing: the command line has said where the page is."""


def server(folder: Path, port: int, headers: dict[str, str] | None = None) -> ThreadingHTTPServer:
    """A server of a folder; `serve_forever` starts it. Port 0 is any free one.

    Raises:
        UsageError: the port is taken.
    """
    sent = ISOLATION if headers is None else headers
    try:
        return ThreadingHTTPServer((ADDRESS, port), partial(Handler, directory=str(folder), headers=sent))
    except (OSError, OverflowError) as error:
        raise UsageError(f"port {port} cannot be used ({error}); give another with --port") from error
