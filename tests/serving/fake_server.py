"""A small HTTP server whose answers a test decides."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

Reply = tuple[int, str]


class Handler(BaseHTTPRequestHandler):
    """Answers every path with what ``replies`` makes of the sent JSON; 404 otherwise."""

    replies: dict[str, Callable[[Any], Reply]]

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        status, text = (
            self.replies[path](json.loads(sent or b"null"))
            if path in self.replies
            else (404, "Not Found")
        )
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""
