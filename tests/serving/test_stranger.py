"""Somebody without the key, or with it but from outside: what a server of ours tells them."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import typer
from checkpoints import save_adapter
from hypothesis import given
from hypothesis import strategies as st

from experiments.command import command as fst_command
from experiments.serve import describe, public_settings, serve_until_interrupted
from fst_agents.errors import ConfigError
from fst_agents.run_file import parse
from fst_agents.serving.vllm_guard import KEY_VARIABLE, PUBLIC, KeyGuard, PublicGuard
from fst_agents.serving.vllm_host import VllmHost
from fst_agents.serving.vllm_process import VllmServer
from fst_agents.serving.vllm_settings import ServerSettings, choose_port, is_loopback
from fst_agents.types import Policy

KEY = "a-key-for-the-tests-of-the-guard"
ADMINISTRATIVE = {
    ("POST", "/collective_rpc"),
    ("POST", "/reset_prefix_cache"),
    ("POST", "/update_weights"),
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/unload_lora_adapter"),
    ("POST", "/adapters"),
    ("DELETE", "/adapters/{adapter_name}"),
    ("POST", "/sleep"),
    ("POST", "/pause"),
    ("POST", "/invocations"),
    ("GET", "/server_info"),
}
"""Some that the real server is known to have: were they gone, these tests would show nothing."""


class App:
    """Remembers what reached it."""

    def __init__(self) -> None:
        self.reached: list[str] = []

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        self.reached.append(scope["type"])


def knock(
    guard: type[KeyGuard], headers: list[tuple[bytes, bytes]], path: str = "/", kind: str = "http"
) -> tuple[list[str], list[dict[str, Any]]]:
    """What reached the app behind the guard, and what the guard itself sent."""
    app, sent = App(), list[dict[str, Any]]()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("the guard reads no body")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, KEY)
        scope = {"type": kind, "path": path, "method": "OPTIONS", "headers": headers}
        asyncio.run(guard(app)(scope, receive, send))
    return app.reached, sent


HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"authorization", b"x-api-key", b"api-key", b"cookie"]),
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from(
                [b"Bearer ", b"Bearer", KEY.encode(), b"Basic " + KEY.encode()]
                + [b"Bearer " + k.encode() for k in (KEY + "x", KEY[:-1], KEY.upper(), f" {KEY}")]
            ),
        ),
    ),
    max_size=3,
)


@given(HEADERS, st.text(max_size=30), st.sampled_from([KeyGuard, PublicGuard]))
def test_whoever_does_not_send_the_key_is_refused(
    headers: list[tuple[bytes, bytes]], path: str, guard: type[KeyGuard]
) -> None:
    reached, sent = knock(guard, headers, path)
    assert reached == []
    assert sent[0]["status"] == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_whoever_sends_it_passes(scheme: str) -> None:
    headers = [(b"authorization", f"{scheme} {KEY}".encode())]
    assert knock(KeyGuard, headers, "/collective_rpc") == (["http"], [])
    assert knock(KeyGuard, headers, kind="websocket") == (["websocket"], [])


def test_two_keys_are_none() -> None:
    """Whoever stands between might look at the other one."""
    headers = [(b"authorization", f"Bearer {KEY}".encode())] * 2
    assert knock(KeyGuard, headers)[0] == []


def test_a_websocket_is_closed_before_it_opens() -> None:
    assert knock(KeyGuard, [], kind="websocket") == (
        [],
        [{"type": "websocket.close", "code": 1008}],
    )


def test_the_start_of_the_server_is_no_request() -> None:
    assert knock(KeyGuard, [], kind="lifespan")[0] == ["lifespan"]


@given(st.one_of(st.text(max_size=30), st.sampled_from(sorted(p for _, p in ADMINISTRATIVE))))
def test_a_public_server_has_only_what_samples(path: str) -> None:
    headers = [(b"authorization", f"Bearer {KEY}".encode())]
    reached, sent = knock(PublicGuard, headers, path)
    assert reached == (["http"] if path in PUBLIC else [])
    assert path in PUBLIC or sent[0]["status"] == 404
    assert not PUBLIC & {p for _, p in ADMINISTRATIVE}
    assert knock(PublicGuard, headers, path, "websocket")[0] == []


def test_a_server_without_a_key_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, ""):
        if value is None:
            monkeypatch.delenv(KEY_VARIABLE, raising=False)
        else:
            monkeypatch.setenv(KEY_VARIABLE, value)
        with pytest.raises(RuntimeError, match=KEY_VARIABLE):
            KeyGuard(App())


@pytest.mark.parametrize(
    "argument",
    [
        "--host",
        "--host=0.0.0.0",
        "--ho",
        "--api_key",
        "--trust_remote_code",
        "--middleware",
        "--ud",
        "--config=own.yaml",
        "--worker-extension-cls",
        "--grpc-port",
    ],
)
def test_a_run_file_cannot_open_the_server(argument: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"serve\.extra_args"):
        ServerSettings("m", tmp_path, accelerator=False, extra_args=("--seed", "1", argument))


def test_other_arguments_are_the_users_own(tmp_path: Path) -> None:
    given = ("--seed", "1", "--kv-cache-dtype=auto", "-O3", "--hf-overrides", "{}", "--", "x")
    assert ServerSettings("m", tmp_path, False, extra_args=given).extra_args == given


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *((host, True) for host in ("127.0.0.1", "127.3.2.1", "localhost", "::1", None)),
        *((host, False) for host in ("0.0.0.0", "::", "10.0.0.7", "a.name", "")),
    ],
)
def test_what_is_loopback(host: str | None, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("changes", [{}, {"key": KEY}, {"public": True}])
def test_no_server_is_opened_half_locked(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0"):
        ServerSettings("m", tmp_path, accelerator=False, host="0.0.0.0", **changes)


@pytest.mark.parametrize("key", ["", "short", "a key with spaces in it", "kéy" * 9])
def test_a_weak_key_is_refused_and_not_repeated(key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected at least 16") as caught:
        ServerSettings("m", tmp_path, accelerator=False, key=key)
    assert not key or key not in str(caught.value)


def test_settings_do_not_show_the_key(tmp_path: Path) -> None:
    assert KEY not in repr(ServerSettings("m", tmp_path, accelerator=False, key=KEY))


@pytest.mark.parametrize(
    ("host", "variable", "message"),
    [
        ("0.0.0.0", None, "--api-key-env"),
        ("0.0.0.0", "NO_SUCH_KEY", "NO_SUCH_KEY"),
        ("127.0.0.1", "NO_SUCH_KEY", "NO_SUCH_KEY"),
    ],
)
def test_serving_the_network_without_a_key_is_a_wrong_request(
    host: str, variable: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as caught, fst_command(False):
        serve_until_interrupted("micro", None, host, variable)
    assert caught.value.exit_code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def ask(
    url: str, method: str, path: str, headers: Mapping[str, str] | None = None, body: str = "{}"
) -> tuple[int, str]:
    """Status and text; any body, since a stranger is to be refused before it is read."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
    try:
        sent = {"Content-Type": "application/json", **(headers or {})}
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def routes(server: VllmServer) -> set[tuple[str, str]]:
    """Everything that the server says it has, and what its framework adds unsaid."""
    status, text = ask(server.url, "GET", "/openapi.json", bearer(server.key))
    assert status == 200
    listed = {
        (method.upper(), path)
        for path, methods in json.loads(text)["paths"].items()
        for method in methods
    }
    unsaid = {("GET", p) for p in ("/docs", "/redoc", "/openapi.json", "/metrics", "/no/such")}
    return listed | unsaid | {("OPTIONS", path) for _, path in listed}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def strangers(key: str) -> list[dict[str, str]]:
    return [
        {},
        bearer("wrong"),
        bearer(key[:-1]),
        {"Authorization": key},
        {"X-Api-Key": key},
        {"Api-Key": key},
        {"Cookie": f"key={key}"},
    ]


