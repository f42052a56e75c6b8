"""A small HTTP server whose answers a test decides; as a script, a stand-in for a vLLM server.

``python fake_server.py --uds PATH --served-model-name NAME`` answers what a host asks: token 7
with log-probability -0.5 for every prompt, and 404 for a model it has not been given. Prompts that
begin with a number of :class:`Prompt` are answered in that way. Every adapter it loads is a line
of its log.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from enum import IntEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Reply = tuple[int, str]


class Handler(BaseHTTPRequestHandler):
    """Answers every path with what ``replies`` makes of the sent JSON; 404 otherwise."""

    replies: dict[str, Callable[[Any], Reply]]
    key: str | None = None
    """Where it is set, whoever does not send it gets a 401."""
    location: str | None = None
    """Where redirects point to."""

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        status, text = (
            (401, "Unauthorized")
            if self.key is not None and self.headers["Authorization"] != f"Bearer {self.key}"
            else self.replies[path](json.loads(sent or b"null"))
            if path in self.replies
            else (404, "Not Found")
        )
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if status == 307:
            self.send_header("Location", str(self.location))
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def address_string(self) -> str:
        return "peer"  # a Unix socket's peer has no address


class Prompt(IntEnum):
    """First token of a prompt that is answered in a way of its own."""

    WAIT = 99
    ERROR = 98


def choice(index: int, prompt: list[int]) -> dict[str, Any]:
    """One sampled token, as vLLM reports it."""
    return {
        "index": index,
        "token_ids": [7],
        "prompt_token_ids": prompt,
        "logprobs": {"token_logprobs": [-0.5]},
        "finish_reason": "length",
    }


class Fake:
    """What the stand-in has loaded, and its answers; after ``/die_on_load`` it loads no more."""

    def __init__(self, name: str) -> None:
        self.names = {name}
        self.deadly = False

    def replies(self) -> dict[str, Callable[[Any], Reply]]:
        return {
            "/health": lambda _: (200, ""),
            "/v1/models": lambda _: (
                200,
                json.dumps({"data": [{"id": n, "max_model_len": 256} for n in self.names]}),
            ),
            "/v1/completions": self.complete,
            "/v1/load_lora_adapter": self.load,
            "/v1/unload_lora_adapter": lambda _: (200, "{}"),
            "/die_on_load": self.arm,
        }

    def arm(self, _: Any) -> Reply:
        self.deadly = True
        return 200, "{}"

    def load(self, sent: Any) -> Reply:
        if self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        self.names.add(sent["lora_name"])
        print("loaded", Path(sent["lora_path"]).name, flush=True)
        return 200, "{}"

    def complete(self, sent: Any) -> Reply:
        if sent["model"] not in self.names:
            return 404, f"no model {sent['model']}"
        prompts = sent["prompt"] if isinstance(sent["prompt"][0], list) else [sent["prompt"]]
        if prompts[0][0] == Prompt.WAIT:
            print("waiting", flush=True)
            time.sleep(60)
        if prompts[0][0] == Prompt.ERROR:
            return 500, "out of order"
        repeated = [p for p in prompts for _ in range(sent.get("n", 1))]
        choices = [choice(i, p) for i, p in enumerate(repeated)]
        return 200, json.dumps({"model": sent["model"], "choices": choices})


class UnixServer(ThreadingHTTPServer):
    address_family = socket.AF_UNIX
    daemon_threads = True

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "localhost", 0

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, _ = self.socket.accept()
        return connection, ("peer", 0)


def main() -> None:
    """Serve until killed. In the working directory, ``delay`` holds seconds to wait before that,
    and ``broken`` keeps it from starting."""
    options = argparse.ArgumentParser()
    options.add_argument("--uds")
    options.add_argument("--served-model-name")
    asked, _ = options.parse_known_args()
    print("started", flush=True)
    if Path("broken").exists():
        sys.exit("it is broken")
    if Path("delay").exists():
        time.sleep(float(Path("delay").read_text()))
    Handler.key = os.environ["VLLM_API_KEY"]
    Handler.replies = Fake(asked.served_model_name).replies()
    UnixServer(asked.uds, Handler).serve_forever()


if __name__ == "__main__":
    main()
