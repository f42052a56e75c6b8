"""What ships is what is judged and shown: prompts only, its instruction folded into the weights."""

from __future__ import annotations

import json
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


def test_measured_again_it_has_the_same_cells(result: dict[str, Any]) -> None:
    again = evaluate_again(Path(result["run_dir"]), [], Console(quiet=True))
    assert all(score is not None for score in again["scores"].values())
