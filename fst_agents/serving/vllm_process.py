"""Starting, guarding and stopping a real ``vllm serve``."""

from __future__ import annotations

import atexit
import contextlib
import http.client
import json
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from os import getsid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from fst_agents.errors import ServingError
from fst_agents.serving import guardian
from fst_agents.serving.vllm_settings import (
    LOOPBACK,
    PUBLIC_NAME,
    ServerSettings,
    choose_port,
    command,
    environment,
    reachable,
)

_TAIL = 20


class VllmServer:
    """A running server of ours: ``url``, ``key``, and ``name``, the base model's served name.

    ``url`` is ``unix:PATH``, a socket in a folder of ours that nobody else may enter, or
    ``http://…`` where the settings ask for a port. Every request needs the key
    (:mod:`fst_agents.serving.vllm_guard`), which reaches the server in its environment. The name
    is new for every server, so that another one on the same port cannot be mistaken for ours. The
    log is ``vllm.log`` in the settings' folder, rotated by the guardian. Ends with :meth:`stop`, at
    exit, or by its guardian when this process dies.

    Raises:
        ServingError: the port is taken, or the server died or was not ready in time; with the
            last lines of the log.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        # Not in the settings' folder: the server puts sockets there, whose paths must be short.
        self._scratch = Path(tempfile.gettempdir()) / f"fst-vllm-{secrets.token_hex(4)}"
        self._address, self.url = self._choose_address()
        self.key = secrets.token_hex(16) if settings.key is None else settings.key
        own_name = settings.public and settings.adapter is None
        self.name = PUBLIC_NAME if own_name else f"base-{secrets.token_hex(4)}"
        settings.folder.mkdir(parents=True, exist_ok=True)
        self.log = settings.folder / "vllm.log"
        for part in settings.folder.glob(f"{self.log.name}*"):
            part.unlink()
        self._lock = threading.Lock()
        self._stopped = False
        self._process = self._launch()
        atexit.register(self.stop)
        try:
            self._await_ready()
        except BaseException:  # Ctrl-C included: nothing may be left behind
            self.stop()
            raise

    @property
    def running(self) -> bool:
        """Whether the process has not ended; it may still be of no use."""
        return self._process.poll() is None

    def death(self) -> str | None:
        """What became of a server that no longer runs, with the end of its log."""
        code = self._process.poll()
        if code is None:
            return None
        return f"the vLLM server ended with code {code}; the end of {self.log}:\n{self.tail()}"

    def tail(self) -> str:
        """The last lines of the log, or why there are none."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            return f"(the log cannot be read: {error})"
        return "\n".join(text.splitlines()[-_TAIL:])

    def pids(self) -> list[int]:
        """Process ids of the guardian and everything under it."""
        return [p.pid for p in self._family()]

    def end(self) -> None:
        """End the server and all its children, and see to it that they are gone. Idempotent.

        Raises:
            ServingError: naming the processes that do not end.
        """
        family = self._family()
        if self._process.stdin is not None:
            self._process.stdin.close()  # the guardian sees its lifeline cut
        try:
            self._process.wait(timeout=3 * guardian.GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
        left = [p for p in {*family, *self._family()} if p.is_running()]
        for process in left:
            process.kill()
        _, alive = psutil.wait_procs(left, timeout=guardian.GRACE)
        shutil.rmtree(self._scratch, ignore_errors=True)
        if alive:
            raise ServingError(f"processes of the vLLM server do not end: {alive}")

    def begin(self) -> None:
        """Start again after :meth:`end`: same address, key and name, base weights, same log.

        Raises:
            ServingError: as when it is made; or it has been stopped, also by another thread.
        """
        with self._lock:
            if self._stopped:
                raise ServingError("the vLLM server has been stopped")
            self._process = self._launch()
        self._await_ready()

    def stop(self) -> None:
        """:meth:`end` it for good. Idempotent."""
        atexit.unregister(self.stop)
        with self._lock:
            self._stopped = True
        self.end()

    def _choose_address(self) -> tuple[list[str], str]:
        """Where to listen, as options of the server and as our URL."""
        host, port = self._settings.host, self._settings.port
        if host is None and port is None:
            path = self._scratch / "socket"
            return ["--uds", str(path)], f"unix:{path}"
        host = host or LOOPBACK
        port = choose_port(port, host)
        return ["--host", host, "--port", str(port)], f"http://{reachable(host)}:{port}"

    def _launch(self) -> subprocess.Popen[bytes]:
        try:
            self._scratch.mkdir(mode=0o700)
        except FileExistsError as error:
            raise ServingError(
                f"{self._scratch} is there already; expected to make it, for this user alone. "
                "Somebody else may have, to be spoken to in the server's place"
            ) from error
        script = [sys.executable, guardian.__file__, str(self._scratch), str(self.log.absolute())]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*script, *command(self._settings, self.name, self._address)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._settings.folder,
                env=environment(self._settings, self._scratch, self.key),
                start_new_session=True,
            )

    def _family(self) -> list[psutil.Process]:
        """Everything in the guardian's session, orphans included."""
        return [p for p in psutil.process_iter() if _session(p.pid) == self._process.pid]

    def _await_ready(self) -> None:
        """Wait for one token: health alone says too little."""
        deadline = time.monotonic() + self._settings.start_timeout
        token = {"model": self.name, "prompt": [1], "max_tokens": 1}
        while True:
            death = self.death()
            if death is not None:
                raise ServingError(death)
            try:
                self._ask("GET", "/health", 2)
                self._ask("POST", "/v1/completions", 60, token)
                return
            except (OSError, http.client.HTTPException) as error:
                if time.monotonic() > deadline:
                    raise ServingError(
                        f"the vLLM server was not ready within {self._settings.start_timeout} s "
                        f"(serve.start_timeout): {error}; the end of {self.log}:\n{self.tail()}"
                    ) from error
                time.sleep(0.2)

    def _ask(
        self, method: str, path: str, timeout: float, body: dict[str, Any] | None = None
    ) -> None:
        """One request, sent past any proxy: the key is for the server alone.

        Raises:
            OSError, HTTPException: no answer, or another than 200.
            ServingError: whoever answers does not know the key.
        """
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        with contextlib.closing(_connection(self.url, timeout)) as connection:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read(300)
        if answer.status == 401:
            raise ServingError(f"{self.url}: another server is there; it refuses our key")
        if answer.status != 200:
            raise OSError(f"{path}: status {answer.status}: {text!r}")


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _connection(url: str, timeout: float) -> http.client.HTTPConnection:
    if url.startswith("unix:"):
        return _UnixConnection(url.removeprefix("unix:"), timeout)
    return http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout)


def _session(pid: int) -> int | None:
    try:
        return getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None
