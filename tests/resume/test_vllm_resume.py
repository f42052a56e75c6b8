"""Runs on a real vLLM server under SIGKILL: the same schedule and accounting, nothing left behind.

What is sampled anew differs (docs/reliability.md), so scores, Φ and weights are not compared.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import tomlkit
from mlflow import MlflowClient

from fst_agents.run_dir import RunDir
from fst_agents.types import Rollout

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(3000)]

STEPS, BATCH, GROUP, FAST = 4, 4, 4, 32
SETTINGS: dict[str, Any] = {
    "task": {
        "name": "digits",
        "target": ["sort_ascending", "increment"],
        "train_size": 32,
        "val_size": 4,
    },
    "serve": {"host": "vllm", "start_timeout": 900.0},
    "fast": {"population": 2, "rollouts": FAST, "minibatch": 2},
    "slow": {"steps_per_cycle": 2, "batch_size": BATCH, "group_size": GROUP},
    "budget": {"cycles": 2, "enough": 2.0},
    "eval": {"samples": 1},
}
PATIENCE = 900.0
"""Seconds that a process may take from its start to its end, the server's start included."""


def start(folder: Path) -> subprocess.Popen[bytes]:
    """A process that begins the run in ``folder/run``, or goes on with it."""
    folder.mkdir(exist_ok=True)
    (folder / "run.toml").write_text(
        tomlkit.dumps(
            {
                "run_dir": str(folder / "run"),
                **SETTINGS,
                "track": {"uri": f"sqlite:///{folder}/mlflow.db"},
            }
        )
    )
    begun = (folder / "run" / "run.toml").exists()
    what = ["--resume", str(folder / "run")] if begun else [str(folder / "run.toml")]
    with (folder / "stderr.txt").open("ab") as errors:
        return subprocess.Popen(
            [sys.executable, "-c", "from experiments.cli import main; main()", "train", *what],
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )


def finish(folder: Path) -> None:
    code = start(folder).wait(PATIENCE)
    assert code == 0, (folder / "stderr.txt").read_text()[-3000:]


def kill_when(folder: Path, there: Callable[[], bool]) -> None:
    """SIGKILL as soon as something is there; then nothing of the run may be left."""
    process = start(folder)
    deadline = time.monotonic() + PATIENCE
    while not there():
        assert process.poll() is None, (folder / "stderr.txt").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    family = psutil.Process(process.pid).children(recursive=True)
    lines = [word for one in family for word in one.cmdline()]
    sockets = [Path(word) for word in lines if word.endswith("/socket")]
    assert sockets  # there is a server
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []
    assert not any(path.parent.exists() for path in sockets)


def rollouts_of(run: RunDir, name: str) -> list[Rollout]:
    return list(run.rollouts(run.path / "rollouts" / f"{name}.jsonl"))


def schedule(run: RunDir) -> list[list[str]]:
    """The problem of every rollout of every RL step, in order: which, and in groups of how many."""
    return [
        [r.problem_id for r in rollouts_of(run, f"step-{step:05d}")] for step in range(1, STEPS + 1)
    ]


def refuse_mixed(run: RunDir) -> None:
    """Every rollout is of the version that was served then, and every call of its rollout's."""
    slow = [line for line in run.metrics() if line["phase"] == "slow"]
    version = 0
    for line in slow:
        rollouts = rollouts_of(run, f"step-{line['step']:05d}")
        found = {c.policy_version for r in rollouts for c in r.calls}
        assert found | {r.policy_version for r in rollouts} == {version}
        version = int(line["metrics"].get("serve/policy_version", version))
        # What is served is what was trained, and what was sampled came from it.
        assert line["metrics"].get("serve/logp_gap", 0.0) < 1e-3
        if line["metrics"]["slow/samples"]:
            assert line["metrics"]["slow/ratio_mean"] == pytest.approx(1.0, abs=1e-2)
    assert run.result()["policy_version"] == version


def refuse_wrong_accounts(run: RunDir) -> None:
    """The books are those of the rollouts that are there, each of them counted once."""
    state = run.state()
    files = [file for file in run.rollout_files() if not file.name.startswith("eval")]
    rollouts = [r for file in files for r in run.rollouts(file)]
    assert state.spend.slow_rollouts == STEPS * BATCH * GROUP
    assert state.spend.fast_rollouts + state.spend.slow_rollouts == len(rollouts)
    assert state.spend.tokens == sum(r.prompt_tokens + r.completion_tokens for r in rollouts)
    for line in run.metrics():
        if line["phase"] == "fast":
            spent = line["metrics"]["fast/rollouts"] + line["metrics"]["fast/unused_budget"]
            assert spent == FAST
    assert (state.step, state.cursor, state.cycle, state.stopped) == (STEPS, STEPS, 1, "done")


def points(folder: Path, name: str) -> list[int]:
    """The steps at which MLflow has a metric of the run."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    run_id = RunDir.open(folder / "run").result()["mlflow_run_id"]
    return [point.step for point in client.get_metric_history(run_id, name)]


def test_killed_runs_keep_to_the_schedule_and_leave_no_server(tmp_path: Path) -> None:
    """Killed in an RL step of the first cycle, and right after the second cycle's fast phase."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(whole)
    run = broken / "run"
    kill_when(broken, (run / "rollouts" / "step-00002.jsonl").exists)
    assert json.loads((run / "state.json").read_text())["step"] == 1
    kill_when(broken, (run / "population" / "cycle-001.json").exists)
    finish(broken)
    one, other = RunDir.open(whole / "run"), RunDir.open(run)
    assert schedule(other) == schedule(one)
    for done in (one, other):
        refuse_mixed(done)
        refuse_wrong_accounts(done)
    assert points(broken, "slow/reward") == points(whole, "slow/reward") == [1, 2, 3, 4]
    assert points(broken, "fast/best_mean") == points(whole, "fast/best_mean") == [0, 2]
