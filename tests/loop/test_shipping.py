"""What ships is what is judged and shown: prompts only, its instruction folded into the weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import dspy
import pytest
from rich.console import Console

from experiments.evaluate import evaluate_again
from experiments.export import export
from experiments.forecast import count_rollouts
from experiments.tasks import build_task
from experiments.train import train
from fst_agents.dspy_bridge import seed_candidate
from fst_agents.run_dir import RunDir
from fst_agents.run_file import parse
from fst_agents.tracking import MemoryTracker
from optimizers.outcome import close_books


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One fast phase of gepa, which finds something, and two steps of the finishing stage."""
    config = parse(
        {
            "arm": "gepa",
            "run_dir": str(tmp_path_factory.mktemp("shipping") / "run"),
            "task": {"target": ["sort_ascending", "increment"], "train_size": 64, "val_size": 8},
            "serve": {"host": "local"},
            "fast": {"population": 2, "rollouts": 60, "minibatch": 2},
            "slow": {"steps_per_cycle": 1, "batch_size": 4, "group_size": 4},
            "distill": {"steps": 2, "samples": 2, "learning_rate": 1e-2},
            "budget": {"cycles": 2},
            "eval": {"samples": 1},
            "track": {"enabled": False},
        }
    )
    found = train(config, Console(quiet=True))
    assert found["policy_version"] == 2  # the stage had something to fold in
    return found


def seed() -> dict[str, str]:
    return dict(seed_candidate(build_task(parse({})).program).instructions)


def test_the_scores_by_problem_are_of_the_cell_that_ships(result: dict[str, Any]) -> None:
    assert all(score is not None for score in result["scores"].values())
    problems = json.loads((Path(result["run_dir"]) / "problems.json").read_text())
    assert fmean(problems.values()) == pytest.approx(result["scores"]["trained_seed"])


def test_no_cell_is_paid_for_twice(result: dict[str, Any]) -> None:
    config = RunDir.open(Path(result["run_dir"])).config()
    counts, _, _ = count_rollouts(config, build_task(config))
    assert result["rollouts"]["eval"] == counts["eval"]


def test_the_result_names_what_ships(result: dict[str, Any]) -> None:
    assert result["shipped"] == {"cell": "trained_seed", "instructions": seed()}
    assert result["instructions"] != seed()
    program: dspy.Module = build_task(parse({})).program
    program.load(str(Path(result["run_dir"]) / "result" / "program.json"))
    assert seed_candidate(program).instructions == seed()


def test_the_card_is_about_what_ships(result: dict[str, Any], tmp_path: Path) -> None:
    export(Path(result["run_dir"]), tmp_path / "shipped")
    card = (tmp_path / "shipped" / "README.md").read_text()
    assert all(text in card for text in seed().values())
    assert not any(text in card for text in result["instructions"].values())
    assert "| what ships | `trained_seed` |" in card


def test_the_serving_line_has_a_rank_that_the_server_takes(
    result: dict[str, Any], tmp_path: Path
) -> None:
    """Of 8, 16, 32, … the first that fits; beyond all of them the line says so."""
    run = tmp_path / "run"
    shutil.copytree(result["run_dir"], run)
    file = run / "result" / "adapter" / "adapter_config.json"
    for rank, words in ((12, "--max-lora-rank 16 "), (1024, "# LoRA rank 1024: vLLM serves at")):
        file.write_text(json.dumps({**json.loads(file.read_text()), "r": rank}))
        assert words in export(run, tmp_path / f"shipped-{rank}")["serve"]


def test_a_page_that_cannot_be_made_costs_nothing_else(tmp_path: Path) -> None:
    run, tracker, notes = RunDir.create(tmp_path / "run", parse({})), MemoryTracker(), list[str]()
    summary: dict[str, Any] = {"scores": {}, "retention": {}, "kl": None, "steps": 0}
    summary |= {"rollouts": {"fast": 0, "slow": 0}, "seconds_total": 1.0}
    summary |= {"champion": "c", "policy_version": 0}

    def broken(run_dir: Path) -> Path:
        raise LookupError("no template")

    close_books(summary, run, tracker, broken, notes.append)
    assert run.finished
    assert [note.partition(";")[0] for note in notes] == [
        "the report could not be made (LookupError: no template)"
    ]
    assert "fst report" in notes[0]


def test_measured_again_it_has_the_same_scores(result: dict[str, Any]) -> None:
    """On the local host, to the bit: the policy, its adapter and the instructions are the run's."""
    again = evaluate_again(Path(result["run_dir"]), [], Console(quiet=True))
    assert result["retention"]["base"] > 0.9  # it is asked in the words that it was trained on
    assert all(score is not None for score in again["scores"].values())
    for what in ("scores", "intervals", "retention"):
        assert again[what] == result[what]