def traces(server: VllmServer, folder: Path) -> str:
    """Everything that others might read: command lines, the log, the run's folder."""
    lines = [" ".join(psutil.Process(pid).cmdline()) for pid in server.pids()]
    files = [f.read_bytes().decode(errors="replace") for f in folder.rglob("*") if f.is_file()]
    return "\n".join([*lines, *files])


@pytest.fixture(scope="module")
def host(tied: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmHost]:
    """On a port, where anybody on the machine can knock; with adapters, for their routes."""
    folder, port = tmp_path_factory.mktemp("run"), choose_port(None)
    settings = ServerSettings(str(tied), folder, accelerator=False, port=port, lora_rank=8)
    host = VllmHost.start(Policy(str(tied)), settings)
    yield host
    host.close()


@pytest.mark.vllm
def test_a_stranger_gets_nothing_from_any_route(host: VllmHost) -> None:
    server = host.server
    assert server is not None
    there = routes(server)
    assert there >= ADMINISTRATIVE
    for method, path in sorted(there):
        for headers in strangers(server.key):
            status, text = ask(server.url, method, path, headers)
            assert status == 401, (method, path, status)
            assert server.key not in text
    assert ask(server.url, "GET", "/health", bearer(server.key))[0] == 200
    assert server.running


@pytest.mark.vllm
def test_a_stranger_gets_no_websocket(host: VllmHost) -> None:
    assert host.server is not None
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    for path in ("/v1/realtime", "/"):
        assert ask(host.server.url, "GET", path, upgrade, "")[0] in (401, 403)


