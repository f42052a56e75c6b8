"""``fst compare`` on made-up cells: the figures by hand, failures in sight, and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from made_up import ARMS, STEP, Arm, MadeUp

from experiments.compare import compare, plan_comparison
from experiments.studies.comparison_page import arms_grid, headline, pairs_grid
from experiments.studies.workers import Workers
from fst_agents.errors import ConfigError
from optimizers.plan import (
    distill_rollouts,
    distill_steps,
    phase_rollouts,
    plan,
    total_rollouts,
)

DATA: dict[str, Any] = {
    "task": {"name": "digits", "target": ["reverse", "complement"]},
    "serve": {"host": "local"},
    "track": {"enabled": False},
    "seed": 3,
}


def run(out: Path, arms: str, seeds: int, made: MadeUp, **more: Any) -> dict[str, Any]:
    asked = plan_comparison({**DATA, **more}, [], arms.split(","), seeds)
    return compare(asked, out, command="fst compare x.toml", workers=Workers(2, run=made))


def test_the_figures_of_made_up_arms(tmp_path: Path) -> None:
    """fst ends at 0.9 and rl at 0.6, on every problem of two but the third, a little easier."""
    result = run(tmp_path / "out", "fst,rl", 2, MadeUp())
    assert result["seeds"] == [3, 4]
    fst, rl = result["arms"]["fst"], result["arms"]["rl"]
    assert fst["score"]["estimate"] == pytest.approx(0.9 + (0.03 + 0.04) / 6)
    assert rl["retention_change"] == pytest.approx(-0.2)
    assert (fst["seeds"], fst["failed"], fst["cell"], rl["cell"]) == (
        2, [], "trained_evolved", "trained_seed",
    )  # fmt: skip
    [pair] = result["pairs"]
    assert (pair["first"], pair["second"], pair["seeds"]) == ("fst", "rl", 2)
    assert pair["difference"]["estimate"] == pytest.approx(0.3)
    assert pair["p"] == 0.5  # two seeds cannot say more
    assert len(result["cells"]) == 4


def test_the_page_and_the_readme_say_what_was_found(tmp_path: Path) -> None:
    result = run(tmp_path / "out", "fst,rl,gepa", 2, MadeUp())
    html = (tmp_path / "out/index.html").read_text("utf-8")
    readme = (tmp_path / "out/README.md").read_text("utf-8")
    for text in ("fst scores highest", "91.2%", "fst − rl", "reverse → complement"):
        assert text in html
        assert text in readme
    assert "fst compare x.toml" in readme
    assert html.count("<svg") == 2
    assert re.findall(r"(?:src|href)=", html) == []  # it loads nothing
    assert (tmp_path / "out/learning.svg").read_text("utf-8").startswith('<svg xmlns="http')
    assert result["report"] == str(tmp_path / "out/index.html")


def test_a_failed_cell_is_named_and_in_no_mean(tmp_path: Path) -> None:
    result = run(
        tmp_path / "out", "fst,rl", 2, MadeUp(broken=("rl, reverse → complement, seed 4",))
    )
    rl = result["arms"]["rl"]
    assert (rl["seeds"], rl["failed"]) == (1, ["the server died"])
    assert rl["score"]["estimate"] == pytest.approx(0.6 + 0.03 / 3)
    assert result["pairs"][0]["seeds"] == 1
    assert "1 cell(s) failed" in headline(result)
    assert "the server died" in (tmp_path / "out/README.md").read_text("utf-8")


def test_an_arm_without_any_result_has_no_score(tmp_path: Path) -> None:
    result = run(tmp_path / "out", "fst,rl", 1, MadeUp(broken=("rl, ",)))
    assert result["arms"]["rl"]["score"] is None
    assert result["pairs"][0] == {
        "first": "fst", "second": "rl", "difference": None, "p": None, "seeds": 0,
    }  # fmt: skip
    assert [row[1] for row in pairs_grid(result).rows] == ["–"]
    assert [row[0] for row in arms_grid(result).rows] == ["fst", "rl"]


def test_the_finishing_stage_is_the_distill_arms_alone() -> None:
    asked = plan_comparison({**DATA, "distill": {"steps": 7}}, [], ["fst", "rl", "distill"], 1)
    steps = {arm: distill_steps(cell.config) for (arm, _), cell in asked.cells.items()}
    assert steps == {"fst": 0, "rl": 0, "distill": 7}


def test_the_order_of_arms_is_nobody_s_configuration(tmp_path: Path) -> None:
    run(tmp_path / "out", "fst,distill", 1, MadeUp())
    more = MadeUp()
    run(tmp_path / "out", "distill,fst", 1, more)
    assert more.ran == []


def test_more_seeds_later_run_only_what_is_missing(tmp_path: Path) -> None:
    run(tmp_path / "out", "fst,rl", 1, MadeUp())
    more = MadeUp()
    run(tmp_path / "out", "fst,rl,gepa", 2, more)
    assert len(more.ran) == 4


def test_another_run_file_leaves_the_results_alone(tmp_path: Path) -> None:
    run(tmp_path / "out", "fst", 1, MadeUp())
    page = (tmp_path / "out/index.html").read_bytes()
    with pytest.raises(ConfigError, match="another configuration"):
        run(tmp_path / "out", "fst", 1, MadeUp(), slow={"learning_rate": 1e-3})
    assert (tmp_path / "out/index.html").read_bytes() == page


def test_equal_rollouts_are_what_every_arm_may_spend() -> None:
    """The finishing stage of distill is paid for out of the same budget."""
    asked = plan_comparison(DATA, [], ["fst", "rl", "gepa", "sequential", "distill"], 1)
    totals = {total_rollouts(cell.config) for cell in asked.cells.values()}
    assert len(totals) == 1
    for (arm, _), cell in asked.cells.items():
        config = cell.config
        spent = sum(phase_rollouts(p, config) for p in plan(config)) + distill_rollouts(config)
        assert totals.copy().pop() * 0.9 < spent <= totals.copy().pop(), arm


@pytest.mark.parametrize(
    ("arms", "seeds", "more", "lines"),
    [
        ("fst,ppo", 1, {}, ["--arms: no arm 'ppo'; there are fst, rl, gepa, sequential, distill"]),
        ("fst,fst", 1, {}, ["--arms: expected each arm once, got fst,fst"]),
        ("fst", 0, {}, ["--seeds: got 0, expected at least 1"]),
        (
            "fst,rl",
            1,
            {"budget": {"rollouts": 1000}},
            [f"budget.rollouts: got 1000, but one cycle of these settings costs {STEP}"],
        ),
        ("fst,distill", 1, {"distill": {"steps": -4}}, ["distill.steps: Input should be greater"]),
    ],
)
def test_a_wrong_request_is_refused_before_anything_runs(
    arms: str, seeds: int, more: dict[str, Any], lines: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_comparison({**DATA, **more}, [], arms.split(","), seeds)
    assert len(caught.value.problems) == len(lines)
    for line, start in zip(caught.value.problems, lines, strict=True):
        assert line.startswith(start)


def test_a_slow_arm_is_drawn_to_its_end(tmp_path: Path) -> None:
    made = MadeUp(arms={**ARMS, "rl": Arm(top=0.0, cycles=1)})
    run(tmp_path / "out", "fst,rl", 1, made)
    assert "rl: 0 after" in (tmp_path / "out/learning.svg").read_text("utf-8")
