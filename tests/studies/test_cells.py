"""Real cells in small: processes, harvest, other starts, and a task that changes on the way."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from made_up import TINY, quick_scope
from rich.console import Console
from transformers import AutoModelForCausalLM

from experiments.studies.cell import run, staged_stream, staged_task
from experiments.studies.cell_runs import CellFailed
from experiments.studies.cells import Cell, Record, Stages
from experiments.studies.grid import CellStopped, run_grid
from experiments.studies.harvest import drop_bulk, exact_share, harvest
from experiments.studies.processes import Processes
from experiments.studies.scope import Scope
from experiments.tasks import build_task
from fst_agents.dspy_bridge import problems
from fst_agents.errors import ConfigError, RunDirError
from fst_agents.json_files import read_json, read_lines
from fst_agents.run_dir import RunDir
from fst_agents.stream import ProblemStream, StagedStream
from fst_agents.types import Policy, Problem
from optimizers.merge import merged_policy
from optimizers.plan import batches_of


@pytest.fixture(scope="module")
def scope() -> Scope:
    return quick_scope()


def tiny(scope: Scope, arm: Any = "rl", **more: Any) -> Cell:
    return scope.cell(arm, scope.targets[0], 0, changes=TINY, **more)


def request(cell: Cell, folder: Path, start: Path | None = None) -> dict[str, Any]:
    stages = cell.stages
    config = cell.config.model_copy(update={"run_dir": folder / "run"})
    return {
        "config": config.model_dump(mode="json"),
        "start": None if start is None else str(start),
        "resume": False,
        "stages": None if stages is None else {"targets": stages.targets, "cycles": stages.cycles},
    }


def test_a_process_runs_a_cell_and_leaves_a_record(scope: Scope, tmp_path: Path) -> None:
    """fst, then fresh RL on another rule from its weights: all that a grid does with real runs."""
    first = tiny(scope, "fst")
    second = scope.cell("rl", scope.targets[1], 0, start=first, changes=TINY)
    with closing(Processes(tmp_path)) as processes:
        records = run_grid([second], tmp_path, processes)
    assert [records[c.key].error for c in (first, second)] == [None, None]
    fst, rl = records[first.key], records[second.key]
    assert len(fst.curve) == 2
    assert fst.curve[-1].rollouts == sum(fst.result["rollouts"][k] for k in ("fast", "slow"))
    assert [p.rollouts for p in rl.curve] == [16 * (k + 1) for k in range(3)]
    assert len(fst.problems) == 4
    assert fst.final == pytest.approx(sum(fst.problems.values()) / 4)
    assert rl.result["target"] == list(scope.targets[1])
    assert not (tmp_path / "cells" / first.key / "run" / "rollouts").exists()
    assert RunDir.open(tmp_path / "cells" / first.key / "run").finished
    # Its KL is to what it started from, whose retention is the one before.
    assert rl.result["retention"]["base"] == pytest.approx(
        fst.result["retention"]["final"], abs=0.05
    )


def test_the_weights_of_a_run_become_a_model_of_their_own(scope: Scope, tmp_path: Path) -> None:
    from fst_agents.serving.tokenizer import HfChatTokenizer
    from programs import micro

    base = Policy(str(micro.path()))
    run(request(tiny(scope), tmp_path), Console(file=io.StringIO()))
    merged = merged_policy(base, tmp_path / "run", tmp_path / "merged")
    assert (merged.version, merged.adapter, merged.weights) == (0, None, None)
    plain, trained = (AutoModelForCausalLM.from_pretrained(p.model) for p in (base, merged))
    changed = [
        name
        for (name, a), b in zip(plain.named_parameters(), trained.parameters(), strict=True)
        if not torch.equal(a, b)
    ]
    assert changed
    messages = [{"role": "user", "content": "4719"}]
    assert HfChatTokenizer(merged.model).render(messages) == HfChatTokenizer(base.model).render(
        messages
    )
    with pytest.raises(RunDirError, match=r"no run directory|finished run"):
        merged_policy(base, tmp_path / "nowhere", tmp_path / "x")


def test_distill_ships_the_seed_instruction_and_is_judged_by_it(
    scope: Scope, tmp_path: Path
) -> None:
    """On a rule for which two tiny cycles find an instruction."""
    stage = {"distill": {"steps": 2, "samples": 1}}
    budget = {"budget": {**TINY["budget"], "rollouts": 2 * 28 + 8}}
    cell = scope.cell("distill", scope.targets[1], 0, changes={**TINY, **stage, **budget})
    summary = run(request(cell, tmp_path), Console(file=io.StringIO()))
    record = harvest(cell, tmp_path / "run")
    assert record.final == summary["scores"]["trained_seed"]
    assert record.final == pytest.approx(sum(record.problems.values()) / 4)
    seed = build_task(cell.config).program.solve.signature.instructions  # pyright: ignore
    assert summary["instructions"]["solve"] != seed
    assert json.dumps(seed) in (tmp_path / "run/result/program.json").read_text("utf-8")
    lines = RunDir.open(tmp_path / "run").metrics()
    first, second = (line["rollouts"] for line in lines if "distill/kl" in line["metrics"])
    assert second == first + 4
    assert record.curve
    assert all(point.rollouts < first for point in record.curve)


def test_a_failed_process_says_its_last_line(scope: Scope, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    cell = tiny(scope)
    broken = cell.config.policy.model_copy(update={"model": str(tmp_path / "absent")})
    wrong = Cell(cell.config.model_copy(update={"policy": broken}))
    with (
        closing(Processes(tmp_path)) as processes,
        pytest.raises(CellFailed, match=r"exit code 2: error: policy.model: .* is no model folder"),
    ):
        processes(wrong, tmp_path / "c")


def test_a_stopped_grid_goes_on_where_its_cells_stood(scope: Scope, tmp_path: Path) -> None:
    """Stopped while it trains: no record; asked again, the same process goes on to the end."""
    cell = scope.cell("rl", scope.targets[0], 0, changes={**TINY, "budget": {"rollouts": 16 * 40}})
    run_dir = tmp_path / "cells" / cell.key / "run"
    processes = Processes(tmp_path)
    found: list[Record] = []
    thread = threading.Thread(
        target=lambda: found.extend(run_grid([cell], tmp_path, processes).values())
    )
    thread.start()
    until((run_dir / "metrics.jsonl").exists)
    processes.close()
    thread.join(60)
    assert [r.error for r in found] == ["stopped; asked again, it goes on where it stood"]
    assert not run_dir.with_name("cell.json").exists()
    began = (run_dir / "run.toml").stat().st_mtime_ns
    with pytest.raises(CellStopped, match="stopped before it began"):
        processes(cell, run_dir.parent)
    with closing(Processes(tmp_path)) as again:
        record = run_grid([cell], tmp_path, again)[cell.key]
    assert record.error is None
    assert (run_dir / "run.toml").stat().st_mtime_ns == began
    assert [p.rollouts for p in record.curve] == [16 * (k + 1) for k in range(40)]


ENDLESS = {**TINY, "budget": {"rollouts": 16 * 50_000}}

GRID = """
import sys
from pathlib import Path
from made_up import quick_scope
from test_cells import ENDLESS
from experiments.studies.grid import run_grid
from experiments.studies.processes import Processes
scope, out = quick_scope(), Path(sys.argv[1])
run_grid([scope.cell("rl", scope.targets[0], 0, changes=ENDLESS)], out, Processes(out))
"""


def test_a_grid_that_is_killed_leaves_nothing_running(scope: Scope, tmp_path: Path) -> None:
    """Its cell saves where it stands and ends; it would hold the run against whoever goes on."""
    cell = scope.cell("rl", scope.targets[0], 0, changes=ENDLESS)
    folder = tmp_path / "cells" / cell.key
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    with (tmp_path / "said").open("wb") as said:
        grid = subprocess.Popen(
            [sys.executable, "-c", GRID, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": paths}, stdout=said, stderr=said,
        )  # fmt: skip
    until((folder / "run" / "metrics.jsonl").exists)
    grid.kill()
    grid.wait()
    until(lambda: "interrupted; the run directory keeps" in (folder / "log.txt").read_text("utf-8"))
    with RunDir(folder / "run").lock():  # refused while a process has it
        assert not RunDir(folder / "run").finished


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Killing(Processes):
    """Kills the first process, as the system does when memory runs out, once it has a run."""

    def kill(self) -> None:
        for process in self._running:
            process.kill()


def test_a_cell_is_the_same_whatever_ran_before_it(scope: Scope, tmp_path: Path) -> None:
    """Killed, gone on with after another cell, by the same fork server: equal to the bit."""
    cell, other = (scope.cell("fst", t, 0, changes=TINY) for t in scope.targets[:2])
    folder = tmp_path / "cells" / cell.key
    with closing(Killing(tmp_path)) as processes:

        def kill() -> None:
            while not (folder / "run/metrics.jsonl").exists():
                time.sleep(0.02)
            processes.kill()

        threading.Thread(target=kill, daemon=True).start()
        first = run_grid([cell, other], tmp_path, processes)
        again = run_grid([cell, other], tmp_path, processes)
    assert [first[c.key].error for c in (cell, other)] == [
        "stopped; asked again, it goes on where it stood",
        None,
    ]
    alone = tmp_path / "alone"
    run(request(cell, alone), Console(file=io.StringIO()))
    expected = harvest(cell, alone / "run")
    assert again[cell.key].curve == expected.curve
    assert again[cell.key].problems == expected.problems
    weights = "run/result/adapter/adapter_model.safetensors"
    assert (folder / weights).read_bytes() == (alone / weights).read_bytes()


class Watched(Processes):
    """Runs cells in this process and notes whether they were to be gone on with."""

    asked: list[bool]

    def _work(self, request: dict[str, Any], log: Path) -> int:
        self.asked = [*getattr(self, "asked", []), request["resume"]]
        run({**request, "resume": False}, Console(file=io.StringIO()))
        return 0


@pytest.mark.parametrize(
    ("left", "resume"),
    [({}, False), ({"run/run.toml": "x"}, True), ({"run/run.toml": "x", "cell.json": "x"}, False)],
)
def test_only_a_stopped_run_is_gone_on_with(
    left: dict[str, str], resume: bool, scope: Scope, tmp_path: Path
) -> None:
    folder = tmp_path / "c"
    (folder / "run").mkdir(parents=True)
    for name, text in left.items():
        (folder / name).write_text(text)
    asked: list[bool] = []

    class Refusing(Processes):
        def _work(self, request: dict[str, Any], log: Path) -> int:
            asked.append(request["resume"])
            return 1

    with pytest.raises(CellFailed):
        Refusing(tmp_path)(tiny(scope), folder)
    assert asked == [resume]
    assert (folder / "run").exists() is resume


def test_a_finished_run_is_only_read(scope: Scope, tmp_path: Path) -> None:
    cell, watched = tiny(scope), Watched(tmp_path)
    first = watched(cell, tmp_path)
    (tmp_path / "cell.json").write_text("as if it had failed")
    assert watched(cell, tmp_path).problems == first.problems
    assert watched.asked == [False]


def test_a_run_without_its_rollouts_has_no_curve(scope: Scope, tmp_path: Path) -> None:
    cell, watched = tiny(scope), Watched(tmp_path)
    watched(cell, tmp_path)
    drop_bulk(tmp_path / "run")
    with pytest.raises(RunDirError, match=r"step-00001.jsonl: missing, .* delete .*run"):
        harvest(cell, tmp_path / "run")


def test_shares_of_right_answers_are_of_what_was_scored() -> None:
    def rollout(score: float | None, outcome: str = "ok", **objectives: float) -> dict[str, Any]:
        return {"outcome": outcome, "feedback": {"score": score, "objectives": objectives}}

    assert exact_share([rollout(0.5, exact=1.0), rollout(0.5, exact=0.0)]) == 0.5
    assert exact_share([rollout(0.8), rollout(0.4)]) == pytest.approx(0.6)
    assert exact_share([rollout(-0.1, "parse_failure"), rollout(1.0, exact=1.0)]) == 0.5
    assert exact_share([rollout(None, "timeout"), rollout(1.0, exact=1.0)]) == 1.0
    assert exact_share([]) == 0.0


# -- a task that changes ----------------------------------------------------------------------


def test_a_staged_stream_goes_from_part_to_part_and_stays_in_the_last() -> None:
    parts = [[Problem(f"{part}{k}", None) for k in range(4)] for part in "abc"]
    stream = StagedStream(parts, 2, seed=1, batches=3)
    ahead = [p.id[0] for p in stream.look_ahead(12)]
    seen = "".join(stream.next()[0].id[0] for _ in range(12))
    assert seen == "aaabbbcccccc"
    assert set(ahead) == set("abc")
    stream.cursor = 3
    alone = ProblemStream(parts[1], 2, seed=1)
    assert [stream.next() for _ in range(3)] == [alone.next() for _ in range(3)]
    stream.cursor = 0
    stream.skip(6)
    assert stream.next()[0].id[0] == "c"
    with pytest.raises(ConfigError, match="batch_size"):
        StagedStream([parts[0], parts[1][:1]], 2, seed=1, batches=3)


def test_stages_are_equally_long_in_rollouts(scope: Scope) -> None:
    """One cycle: 576 + 6 × 128 = 1344 rollouts, 6 batches for fst and 10.5 RL steps for rl."""
    fst, rl = (scope.cell(arm, scope.targets[0], 0).config for arm in ("fst", "rl"))
    assert (batches_of(fst, 4), batches_of(rl, 4)) == (24, 42)


def test_the_stages_of_a_task_share_no_problem(scope: Scope) -> None:
    stages = Stages((*scope.targets, scope.targets[0]), 2)
    config = scope.cell("fst", scope.targets[0], 0, stages=stages).config
    task = staged_task(config, stages)
    assert len({e.id for e in task.trainset}) == len(task.trainset) == 3 * 512
    assert not {e.digits for e in task.trainset} & {e.digits for e in task.valset}
    stream = staged_stream(config, stages, problems(task.trainset))
    assert {p.id[:7] for p in stream.look_ahead(12)} == {"stage-1"}
    stream.skip(12)
    assert {p.id[:7] for p in stream.look_ahead(12)} == {"stage-2"}
    one = task.trainset[0]
    other = next(e for e in task.trainset[512:] if e.digits == one.digits)
    assert one.answer != other.answer


def test_a_run_whose_task_changes_is_one_run(scope: Scope, tmp_path: Path) -> None:
    stages = Stages((*scope.targets, scope.targets[0]), 1)
    budget = {"budget": {"cycles": 3, "enough": 2.0, "rollouts": None}}
    cell = scope.cell("fst", scope.targets[0], 0, stages=stages, changes={**TINY, **budget})
    run(request(cell, tmp_path), Console(file=io.StringIO()))
    steps = sorted((tmp_path / "run/rollouts").glob("step-*.jsonl"))
    ids = [{line["problem_id"][:7] for line in read_lines(file)} for file in steps]
    assert ids == [{"stage-1"}, {"stage-2"}, {"stage-3"}]
    assert len(read_json(tmp_path / "run/problems.json")) == 4
