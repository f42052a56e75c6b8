"""A server that dies in the middle comes back once: a real process that stands in for vLLM."""

from __future__ import annotations

import http.client
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
import pytest
from checkpoints import save_adapter
from fake_server import Prompt
from stand_in import SCRIPT
from stand_in import command as stand_in_command

from fst_agents.errors import ServingError
from fst_agents.serving import vllm_process, vllm_revival
from fst_agents.serving.vllm_host import VllmHost
from fst_agents.serving.vllm_process import VllmServer
from fst_agents.serving.vllm_settings import FEW_CORES, ServerSettings, usable_cores
from fst_agents.types import Completion, Policy, Sampling

SAMPLING = Sampling(max_tokens=1)


def until(true: Callable[[], object], within: float = 20.0) -> None:
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_process, "command", stand_in_command)


@pytest.fixture
def host(stand_in: None, tied: Path, tmp_path: Path) -> Iterator[VllmHost]:
    settings = ServerSettings(str(tied), tmp_path, accelerator=False, lora_rank=8)
    host = VllmHost.start(Policy(str(tied)), settings)
    yield host
    host.close()


def server_of(host: VllmHost) -> VllmServer:
    assert host.server is not None
    return host.server


def kill(host: VllmHost) -> None:
    """SIGKILL to the server itself, not to its guardian."""
    (process,) = [p for p in map(psutil.Process, server_of(host).pids()) if serves(p)]
    process.kill()


def serves(process: psutil.Process) -> bool:
    return process.cmdline()[1:2] == [str(SCRIPT)]


def in_flight(host: VllmHost) -> Future[Completion]:
    future = host.submit((Prompt.WAIT, 1), SAMPLING)
    until(lambda: "waiting" in server_of(host).log.read_text())
    return future


def ask(host: VllmHost) -> Completion:
    return host.submit((1, 2), SAMPLING).result(timeout=20)


def starts(host: VllmHost) -> int:
    return server_of(host).log.read_text().count("started")


def post(host: VllmHost, path: str) -> None:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(server_of(host).url.removeprefix("unix:"))
    connection.request("POST", path, "{}", {"Authorization": f"Bearer {server_of(host).key}"})
    assert connection.getresponse().status == 200
    connection.close()


