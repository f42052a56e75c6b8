from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from fst_agents.errors import ServingError
from fst_agents.serving import guardian, vllm_settings
from fst_agents.serving.vllm_process import VllmServer
from fst_agents.serving.vllm_settings import (
    ServerSettings,
    choose_port,
    command,
    environment,
    reachable,
    served_rank,
)

FAMILY = (
    "import subprocess, sys, time;"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
    "print(child.pid, flush=True); time.sleep(600)"
)
"""A server with one worker, whose pid it prints."""


def settings(folder: Path, model: str = "m", **changes: Any) -> ServerSettings:
    options: dict[str, Any] = {"accelerator": False, **changes}
    return ServerSettings(model, folder, **options)


ADDRESS = ["--uds", "somewhere"]


def gone(pid: int, within: float = 15.0) -> bool:
    deadline = time.monotonic() + within
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not psutil.pid_exists(pid)


def guarded(scratch: Path) -> tuple[subprocess.Popen[str], int]:
    """A guardian over :data:`FAMILY`, and the pid of the worker."""
    log = scratch.with_name("log")
    process = subprocess.Popen(
        [sys.executable, guardian.__file__, str(scratch), str(log), sys.executable, "-c", FAMILY],
        stdin=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return process, int(first_line(log))


def first_line(log: Path, within: float = 60.0) -> str:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if log.exists() and "\n" in (text := log.read_text()):
            return text.partition("\n")[0]
        time.sleep(0.05)
    raise AssertionError(f"{log}: nothing was written within {within} s")


def test_the_command_line_has_what_exact_logprobs_need_and_no_key(tmp_path: Path) -> None:
    line = " ".join(command(settings(tmp_path, lora_rank=9, extra_args=("--x",)), "n", ADDRESS))
    for part in (
        "--model m --uds somewhere --served-model-name n",
        "--middleware fst_agents.serving.vllm_guard.KeyGuard",
        "--generation-config vllm --logprobs-mode processed_logprobs",
        "--worker-extension-cls fst_agents.serving.vllm_worker.SyncExtension",
        "--enable-lora --max-lora-rank 16",
        "--no-enable-chunked-prefill",
    ):
        assert part in line
    assert line.endswith("--x")
    assert "api-key" not in line
    assert "--trust-remote-code" not in line
    given = environment(settings(tmp_path), tmp_path, "secret")
    assert given["VLLM_API_KEY"] == "secret"
    assert given["VLLM_SERVER_DEV_MODE"] == "1"


def test_a_public_server_is_started_without_what_updates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the user's own environment would open it."""
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    monkeypatch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "True")
    options = settings(tmp_path, public=True, lora_rank=8, adapter=tmp_path / "a", tokenizer="t")
    given = environment(options, tmp_path, "secret")
    assert given["VLLM_SERVER_DEV_MODE"] == given["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "0"
    line = " ".join(command(options, "n", ADDRESS))
    assert "--middleware fst_agents.serving.vllm_guard.PublicGuard" in line
    assert f"--lora-modules policy={tmp_path / 'a'}" in line
    assert "--tokenizer t" in line
    assert "--worker-extension-cls" not in line


def test_remote_code_has_to_be_asked_for(tmp_path: Path) -> None:
    line = command(settings(tmp_path, trust_remote_code=True), "n", ADDRESS)
    assert "--trust-remote-code" in line


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]")],
)
def test_how_a_server_is_reached_from_its_own_machine(host: str, url: str) -> None:
    assert reachable(host) == url


def test_without_adapters_the_server_is_not_told_of_them(tmp_path: Path) -> None:
    assert "--enable-lora" not in command(settings(tmp_path), "n", ADDRESS)


def test_an_accelerator_has_its_own_flags(tmp_path: Path) -> None:
    line = command(settings(tmp_path, accelerator=True), "n", ADDRESS)
    assert "--gpu-memory-utilization" in line
    assert "--enforce-eager" not in line


