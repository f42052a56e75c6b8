"""A stand-in for other people's models: chat completions, OpenAI's way, on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Asked:
    """A request that came in."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def text(self) -> str:
        """The last message."""
        return self.body["messages"][-1]["content"]


Answer = str | None | tuple[int, str]
"""What the model says, or a status with the whole body of a reply."""


@dataclass
class ChatEndpoint:
    """``answer`` is asked for every reply; ``requests`` are those that came, in their order."""

    answer: Callable[[Asked], Answer]
    url: str = ""
    requests: list[Asked] = field(default_factory=list[Asked])


class _Server(ThreadingHTTPServer):
    request_queue_size = 256
    """Connections that may wait to be taken: all rollouts ask at once, and the standard library's 5
    would have the kernel turn some away where the machine is busy."""


@contextmanager
def chat_endpoint(answer: Callable[[Asked], Answer]) -> Generator[ChatEndpoint]:
    """An endpoint that listens while the block runs."""
    endpoint = ChatEndpoint(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = Asked(self.path, dict(self.headers), body)
            endpoint.requests.append(asked)
            said = endpoint.answer(asked)
            status, text = said if isinstance(said, tuple) else (200, completion(asked, said))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with _Server(("127.0.0.1", 0), Handler) as server:
        endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield endpoint
        finally:
            server.shutdown()
            thread.join()


def completion(asked: Asked, content: str | None) -> str:
    """The body of a reply that says ``content``."""
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    head = {"id": "1", "object": "chat.completion", "created": 0, "model": asked.body["model"]}
    return json.dumps({**head, "choices": [choice], "usage": usage})
