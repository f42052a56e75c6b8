"""Keys that a run is given, wherever one can be given, stand in nothing that it leaves behind."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from in_process import called
from processes import fst
from rich.console import Console

from experiments.evaluate import evaluate_again
from experiments.serve import public_settings
from fst_agents.errors import ConfigError, RunDirError
from fst_agents.run_dir import RunDir
from fst_agents.run_file import parse
from fst_agents.types import Policy
from tests.chat_endpoint import Answer, Asked, chat_endpoint

KEYS = {
    "reflection": "canary-reflection-5f2a",
    "fixed": "canary-fixed-91bc",
    "server": "canary-server-77de",
    "environment": "canary-environment-03aa",
    "header": "canary-header-c410",
}


class Quoting:
    """What it is first asked as the fixed model it refuses, and quotes the key: some endpoints do.

    Attributes:
        refused: that question.
        seen: the keys that were sent.
    """

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.seen: set[str] = set()

    def __call__(self, asked: Asked) -> Answer:
        model, key = asked.body["model"], asked.headers["Authorization"].removeprefix("Bearer ")
        self.seen.update({key, asked.headers.get("X-Api-Key", "")})
        if model == "down" or (model == "fixed" and asked.text in (self.refused or [asked.text])):
            self.refused = [asked.text]
            told = {"error": {"message": f"Incorrect API key provided: {key}"}}
            return 401, json.dumps(told)
        if model == "fixed":
            return "[[ ## middle ## ]]\n1 2 3 4\n\n[[ ## completed ## ]]"
        return f"```\nreverse, attempt {len(asked.text)}\n```"


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


def test_no_key_is_in_anything_that_a_run_leaves_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quoting = Quoting()
    with chat_endpoint(quoting) as endpoint:
        (tmp_path / "run.toml").write_text(tomlkit.dumps(run_file(endpoint.url)))
        work = whole_life(tmp_path, monkeypatch)
    assert quoting.refused  # the one that quotes the key was met
    assert {KEYS["reflection"], KEYS["fixed"], KEYS["header"]} <= quoting.seen
    files = {file.name for file in work.rglob("*")}
    assert {"run.toml", "mlflow.db", "report.html", "reflections.jsonl", "train.log"} <= files
    assert leaks(work) == []


def whole_life(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything that is done with a run file; where it was done.

    It trains in a process of its own, where all that is logged comes out.
    """
    keys = {"FST_TEST_KEY": KEYS["server"], "OPENAI_API_KEY": KEYS["environment"]}
    for name, key in keys.items():
        monkeypatch.setenv(name, key)
    work = folder / "work"
    work.mkdir()
    checked = called(["check", "../run.toml", "--json"], work)
    trained = train(work, "--json")
    assert trained.returncode == 0, trained.stderr[-3000:]
    (work / "train.log").write_text(trained.stdout + trained.stderr)
    reported = called(["report", "runs/run"], work)
    exported = called(["export", "runs/run", "shipped"], work)
    for name, done in (("check", checked), ("report", reported), ("export", exported)):
        assert done.exit_code == 0, done.output
        (work / f"{name}.log").write_text(done.output)
    return work


def train(work: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return fst("train", "../run.toml", *options, cwd=work, timeout=400)


def leaks(folder: Path) -> list[tuple[str, str]]:
    """The keys that were found, and in which file."""
    return [
        (name, str(file.relative_to(folder)))
        for file in folder.rglob("*")
        if file.is_file()
        for name, key in KEYS.items()
        if key.encode() in file.read_bytes()
    ]


def test_what_starts_from_a_run_wants_its_secrets_again(tmp_path: Path) -> None:
    """Only those it uses: nothing is reflected upon."""
    config = parse(
        {
            "serve": {"extra_args": ["--hf-token", KEYS["server"]]},
            "fast": {"reflection_args": {"api_key": KEYS["reflection"]}},
        }
    )
    run = RunDir.create(tmp_path / "run", config)
    words = r"^serve\.extra_args: secrets are not kept .*\(--set serve\.extra_args=…\)$"
    with pytest.raises(ConfigError, match=words):
        evaluate_again(run.path, [], Console(quiet=True))
    with pytest.raises(ConfigError, match=words):
        public_settings(run.config(), Policy("micro"), tmp_path, "127.0.0.1", None, None)
    with pytest.raises(RunDirError, match="has not finished"):  # what comes next
        evaluate_again(run.path, ["serve.extra_args=[]"], Console(quiet=True))


def test_a_key_that_is_refused_is_not_repeated(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    with chat_endpoint(Quoting()) as endpoint:
        content = run_file(endpoint.url)
        del content["fixed"]
        content["fast"]["reflection_lm"] = "openai/down"
        (tmp_path / "run.toml").write_text(tomlkit.dumps(content))
        done = train(work)
    assert done.returncode == 1
    assert "Incorrect API key provided: <redacted>" in done.stderr
    (work / "train.log").write_text(done.stdout + done.stderr)
    assert leaks(work) == []