@pytest.mark.parametrize(
    ("accelerator", "cores", "threads"),
    [(False, 1, "1"), (False, 2, "1"), (False, 8, "7"), (False, 9, None), (True, 2, None)],
)
def test_a_cpu_compiles_nothing_and_few_cores_have_engine_and_worker_in_one_process(
    accelerator: bool,
    cores: int,
    threads: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vllm_settings, "usable_cores", lambda: cores)
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "OMP_NUM_THREADS", "TORCH_COMPILE_DISABLE"):
        monkeypatch.delenv(name, raising=False)
    given = environment(settings(tmp_path, accelerator=accelerator), tmp_path, "secret")
    assert given.get("OMP_NUM_THREADS") == threads
    assert given.get("VLLM_ENABLE_V1_MULTIPROCESSING") == (None if threads is None else "0")
    assert given.get("TORCH_COMPILE_DISABLE") == (None if accelerator else "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # the user knows better
    assert environment(settings(tmp_path), tmp_path, "secret")["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(("rank", "served"), [(1, 1), (2, 8), (8, 8), (33, 64)])
def test_a_rank_is_served_by_the_next_that_vllm_has(rank: int, served: int) -> None:
    assert served_rank(rank) == served


def test_a_rank_beyond_vllm_is_refused() -> None:
    with pytest.raises(ServingError, match="513"):
        served_rank(513)


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServingError, match=str(port)):
            choose_port(port)
    assert choose_port(port) == port


def test_an_address_that_the_machine_has_not_is_named() -> None:
    with pytest.raises(ServingError, match=r"on 192\.0\.2\.1 cannot be had"):
        choose_port(None, "192.0.2.1")


def test_a_taken_port_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ServingError, match=r"serve\.port"):
            VllmServer(settings(tmp_path, port=taken.getsockname()[1]))
    assert not (tmp_path / "vllm.log").exists()


def test_cutting_the_lifeline_ends_server_and_worker(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process, worker = guarded(scratch)
    assert process.stdin is not None
    process.stdin.close()
    process.wait(timeout=20)
    assert gone(worker)
    assert not scratch.exists()


def test_a_killed_server_leaves_no_worker(tmp_path: Path) -> None:
    process, worker = guarded(tmp_path / "none")
    os.kill(psutil.Process(worker).ppid(), signal.SIGKILL)
    assert process.wait(timeout=20) == -signal.SIGKILL % 256
    assert gone(worker)


def test_a_killed_owner_leaves_no_server(tmp_path: Path) -> None:
    """The owner is a process of its own, killed without a chance to clean up."""
    log = tmp_path / "log"
    code = (
        "import subprocess, sys, time;"
        f"p = subprocess.Popen([sys.executable, {guardian.__file__!r}, {str(tmp_path / 'none')!r},"
        f" {str(log)!r}, sys.executable, '-c', {FAMILY!r}], stdin=subprocess.PIPE,"
        " start_new_session=True);"
        "time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code])
    worker = int(first_line(log))
    family = [worker, psutil.Process(worker).ppid()]
    owner.kill()
    owner.wait()
    assert all(gone(pid) for pid in family)


def test_the_log_of_a_talkative_server_is_rotated_and_its_end_is_kept(tmp_path: Path) -> None:
    """Four parts of ten megabytes are said; the last three are there, lines whole and in order."""
    log = tmp_path / "vllm.log"
    line = "x" * 9_993
    code = f"[print(f'{{i:06d}}{line}') for i in range(4001)]; raise SystemExit(3)"
    guardian_of = [sys.executable, guardian.__file__, str(tmp_path / "none"), str(log)]
    process = subprocess.Popen([*guardian_of, sys.executable, "-c", code], stdin=subprocess.PIPE)
    assert process.wait(timeout=60) == 3
    parts = sorted(tmp_path.glob("vllm.log*"), reverse=True)
    assert [part.name for part in parts] == ["vllm.log.2", "vllm.log.1", "vllm.log"]
    assert all(part.stat().st_size <= guardian.LOG_BYTES for part in parts)
    numbers = [int(row[:6]) for part in parts for row in part.read_text().splitlines()]
    assert numbers == list(range(numbers[0], 4001))


@pytest.mark.vllm
def test_a_server_that_dies_early_says_why(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="--no-such-flag"):
        VllmServer(settings(tmp_path, str(tmp_path), extra_args=("--no-such-flag",)))
    lines = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    assert not [line for line in lines if str(tmp_path) in line]
