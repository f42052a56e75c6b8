"""``fst compare`` and ``fst study`` as a user meets them: one clear line, and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from fst_agents.config import ARMS
from tests.cli.in_process import called, printed, refused
from tests.cli.processes import ROOT, fst, result
from tests.serving.checkpoints import save_model

RUN = str(ROOT / "experiments/runs/fst.toml")


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["compare", RUN, "--arms", "fst,ppo"], ["no arm 'ppo'; there are fst, rl"]),
        (["compare", "absent.toml"], ["absent.toml: no such run file"]),
        (["study", "f1"], ["no study 'f1'; there are sample-efficiency"]),
        (["study", "schedules"], ["no study 'schedules'; there are sample-efficiency"]),
        (["study", "ablations", "--targets", "4"], ["--targets: got 4, expected 1 to 3"]),
        (
            ["study", "schedule", "--set", "budget.rollouts=9"],
            ["budget.rollouts: got 9, but one cycle"],
        ),
        (["study", "drift", "--targets", "99"], ["--targets: got 99, expected 1 to 8"]),
        (
            ["study", "drift", "--set", "budget.rollouts=9"],
            ["budget.rollouts: got 9, but one cycle"],
        ),
    ],
)
def test_a_wrong_request_is_one_line(
    arguments: list[str], lines: list[str], tmp_path: Path
) -> None:
    said = refused(*arguments, cwd=tmp_path)
    assert all(line in text for line, text in zip(lines, said, strict=True)), said


def test_compare_from_the_run_file_to_the_page(tmp_path: Path) -> None:
    """Real runs, as small as they can be: two arms, one of them with the finishing stage."""
    (tmp_path / "run.toml").write_text(
        """
[task]
name = "digits"
target = ["rotate_left", "swap_ends"]
train_size = 16
val_size = 4
[serve]
host = "local"
[fast]
population = 1
rollouts = 12
minibatch = 2
[slow]
steps_per_cycle = 1
batch_size = 4
group_size = 4
[distill]
steps = 1
samples = 1
[budget]
cycles = 2
[eval]
samples = 1
"""
    )
    arguments = ["compare", "run.toml", "--arms", "rl,distill", "--seeds", "1", "--out", "out"]
    answer = result(fst(*arguments, "--json", cwd=tmp_path))
    assert {arm: f["seeds"] for arm, f in answer["arms"].items()} == {"rl": 1, "distill": 1}
    assert answer["arms"]["rl"]["rollouts"] == 48  # 56 // 16 = 3 RL steps
    assert answer["arms"]["distill"]["rollouts"] <= 56
    assert (tmp_path / answer["report"]).is_file()
    assert "mlflow" in answer["mlflow"]
    records = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("cell.json")}
    assert len(records) == 2
    assert called(arguments, tmp_path).exit_code == 0
    assert {file: file.stat().st_mtime_ns for file in records} == records
    [line] = refused(*arguments, "--set", "slow.learning_rate=1e-3", cwd=tmp_path)
    assert "holds results of another configuration" in line


def test_the_same_run_file_runs_through_on_another_model(tmp_path: Path) -> None:
    """Every arm, on a Qwen3 with random weights, none of whose answers can be read."""
    save_model(tmp_path / "qwen", tied=False, context=1024)
    small = [
        "policy.model=./qwen", "sampling.max_tokens=24", "task.train_size=16", "task.val_size=4",
        "fast.population=1", "fast.rollouts=12", "fast.minibatch=2", "slow.steps_per_cycle=1",
        "slow.batch_size=4", "slow.group_size=4", "distill.steps=1", "distill.samples=2",
        "budget.cycles=3", "eval.samples=1", "track.enabled=false",
    ]  # fmt: skip
    arguments = ["compare", RUN, "--seeds", "1", "--jobs", "2", "--out", "out", "--json"]
    arguments += ["--arms", ",".join(ARMS)]
    for setting in small:
        arguments += ["--set", setting]
    told = printed(*arguments, cwd=tmp_path)
    assert {arm: figures["seeds"] for arm, figures in told["arms"].items()} == dict.fromkeys(
        ARMS, 1
    )
    assert all(figures["rollouts"] > 0 for figures in told["arms"].values())
