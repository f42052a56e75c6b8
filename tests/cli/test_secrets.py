"""Keys that a run is given, wherever one can be given, stand in nothing that it leaves behind."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
import tomlkit
from processes import FST, environment

KEYS = {
    "reflection": "canary-reflection-5f2a",
    "fixed": "canary-fixed-91bc",
    "server": "canary-server-77de",
    "environment": "canary-environment-03aa",
    "header": "canary-header-c410",
}


class Endpoint(BaseHTTPRequestHandler):
    """Chat completions. What it is first asked as the fixed model it refuses, and quotes the key:
    some endpoints do."""

    refused: ClassVar[list[str]] = []
    seen: ClassVar[set[str]] = set()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = str(self.headers["Authorization"]).removeprefix("Bearer ")
        self.seen.update({key, str(self.headers["X-Api-Key"])})
        asked = body["messages"][-1]["content"]
        if body["model"] == "down" or (
            body["model"] == "fixed" and asked in (self.refused or [asked])
        ):
            self.refused[:] = [asked]
            self.answer(401, {"error": {"message": f"Incorrect API key provided: {key}"}})
            return
        text = "[[ ## middle ## ]]\n1 2 3 4\n\n[[ ## completed ## ]]"
        if body["model"] != "fixed":
            text = f"```\nreverse, attempt {len(asked)}\n```"
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        head = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
        self.answer(200, {**head, "choices": [choice], "usage": usage})

    def answer(self, status: int, content: dict[str, Any]) -> None:
        payload = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    Endpoint.refused.clear()
    Endpoint.seen.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def run_file(url: str) -> dict[str, Any]:
    more = {"api_base": url, "num_retries": 0}
    headers = {"X-Api-Key": KEYS["header"]}
    return {
        "run_dir": "runs/run",
        "task": {"name": "digits-pipeline", "train_size": 16, "val_size": 4},
        "serve": {"host": "local", "api_key_env": "FST_TEST_KEY"},
        "sampling": {"max_infra_share": 1.0, "retries": 0},
        "fast": {
            "population": 1,
            "rollouts": 12,
            "minibatch": 2,
            "reflection_lm": "openai/reflector",
            "reflection_args": {**more, "api_key": KEYS["reflection"], "extra_headers": headers},
        },
        "fixed": {"first": {"model": "openai/fixed", "args": {**more, "api_key": KEYS["fixed"]}}},
        "slow": {"steps_per_cycle": 1, "batch_size": 4, "group_size": 2},
        "budget": {"cycles": 1},
        "eval": {"samples": 1},
    }


def test_no_key_is_in_anything_that_a_run_leaves_behind(tmp_path: Path, endpoint: str) -> None:
    (tmp_path / "run.toml").write_text(tomlkit.dumps(run_file(endpoint)))
    keys = {"FST_TEST_KEY": KEYS["server"], "OPENAI_API_KEY": KEYS["environment"]}
    work = tmp_path / "work"
    work.mkdir()
    for arguments in (
        ["check", "../run.toml", "--json"],
        ["train", "../run.toml", "--json"],
        ["report", "runs/run"],
        ["export", "runs/run", "shipped"],
    ):
        done = subprocess.run(
            [*FST, *arguments],
            cwd=work,
            env=environment(**keys),
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        (work / f"{arguments[0]}.log").write_text(done.stdout + done.stderr)
    assert Endpoint.refused  # the one that quotes the key was met
    assert {KEYS["reflection"], KEYS["fixed"], KEYS["header"]} <= Endpoint.seen
    files = {file.name for file in work.rglob("*")}
    assert {"run.toml", "mlflow.db", "report.html", "reflections.jsonl", "train.log"} <= files
    assert leaks(work) == []


def leaks(folder: Path) -> list[tuple[str, str]]:
    """The keys that were found, and in which file."""
    return [
        (name, str(file.relative_to(folder)))
        for file in folder.rglob("*")
        if file.is_file()
        for name, key in KEYS.items()
        if key.encode() in file.read_bytes()
    ]


def test_a_key_that_is_refused_is_not_repeated(tmp_path: Path, endpoint: str) -> None:
    content = run_file(endpoint)
    del content["fixed"]
    content["fast"]["reflection_lm"] = "openai/down"
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "run.toml").write_text(tomlkit.dumps(content))
    done = subprocess.run(
        [*FST, "train", "../run.toml"],
        cwd=work,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 1
    assert "Incorrect API key provided: <redacted>" in done.stderr
    (work / "train.log").write_text(done.stdout + done.stderr)
    assert leaks(work) == []