@pytest.mark.vllm
def test_the_key_is_nowhere_but_in_the_environment(host: VllmHost) -> None:
    server = host.server
    assert server is not None
    for headers in strangers(server.key):  # what a refused request leaves in the log
        ask(server.url, "POST", "/v1/completions", headers)
    found = traces(server, server.log.parent)
    assert "vllm_guard.KeyGuard" in found
    assert server.key not in found
    listening = [
        c.laddr.ip
        for pid in server.pids()
        for c in psutil.Process(pid).net_connections("inet")
        if c.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) == {"127.0.0.1"}


@pytest.fixture(scope="module")
def public(
    tied: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[VllmServer, Path]]:
    """What ``fst serve --host 0.0.0.0`` starts for a run with an adapter."""
    folder = tmp_path_factory.mktemp("public")
    adapter = save_adapter(tied, tmp_path_factory.mktemp("adapter"), seed=1)
    policy = Policy(str(tied), adapter=adapter, version=1)
    config = parse({"policy": {"dtype": "float32"}})
    server = VllmServer(public_settings(config, policy, folder, "0.0.0.0", None, KEY))
    yield server, folder
    server.stop()


@pytest.mark.vllm
def test_a_public_server_samples_for_whoever_has_the_key(public: tuple[VllmServer, Path]) -> None:
    server, _ = public
    body = json.dumps({"model": "policy", "prompt": "1 2", "max_tokens": 2})
    assert ask(server.url, "POST", "/v1/completions", bearer(KEY), body)[0] == 200
    chat = {"model": "policy", "messages": [{"role": "user", "content": "1"}], "max_tokens": 2}
    assert ask(server.url, "POST", "/v1/chat/completions", bearer(KEY), json.dumps(chat))[0] == 200
    assert ask(server.url, "POST", "/v1/completions", bearer("wrong"), body)[0] == 401
    assert ask(server.url, "GET", "/v1/models")[0] == 401


@pytest.mark.vllm
def test_a_public_server_cannot_be_changed_even_with_the_key(
    host: VllmHost, public: tuple[VllmServer, Path]
) -> None:
    assert host.server is not None
    server, folder = public
    for method, path in sorted(routes(host.server)):
        if path not in PUBLIC:
            assert ask(server.url, method, path, bearer(KEY))[0] == 404, (method, path)
            assert ask(server.url, method, path)[0] == 401, (method, path)
    found = traces(server, folder)
    assert "vllm_guard.PublicGuard" in found
    assert KEY not in found
    assert not any(KEY in line for line in describe(server, "0.0.0.0", "NAME"))


@pytest.mark.vllm
def test_a_client_with_the_key_is_no_stranger(host: VllmHost, tied: Path) -> None:
    """Attaching needs the administrative routes, on a port as on a socket."""
    assert host.server is not None
    other = VllmHost.attach(host.server.url, Policy(str(tied)), api_key=host.server.key)
    other.close()
