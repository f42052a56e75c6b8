"""Updates and closing of the vLLM host, against a server that fails on purpose."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoints import save_adapter, save_perturbed
from fake_server import Handler, Reply

from fst_agents.errors import ServingError
from fst_agents.serving.vllm_client import EXTENSION
from fst_agents.serving.vllm_host import VllmHost
from fst_agents.serving.vllm_revival import LastingWeights
from fst_agents.types import Policy, Sampling

CONFIG = {
    "model_config": {
        "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm",
        "max_model_len": 256,
    },
    "parallel_config": {"worker_extension_cls": EXTENSION},
}


class Server:
    """Plays a healthy server; ``bad`` holds the folders it cannot load, ``calls`` what came."""

    def __init__(self) -> None:
        self.bad: set[Path] = set()
        self.calls: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        Handler.replies |= {
            "/server_info": lambda _: (200, json.dumps({"vllm_config": CONFIG})),
            "/v1/models": lambda _: (200, json.dumps({"data": [{"id": "m", "parent": None}]})),
            "/reset_prefix_cache": lambda _: (200, json.dumps({"success": True})),
            "/collective_rpc": self.sync,
            "/v1/load_lora_adapter": self.load,
            "/v1/unload_lora_adapter": self.unload,
            "/v1/completions": self.complete,
        }

    def sync(self, sent: Any) -> Reply:
        folder = Path(sent["kwargs"]["path"])
        self.calls.append(f"sync {folder.name}")
        failed = folder in self.bad
        return 200, json.dumps({"results": [{"ok": not failed, "error": "bad" * failed}]})

    def load(self, sent: Any) -> Reply:
        self.calls.append(f"load {Path(sent['lora_path']).name}")
        return (400, "rank") if Path(sent["lora_path"]) in self.bad else (200, "{}")

    def unload(self, sent: Any) -> Reply:
        self.calls.append("unload")
        return 200, "{}"

    def complete(self, sent: Any) -> Reply:
        self.gate.wait(20)
        if [66] in sent["prompt"]:
            return 400, "no 66 here"
        choices = [
            {
                "index": i,
                "token_ids": [7],
                "prompt_token_ids": prompt,
                "logprobs": {"token_logprobs": [-0.5]},
                "finish_reason": "length",
            }
            for i, prompt in enumerate(p for p in sent["prompt"] for _ in range(sent["n"]))
        ]
        return 200, json.dumps({"model": sent["model"], "choices": choices})


@pytest.fixture
def server(url: str) -> Server:
    return Server()


@pytest.fixture
def host(url: str, server: Server, tied: Path) -> Iterator[VllmHost]:
    host = VllmHost.attach(url, Policy(str(tied)))
    server.calls.clear()
    yield host
    server.gate.set()
    host.close()


def test_an_attached_server_is_given_the_base_weights_first(
    url: str, server: Server, tied: Path
) -> None:
    """Somebody else may have left other weights in it."""
    VllmHost.attach(url, Policy(str(tied))).close()
    assert server.calls == [f"sync {tied.name}"]


def test_a_failed_load_brings_the_former_weights_back(
    host: VllmHost, server: Server, tied: Path, tmp_path: Path
) -> None:
    weights = save_perturbed(tied, tmp_path / "bad", seed=1)
    server.bad.add(weights)
    with pytest.raises(ServingError, match="could not load"):
        host.update(Policy(str(tied), weights=weights, version=1))
    assert server.calls == ["sync bad", f"sync {tied.name}"]
    assert host.submit((1,), Sampling()).result(timeout=5).policy_version == 0


def test_an_adapter_that_fails_after_full_weights_brings_those_back(
    host: VllmHost, server: Server, tied: Path, tmp_path: Path
) -> None:
    """The base model had to be loaded for the adapter already."""
    host.update(Policy(str(tied), weights=save_perturbed(tied, tmp_path / "full", 1), version=1))
    adapter = save_adapter(tied, tmp_path / "adapter", seed=1)
    server.bad.add(adapter)
    with pytest.raises(ServingError, match="rank"):
        host.update(Policy(str(tied), adapter=adapter, version=2))
    assert server.calls[1:] == [f"sync {tied.name}", "load adapter", "sync full"]
    assert host.submit((1,), Sampling()).result(timeout=5).policy_version == 1


def test_a_server_with_undefined_weights_serves_no_more(
    host: VllmHost, server: Server, tied: Path, tmp_path: Path
) -> None:
    weights = save_perturbed(tied, tmp_path, seed=1)
    server.bad |= {weights, tied}
    with pytest.raises(ServingError):
        host.update(Policy(str(tied), weights=weights, version=1))
    with pytest.raises(ServingError, match="undefined"):
        host.submit((1,), Sampling()).result(timeout=5)
    with pytest.raises(ServingError, match="undefined"):
        host.update(Policy(str(tied)))


def test_an_adapter_is_unloaded_once_another_serves(
    host: VllmHost, server: Server, tied: Path, tmp_path: Path
) -> None:
    for version in (1, 2):
        adapter = save_adapter(tied, tmp_path / f"v{version}", seed=version)
        host.update(Policy(str(tied), adapter=adapter, version=version))
    assert server.calls == ["load v1", "load v2", "unload"]


def test_an_old_adapter_that_stays_loaded_does_not_undo_an_update(
    host: VllmHost,
    server: Server,
    tied: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    Handler.replies["/v1/unload_lora_adapter"] = lambda _: (500, "no")
    for version in (1, 2):
        adapter = save_adapter(tied, tmp_path / f"v{version}", seed=version)
        host.update(Policy(str(tied), adapter=adapter, version=version))
    assert host.policy.version == 2
    assert host.submit((1,), Sampling()).result(timeout=5).policy_version == 2
    assert "could not be unloaded" in caplog.text


def test_an_error_that_nobody_foresaw_hangs_nobody(
    host: VllmHost, tied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the thread that hands out the work: what waits fails, what comes later is refused."""

    async def broken(self: LastingWeights) -> bool:
        raise FileNotFoundError("nobody thought of this")

    monkeypatch.setattr(LastingWeights, "mend", broken)
    words = "serves no more since an error of its own: .*nobody thought of this"
    for _ in range(2):
        with pytest.raises(ServingError, match=words):
            host.submit((1,), Sampling()).result(timeout=5)
    with pytest.raises(ServingError, match=words):
        host.update(Policy(str(tied), version=1))


