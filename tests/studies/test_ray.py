"""Cells as tasks of a real Ray cluster, of one node, on loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from made_up import TINY, quick_scope

from experiments.studies import ray_tasks
from experiments.studies.cell_runs import CellFailed
from experiments.studies.cells import Cell, Record
from experiments.studies.grid import cell_folder, run_grid
from experiments.studies.ray_tasks import RayTasks
from experiments.studies.scope import Scope
from experiments.studies.workers import Workers
from fst_agents.errors import ConfigError


@pytest.fixture(scope="module")
def scope() -> Scope:
    return quick_scope()


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of one node with two CPUs."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    place = tempfile.mkdtemp(prefix="fst-ray-", dir="/tmp")  # Ray's sockets want a short path
    options = {
        "node-ip-address": "127.0.0.1",
        "port": port,
        "num-cpus": 2,
        "object-store-memory": 80_000_000,
        "include-dashboard": "false",
        "temp-dir": place,
    }
    told = [f"--{name}={value}" for name, value in options.items()]
    ray = Path(sys.executable).with_name("ray")
    line = [str(ray), "start", "--head", "--block", "--disable-usage-stats", *told]
    with pytest.MonkeyPatch.context() as patch, open(f"{place}/said", "wb") as said:
        patch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        process = subprocess.Popen(line, stdout=said, stderr=said)
        try:
            _wait_for(lambda: b"Ray runtime started" in Path(f"{place}/said").read_bytes())
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(60)
            shutil.rmtree(place, ignore_errors=True)


def _wait_for(condition: object, seconds: float = 120) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.usefixtures("cluster")
def test_a_grid_of_tasks_is_the_grid_of_processes(scope: Scope, tmp_path: Path) -> None:
    """fst, and fresh RL from its weights: the same records, to the bit."""
    first = scope.cell("fst", scope.targets[0], 0, changes=TINY)
    second = scope.cell("rl", scope.targets[1], 0, start=first, changes=TINY)
    there = Workers(backend="ray")([second], tmp_path / "ray", {"a": 1})
    here = Workers(jobs=1)([second], tmp_path / "here", {"a": 1})
    assert [there[c.key].error for c in (first, second)] == [None, None]
    for cell in (first, second):
        ours, theirs = there[cell.key], here[cell.key]
        assert ours.curve == theirs.curve
        assert ours.problems == theirs.problems
        assert ours.result["scores"] == theirs.result["scores"]


@pytest.mark.usefixtures("cluster")
def test_a_stopped_grid_of_tasks_leaves_nothing_running(scope: Scope, tmp_path: Path) -> None:
    """And asked again it goes on where it stood. There is more to do than any stop takes."""
    changes = {**TINY, "budget": {"rollouts": 16 * 50_000}, "eval": {"every": None}}
    cell = scope.cell("rl", scope.targets[0], 0, changes=changes)
    run = cell_folder(tmp_path, cell) / "run"
    first = _stopped_after(1, cell, tmp_path)
    began = (run / "run.toml").stat().st_mtime_ns
    second = _stopped_after(len(first) + 2, cell, tmp_path)
    assert (run / "run.toml").stat().st_mtime_ns == began
    assert len(second) > len(first)
    assert [line["rollouts"] for line in second] == [16 * (k + 1) for k in range(len(second))]


def _stopped_after(steps: int, cell: Cell, out: Path) -> list[dict[str, Any]]:
    """The RL steps of a cell whose grid is stopped once it has taken so many."""
    folder = cell_folder(out, cell)
    file = folder / "run" / "metrics.jsonl"
    tasks, found = RayTasks(out), list[Record]()
    thread = threading.Thread(target=lambda: found.extend(run_grid([cell], out, tasks).values()))
    thread.start()
    _wait_for(lambda: file.exists() and file.read_bytes().count(b"\n") >= steps)
    tasks.close()
    thread.join(60)
    assert [r.error for r in found] == ["stopped; asked again, it goes on where it stood"]
    assert not (folder / "cell.json").exists()
    seen = file.stat().st_size
    time.sleep(1.0)
    assert file.stat().st_size == seen, "it goes on"
    whole = [line for line in file.read_text("utf-8").splitlines(keepends=True) if "\n" in line]
    return [json.loads(line) for line in whole]


@pytest.mark.usefixtures("cluster")
def test_a_node_that_cannot_do_it_says_why(
    scope: Scope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = scope.cell("rl", scope.targets[0], 0, changes=TINY)
    wrong = cell.config.policy.model_copy(update={"model": str(tmp_path / "absent")})
    (tmp_path / "c").mkdir()
    with closing(RayTasks(tmp_path)) as tasks:
        with pytest.raises(CellFailed, match=r"choose an --out that all nodes of the cluster sh"):
            tasks(cell, tmp_path / "elsewhere")
        with pytest.raises(CellFailed, match=r"exit code 2: error: policy.model: .* no model fol"):
            tasks(Cell(cell.config.model_copy(update={"policy": wrong})), tmp_path / "c")
        monkeypatch.setattr(ray_tasks, "version", lambda _: "0.0.0")
        with pytest.raises(CellFailed, match=r"has fst-agents .*, expected 0.0.0; install it on"):
            tasks(cell, tmp_path / "c")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_without_a_cluster_one_line_and_nothing_written(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=r"--backend ray: no cluster can be joined .*ray start"):
        Workers(backend="ray")([], tmp_path / "out", {"a": 1})
    assert not (tmp_path / "out").exists()


def test_without_ray_one_line_and_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"Ray is not installed; pip install 'fst-agents\[ray\]'"):
        Workers(backend="ray")([], tmp_path / "out", {"a": 1})
    assert not (tmp_path / "out").exists()
