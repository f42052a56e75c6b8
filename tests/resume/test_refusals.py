"""What cannot be gone on with is refused in words, and what is damaged is passed over."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import (  # pyright: ignore[reportMissingImports]  # of tests/loop
    questions,
)
from rich.console import Console
from safetensors import SafetensorError
from stops import Fuse, Run, attempt, finish, outcome, small
from typer.testing import CliRunner

from experiments.cli import app
from experiments.train import resume
from fst_agents.checkpoint import Checkpoints
from fst_agents.errors import ConfigError, RunDirError
from fst_agents.run_dir import RunDir
from fst_agents.run_file import parse
from fst_agents.tracking.spool import Cursor, Spool
from fst_agents.types import Policy, Problem
from optimizers.plan import FastPhase, plan
from optimizers.resume import (
    FORMAT,
    may_change,
    refuse_changes,
    reopen_tracker,
    run_identity,
    take_back,
)

CONFIG = small()


@pytest.fixture
def whole(tmp_path: Path) -> Run:
    run = attempt(tmp_path / "whole", CONFIG, Fuse())
    assert finish(run)
    return run


def stopped(path: Path, at: int = 150) -> Run:
    run = attempt(path, CONFIG, Fuse(at))
    assert not finish(run)
    return run


def checkpoints(run: Run) -> list[Path]:
    return sorted(run.run_dir.checkpoint_folder.iterdir())


def back(run: Run, **other: Any) -> Any:
    """Take a run back as whoever goes on with it would; ``other`` is what differs."""
    phases = other.get("phases", plan(CONFIG))
    identity = run_identity(phases, other.get("problems", questions(4)))
    return take_back(
        RunDir.open(run.run_dir.path),
        Checkpoints(run.run_dir.checkpoint_folder),
        phases,
        {**identity, **other.get("identity", {})},
        other.get("policy", Policy("scripted")),
    )


def changed(problems: list[Problem]) -> list[Problem]:
    return [replace(p, example=p.example.copy(question="other")) for p in problems]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"problems": questions(3)}, "other training data"),
        ({"problems": changed(questions(4))}, "other training data"),
        ({"phases": [FastPhase(0, 1, 4, passes=True)]}, "another plan"),
        ({"policy": Policy("elsewhere/another")}, "belongs to a policy on 'scripted', got"),
        ({"identity": {"format": "2"}}, f"another version \\(format {FORMAT}, this one has 2"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    tmp_path: Path, other: dict[str, Any], words: str
) -> None:
    run = stopped(tmp_path / "run")
    before = {f: f.read_bytes() for f in run.run_dir.path.rglob("*") if f.is_file()}
    with pytest.raises(ConfigError, match=words):
        back(run, **other)
    assert {f: f.read_bytes() for f in run.run_dir.path.rglob("*") if f.is_file()} == before
    assert back(run).state.step > 0


def test_a_checkpoint_without_an_identity_is_of_another_version(tmp_path: Path) -> None:
    run = stopped(tmp_path / "run")
    for place in checkpoints(run):
        file = place / "state.json"
        data = json.loads(file.read_text())
        del data["identity"]
        Checkpoints(place.parent).save(int(place.name), _content(place, data))
    with pytest.raises(ConfigError, match="another version"):
        back(run)


def _content(place: Path, state: dict[str, Any]) -> Callable[[Path], None]:
    kept = place.parent.parent / f"kept-{place.name}"
    shutil.copytree(place, kept)

    def write(folder: Path) -> None:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        (folder / "checksums.json").unlink()
        (folder / "state.json").write_text(json.dumps(state))

    return write


def test_a_damaged_checkpoint_costs_its_step_and_nothing_else(whole: Run, tmp_path: Path) -> None:
    run = stopped(tmp_path / "run")
    newest = checkpoints(run)[-1]
    (newest / "state.json").write_text("{}")
    again = attempt(run.run_dir.path, CONFIG, Fuse())
    assert again.resumed is not None
    [fault] = again.resumed.faults
    assert f"{newest}: state.json: truncated or changed" in fault
    assert finish(again)
    ours, wanted = outcome(again), outcome(whole)
    assert ours.pop("tracked") != wanted.pop("tracked")  # these points had been delivered
    assert ours == wanted


def test_without_an_intact_checkpoint_there_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    run = stopped(tmp_path / "run")
    for place in checkpoints(run):
        (place / "state.json").write_text("{}")
    with pytest.raises(RunDirError, match=r"no checkpoint to continue from.*truncated or changed"):
        back(run)
    shutil.rmtree(run.run_dir.checkpoint_folder)
    with pytest.raises(RunDirError, match="has results but no checkpoints"):
        back(run)


def test_a_log_that_was_cut_is_noticed(tmp_path: Path) -> None:
    run = stopped(tmp_path / "run")
    os.truncate(run.run_dir.metrics_log, 3)
    with pytest.raises(RunDirError, match=r"metrics\.jsonl: has 3 bytes, but had \d+"):
        back(run)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error (os error 28)")],
)
def test_a_full_disk_stops_the_run_and_leaves_it_as_it_was(
    whole: Run, tmp_path: Path, error: Exception
) -> None:
    run = attempt(tmp_path / "run", CONFIG, Fuse())
    saves: list[Path] = []

    def full(folder: Path) -> None:
        saves.append(folder)
        if len(saves) == 4:
            raise error
        (folder / "chain.txt").write_text(run.slow.weights)

    run.slow.save = full
    with pytest.raises(RunDirError, match=r"could not be written.*train --resume"):
        run.loop.run(plan(CONFIG))
    run.parts.runner.close()
    assert [place.name for place in checkpoints(run)] == ["000002", "000003"]
    again = attempt(run.run_dir.path, CONFIG, Fuse())
    assert finish(again)
    assert outcome(again) == outcome(whole)


def test_everything_is_delivered_that_no_stop_can_take_back(whole: Run) -> None:
    spool = whole.tracker.spool
    assert spool.cursor().offset == spool.end == whole.run_dir.state().marks.tracker


# -- one writer ---------------------------------------------------------------------------------


def test_two_writers_are_one_too_many(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, CONFIG)
    with run.lock(), pytest.raises(RunDirError, match="another process is writing"), run.lock():
        pass
    with run.lock():
        assert run.path.exists()


def test_a_creation_that_was_killed_leaves_a_free_folder(tmp_path: Path) -> None:
    (tmp_path / "run.lock").touch()
    (tmp_path / ".run.toml.tmp").write_text("seed = ")
    assert RunDir.create(tmp_path, CONFIG).config() == CONFIG


def test_errors_that_are_not_the_disk_s_stay_what_they_are(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, CONFIG)
    with pytest.raises(ConnectionError), run.writing():
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")


# -- the configuration --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "free"),
    [
        ("serve.host", True),
        ("track.uri", True),
        ("checkpoint.every", True),
        ("fast.reflection_args.api_key", True),
        ("fixed.judge.args.api_key", True),
        ("budget.seconds", True),
        ("slow.tokens_per_micro_batch", True),
        ("run_dir", True),
        ("budget.secondsx", False),
        ("budget.cycles", False),
        ("fast.reflection_lm", False),
        ("fixed.judge.model", False),
        ("slow.learning_rate", False),
        ("server.host", False),
        ("seed", False),
    ],
)
def test_only_the_machine_secrets_and_time_may_differ(key: str, free: bool) -> None:
    assert may_change(key) == free


def test_other_settings_are_named_with_both_values(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, CONFIG)
    refuse_changes(CONFIG, run)
    refuse_changes(small(serve={"host": "local"}, budget={"cycles": 2, "seconds": 9.0}), run)
    with pytest.raises(ConfigError) as caught:
        refuse_changes(small(seed=1, slow={"learning_rate": 1.0}), run)
    assert [line.split(";")[0] for line in caught.value.problems] == [
        "seed: the run has 0, got 1",
        "slow.learning_rate: the run has 0.0004, got 1.0",
    ]


def test_secrets_have_to_be_given_again(tmp_path: Path) -> None:
    secret = small(
        fast={"reflection_args": {"api_key": "s"}}, track={"uri": "postgresql://me:s@host/db"}
    )
    run = RunDir.create(tmp_path, secret)
    refuse_changes(secret, run)
    with pytest.raises(ConfigError) as caught:
        refuse_changes(run.config(), run)
    assert [line.split(":")[0] for line in caught.value.problems] == [
        "fast.reflection_args.api_key",
        "track.uri",
    ]


def test_the_command_names_what_may_not_be_set(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, parse({}))
    with pytest.raises(ConfigError) as caught:
        resume(run.path, ["serve.host=local", "seed=3", "nonsense"], Console(quiet=True))
    assert [line.split(":")[0] for line in caught.value.problems] == [
        "--set seed=3",
        "--set nonsense",
    ]
    run.finish({})
    with pytest.raises(RunDirError, match="has finished; nothing to resume"):
        resume(run.path, [], Console(quiet=True))
    with pytest.raises(RunDirError, match="no run directory"):
        resume(tmp_path / "absent", [], Console(quiet=True))


# -- the tracker --------------------------------------------------------------------------------


def events(spool: Spool, *kinds: str) -> None:
    for kind in kinds:
        spool.put({"kind": kind, "run": "main", "attach": None, "runs": str(spool.path.parent)})


def test_a_tracker_that_never_came_to_start_starts_anew(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "tracking.jsonl")
    assert reopen_tracker(None, spool.path, 0) is None
    events(spool, "start", "params")
    assert reopen_tracker(None, spool.path, 0) is None
    assert not spool.path.exists()


def test_a_spool_that_was_tampered_with_is_refused(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "tracking.jsonl")
    events(spool, "metrics")
    spool.save(Cursor(offset=spool.end))
    with pytest.raises(RunDirError, match="has been changed"):
        reopen_tracker(None, spool.path, 0)
    assert spool.path.exists()


# -- the command, and what it leaves behind -----------------------------------------------------


def test_the_command_exits_with_2_and_one_line(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, parse({}))
    cli = CliRunner()
    both = cli.invoke(app, ["train", "experiments/runs/fst.toml", "--resume", str(run.path)])
    assert (both.exit_code, both.stderr.count("\n")) == (2, 1)
    assert "--resume takes all but --set from the run directory" in both.stderr
    run.finish({})
    done = cli.invoke(app, ["train", "--resume", str(run.path), "--json"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"error: {run.path}: the run has finished; nothing to resume\n"


def test_what_stands_behind_the_checkpoint_is_removed(tmp_path: Path) -> None:
    run = stopped(tmp_path / "run")
    folder = run.run_dir.path
    step, version = run.run_dir.state().step, run.run_dir.state().policy.version
    stray = [
        folder / "rollouts" / "distill.jsonl",
        folder / "rollouts" / f"step-{step + 3:05d}.jsonl",
        folder / "policy" / f"v{version + 1:05d}" / "weights.txt",
        folder / "policy" / ".v00009-draft" / "weights.txt",
        folder / "result" / "program.json",
    ]
    for file in stray:
        file.parent.mkdir(exist_ok=True)
        file.write_text("{}")
    assert back(run) == back(run)  # twice is the same as once
    assert [file for file in stray if file.exists()] == []
    assert (folder / "policy" / f"v{version:05d}" / "weights.txt").exists()