def test_another_base_model_is_refused(host: VllmHost, untied: Path) -> None:
    with pytest.raises(ServingError, match="keeps its model"):
        host.update(Policy(str(untied)))


def test_one_refused_prompt_spoils_no_other(host: VllmHost) -> None:
    futures = [host.submit((i,), Sampling()) for i in (65, 66, 67)]
    with pytest.raises(ServingError, match="no 66 here"):
        futures[1].result(timeout=5)
    assert [futures[i].result(timeout=5).token_ids for i in (0, 2)] == [(7,), (7,)]


def test_closing_fails_what_is_unanswered(host: VllmHost, server: Server, tied: Path) -> None:
    """A request in flight, an update that waits for it, and a request behind the update."""
    server.gate.clear()
    first = host.submit((1,), Sampling())
    while not first.running():
        time.sleep(0.01)
    failures: list[Exception] = []

    def update() -> None:
        try:
            host.update(Policy(str(tied), version=1))
        except ServingError as error:
            failures.append(error)

    thread = threading.Thread(target=update)
    thread.start()
    time.sleep(0.1)
    last = host.submit((1,), Sampling())
    host.close()
    thread.join(timeout=5)
    assert len(failures) == 1
    for future in (first, last):
        with pytest.raises(ServingError, match="closed"):
            future.result(timeout=5)


def test_a_cancelled_request_is_not_sent(host: VllmHost) -> None:
    futures = [host.submit((1,), Sampling()) for _ in range(3)]
    cancelled = futures[1].cancel()
    assert futures[2].result(timeout=5).token_ids == (7,)
    assert futures[1].cancelled() == cancelled