def test_a_death_fails_what_is_in_flight_and_the_next_request_is_served(
    host: VllmHost, tied: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = save_adapter(tied, tmp_path / "adapter", seed=1)
    host.update(Policy(str(tied), adapter=adapter, version=3))
    url, key = server_of(host).url, server_of(host).key
    future = in_flight(host)
    with caplog.at_level(logging.WARNING):
        kill(host)
        with pytest.raises(ServingError):
            future.result(timeout=10)
        assert ask(host).policy_version == 3
    assert (server_of(host).url, server_of(host).key) == (url, key)
    log = server_of(host).log
    assert log.read_text().count("loaded adapter") == 2
    assert starts(host) == 2
    assert str(log) in caplog.text
    assert key not in caplog.text + log.read_text()


def test_a_death_between_requests_is_not_noticed_by_them(host: VllmHost) -> None:
    kill(host)
    until(lambda: not server_of(host).running)
    assert ask(host).token_ids == (7,)


def test_a_server_whose_log_is_gone_is_restarted_too(host: VllmHost) -> None:
    kill(host)
    until(lambda: not server_of(host).running)
    server_of(host).log.unlink()
    assert "the log cannot be read" in str(server_of(host).death())
    assert ask(host).token_ids == (7,)


def test_a_death_during_an_update_does_not_lose_the_update(
    host: VllmHost, tied: Path, tmp_path: Path
) -> None:
    post(host, "/die_on_load")
    adapter = save_adapter(tied, tmp_path / "adapter", seed=1)
    host.update(Policy(str(tied), adapter=adapter, version=1))
    assert (ask(host).policy_version, starts(host)) == (1, 2)


def test_requests_behind_a_death_wait_for_the_restart(host: VllmHost) -> None:
    future = in_flight(host)
    kill(host)
    with pytest.raises(ServingError):
        future.result(timeout=10)
    futures = [host.submit((i, 2), SAMPLING) for i in range(1, 20)]
    assert {f.result(timeout=20).token_ids for f in futures} == {(7,)}
    assert starts(host) == 2


def test_the_second_death_is_final_and_says_so(host: VllmHost, tied: Path) -> None:
    for _ in range(2):
        kill(host)
        until(lambda: not server_of(host).running)
        future = host.submit((1, 2), SAMPLING)
        until(future.done)
    for _ in range(2):
        with pytest.raises(ServingError, match="died a second time in this run"):
            ask(host)
    with pytest.raises(ServingError, match="died a second time in this run"):
        host.update(Policy(str(tied), version=1))
    assert starts(host) == 2
    assert server_of(host).pids() == []


def test_a_restart_that_fails_says_why(host: VllmHost, tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    kill(host)
    until(lambda: not server_of(host).running)
    with pytest.raises(ServingError, match="it is broken"):
        ask(host)
    with pytest.raises(ServingError, match="it is broken"):
        ask(host)


def test_an_error_of_a_living_server_does_not_restart_it(host: VllmHost) -> None:
    with pytest.raises(ServingError, match="out of order"):
        host.submit((Prompt.ERROR, 1), SAMPLING).result(timeout=10)
    assert ask(host).token_ids == (7,)
    assert starts(host) == 1


def test_closing_during_a_restart_leaves_nothing(host: VllmHost, tmp_path: Path) -> None:
    (tmp_path / "delay").write_text("60")
    kill(host)
    until(lambda: not server_of(host).running)
    future = host.submit((1, 2), SAMPLING)
    until(lambda: starts(host) == 2)
    pids = server_of(host).pids()
    assert pids
    closing = threading.Thread(target=host.close)
    closing.start()
    closing.join(timeout=20)
    assert not closing.is_alive()
    with pytest.raises(ServingError, match="closed"):
        future.result(timeout=5)
    until(lambda: not any(map(psutil.pid_exists, pids)))


def test_a_server_that_hangs_is_ended_and_restarted(
    stand_in: None, tied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps its connections and answers none of them."""
    monkeypatch.setattr(vllm_revival, "PATIENCE", 1.0)
    settings = ServerSettings(str(tied), tmp_path / "other", accelerator=False, lora_rank=8)
    hasty = VllmHost.start(Policy(str(tied)), settings, request_timeout=1.0)
    try:
        (process,) = [p for p in map(psutil.Process, server_of(hasty).pids()) if serves(p)]
        process.suspend()
        with pytest.raises(ServingError, match="no answer within"):
            hasty.submit((1, 2), SAMPLING).result(timeout=20)
        assert hasty.submit((1, 2), SAMPLING).result(timeout=60).token_ids == (7,)
        assert starts(hasty) == 2
        assert not process.is_running()
    finally:
        hasty.close()


def test_a_stopped_server_does_not_begin_again(host: VllmHost) -> None:
    server_of(host).stop()
    with pytest.raises(ServingError, match="has been stopped"):
        server_of(host).begin()


def test_a_folder_that_somebody_else_made_is_not_used(host: VllmHost) -> None:
    """The name of the socket's folder is known once it has been used."""
    server = server_of(host)
    server.end()
    folder = Path(server.url.removeprefix("unix:")).parent
    folder.mkdir()
    with pytest.raises(ServingError, match="is there already"):
        server.begin()
    folder.rmdir()


def test_nobody_else_may_enter_the_folder_of_the_socket(host: VllmHost) -> None:
    path = Path(server_of(host).url.removeprefix("unix:"))
    assert path.is_socket()
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_cannot_connect(host: VllmHost) -> None:
    path = server_of(host).url.removeprefix("unix:")
    child = os.fork()
    if child == 0:  # as nobody; whatever happens, this process must not go on as a test
        code = 1
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            socket.socket(socket.AF_UNIX).connect(path)
        except PermissionError:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.fixture(scope="module")
def real(tied: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmHost]:
    """vLLM itself; its tests stand in the order of its life: it serves, dies, and dies again."""
    folder = tmp_path_factory.mktemp("real")
    settings = ServerSettings(str(tied), folder, accelerator=False, lora_rank=8)
    host = VllmHost.start(Policy(str(tied)), settings)
    yield host
    pids = server_of(host).pids()
    host.close()
    assert not any(map(psutil.pid_exists, pids))


@pytest.mark.vllm
def test_the_key_of_a_server_on_a_socket_is_in_no_command_line_and_no_log(real: VllmHost) -> None:
    server = server_of(real)
    lines = [" ".join(psutil.Process(pid).cmdline()) for pid in server.pids()]
    assert lines
    assert server.key not in "\n".join([*lines, server.log.read_text()])


@pytest.mark.vllm
def test_a_real_server_can_be_attached_with_its_key(real: VllmHost, tied: Path) -> None:
    server = server_of(real)
    with pytest.raises(ServingError, match="401"):
        VllmHost.attach(server.url, Policy(str(tied)), api_key="wrong")
    other = VllmHost.attach(server.url, Policy(str(tied)), api_key=server.key)
    completion = other.submit((1, 2), Sampling(max_tokens=3)).result(timeout=30)
    assert len(completion.token_ids) == 3
    assert other.context_length == real.context_length
    other.close()
    assert server.death() is None


@pytest.mark.vllm
def test_a_worker_has_a_process_where_there_are_many_cores(real: VllmHost) -> None:
    names = [psutil.Process(pid).name() for pid in server_of(real).pids()]
    assert any("VLLM::Engine" in name for name in names)
    assert any("VLLM::Worker" in name for name in names) == (usable_cores() > FEW_CORES)


@pytest.mark.vllm
def test_a_real_server_whose_engine_is_killed_comes_back(
    real: VllmHost, tied: Path, tmp_path: Path
) -> None:
    adapter = save_adapter(tied, tmp_path / "adapter", seed=1)
    real.update(Policy(str(tied), adapter=adapter, version=1))
    futures: list[Any] = [real.submit((i, 1), Sampling(max_tokens=200)) for i in range(64)]
    engine(server_of(real)).send_signal(signal.SIGKILL)
    started = time.monotonic()
    for future in futures:
        with pytest.raises(ServingError):
            future.result(timeout=20)
    assert time.monotonic() - started < 15
    completion = real.submit((1, 2), Sampling(max_tokens=3)).result(timeout=200)
    assert completion.policy_version == 1
    engine(server_of(real)).send_signal(signal.SIGKILL)
    with pytest.raises(ServingError):
        real.submit((1, 2), Sampling(max_tokens=3)).result(timeout=60)
    with pytest.raises(ServingError, match="second time"):
        real.submit((1, 2), Sampling(max_tokens=3)).result(timeout=60)


def engine(server: VllmServer) -> psutil.Process:
    (found,) = [p for p in map(psutil.Process, server.pids()) if "VLLM::EngineCore" in p.name()]
    return found
