"""Settings side by side, on made-up cells: what they ask for, what they say, and when they must not
say anything."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import QUICK, STEP, Arm, record

from experiments.studies.ablate import ablate
from experiments.studies.ablation_table import (
    MEASURES,
    best,
    differences_of,
    favoured,
    summary_of,
    table_of,
    words,
)
from experiments.studies.ablations import (
    ABLATIONS,
    ACCEPTANCE,
    BASELINE,
    PENALTY,
    POPULATION,
    RATE,
    SCHEDULE,
    SPLIT,
    Ablation,
    asked_for,
)
from experiments.studies.catalog import ALL, chosen
from experiments.studies.cells import Cell, Record
from experiments.studies.curves import Point, area
from experiments.studies.scope import Scope, make_scope, read_targets
from experiments.studies.workers import Workers
from fst_agents.config import Acceptance, FastConfig, RunConfig
from fst_agents.errors import ConfigError, ServingError
from optimizers.plan import total_rollouts
from programs.micro import phrasebook

PLAIN = Arm(top=0.6, cycles=6, kl=0.2, lost=0.02)


@pytest.fixture(scope="module")
def scope() -> Scope:
    """Three rules with two seeds: the fewest runs that something can follow from."""
    return make_scope(QUICK, quick=True, development=True, seeds=2)


@dataclass
class MadeUp:
    """Runs learn by how they are set; ``broken`` picks those that fail."""

    arm: Callable[[RunConfig], Arm] = lambda config: PLAIN
    broken: Callable[[RunConfig], bool] = lambda config: False
    ran: list[str] = field(default_factory=list[str])

    def __call__(self, cell: Cell, folder: Path) -> Record:
        self.ran.append(cell.key)
        if self.broken(cell.config):
            raise ServingError("the server\ndied")
        return record(cell, self.arm(cell.config))


def run(ablation: Ablation, scope: Scope, out: Path, made: MadeUp | None = None) -> dict[str, Any]:
    return ablate(
        [ablation], scope, out, command="fst study", workers=Workers(run=made or MadeUp())
    )


def row(told: dict[str, Any], variant: str) -> dict[str, Any]:
    return next(r for r in told["rows"] if r["variant"] == variant)


# -- what is asked for ---------------------------------------------------------------------------


@pytest.mark.parametrize("ablation", ABLATIONS.values(), ids=list(ABLATIONS))
def test_no_reported_rule_is_ever_touched(ablation: Ablation, scope: Scope) -> None:
    fixed = read_targets()
    cells = [cell for own in ablation.cells(scope).values() for cell in own]
    targets = {tuple(cell.config.task.options["target"]) for cell in cells}
    assert targets == set(fixed.development)
    assert not targets & set(fixed.reported)


@pytest.mark.parametrize("ablation", ABLATIONS.values(), ids=list(ABLATIONS))
def test_the_default_is_one_of_the_variants_and_all_have_the_same_budget(
    ablation: Ablation, scope: Scope
) -> None:
    table = ablation.cells(scope)
    assert ablation.default in table
    assert {total_rollouts(cell.config) for own in table.values() for cell in own} == {
        total_rollouts(scope.base)
    }
    keys = [cell.key for own in table.values() for cell in own]
    assert len(set(keys)) == len(keys)


def test_the_default_s_cells_are_those_that_a_run_has_anyway(scope: Scope) -> None:
    for ablation in ABLATIONS.values():
        own = ablation.cells(scope)[ablation.default]
        assert own == [scope.cell(ablation.arm, *unit) for unit in scope.units]


def test_every_choice_there_is_stands_in_its_table() -> None:
    assert [v["fast"]["acceptance"] for v in ACCEPTANCE.variants.values()] == list(
        get_args(Acceptance)
    )
    assert list(SCHEDULE.variants) == ["fixed", "adaptive"]
    assert list(POPULATION.variants) == ["K = 1", "K = 2", "K = 4", "K = 8"]
    assert POPULATION.default == f"K = {FastConfig().population}"


def test_the_baseline_s_instructions_give_nothing_away() -> None:
    assert len(BASELINE.variants) >= 4
    assert all(phrasebook.parse(text) is None for text in BASELINE.variants)
    assert BASELINE.default == read_targets().rl_instruction in phrasebook.VAGUE


def test_ablations_are_no_part_of_all_and_go_together() -> None:
    assert not {study.name for study in chosen(ALL)} & set(ABLATIONS)
    assert asked_for("ablations") == [RATE, SCHEDULE, POPULATION, ACCEPTANCE, SPLIT, PENALTY]
    assert asked_for("baseline") == [BASELINE]
    assert asked_for("drift") == asked_for("all") == []


def test_the_rl_arm_gets_the_instruction_that_was_chosen(scope: Scope) -> None:
    target = scope.targets[0]
    assert scope.cell("rl", target, 0).config.task.options["instruction"] == scope.rl_instruction
    own = make_scope([*QUICK, "task.instruction=follow the rule."], quick=True)
    assert own.rl_instruction is None
    assert own.cell("rl", target, 0).config.task.options["instruction"] == "follow the rule."


def test_a_setting_that_cannot_be_run_is_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    scope = make_scope([*QUICK, "slow.group_size=4"], quick=True, development=True)
    with pytest.raises(ConfigError) as caught:
        run(POPULATION, scope, tmp_path / "out")
    assert len(caught.value.problems) == 1
    assert "K must divide slow.group_size (G); got K = 8, G = 4" in caught.value.problems[0]
    assert caught.value.problems[0].endswith("(study population, K = 8)")
    assert not (tmp_path / "out").exists()


def test_a_fast_phase_pays_for_a_proposal_under_every_k() -> None:
    """K = 8 and one proposal need (8 + 1) · 96 rollouts."""

    def rollouts(*asked: str) -> list[int]:
        scope = make_scope([*QUICK, *asked], quick=True, development=True)
        return [own[0].config.fast.rollouts for own in POPULATION.cells(scope).values()]

    assert rollouts() == [576, 576, 576, 864]
    assert rollouts("fast.rollouts=960") == [960] * 4


def test_there_are_three_development_rules(scope: Scope) -> None:
    with pytest.raises(ConfigError, match="--targets: got 4, expected 1 to 3"):
        make_scope(QUICK, development=True, targets=4)
    assert len(make_scope(QUICK, development=True, targets=2).targets) == 2


# -- what is measured ----------------------------------------------------------------------------


def test_the_area_by_hand() -> None:
    """0 until 10, 0.5 until 20, 1 until 40."""
    curve = [Point(10, 0.0, 0.5, 0.0, 1), Point(20, 0.0, 1.0, 0.0, 2)]
    assert area(curve, 40) == pytest.approx((0.5 * 10 + 1.0 * 20) / 40)
    assert area(curve, 15) == pytest.approx(0.5 * 5 / 15)
    assert area([], 40) == 0.0
    with pytest.raises(ValueError, match="budget: got 0"):
        area(curve, 0)


shares = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@given(values=shares, budget=st.integers(1, 100))
def test_the_area_lies_between_nothing_and_the_peak(values: list[float], budget: int) -> None:
    curve = [Point(10 * (k + 1), 0.0, v, 0.0, k) for k, v in enumerate(values)]
    assert 0.0 <= area(curve, budget) <= max(values) + 1e-12


def test_an_equal_setting_changes_nothing_and_the_default_stays(
    scope: Scope, tmp_path: Path
) -> None:
    told = run(SCHEDULE, scope, tmp_path / "out")
    assert told["favoured"] is None
    assert "the default stays" in told["words"]
    difference = row(told, "adaptive")["difference"]
    assert set(difference) == set(MEASURES)
    assert all(d == {"estimate": 0.0, "low": 0.0, "high": 0.0} for d in difference.values())
    assert row(told, "fixed")["difference"] is None


def test_a_faster_setting_is_favoured_with_figures_as_made_up(scope: Scope, tmp_path: Path) -> None:
    made = MadeUp(lambda c: Arm(0.9, 2, kl=0.1) if c.fast.schedule == "adaptive" else PLAIN)
    told = run(SCHEDULE, scope, tmp_path / "out", made)
    assert told["favoured"] == "adaptive"
    assert "The evidence favours adaptive over the default, fixed" in told["words"]
    own = row(told, "adaptive")
    assert own["score"]["estimate"] == pytest.approx(0.9)
    assert own["difference"]["score"]["estimate"] == pytest.approx(0.3)
    assert own["difference"]["kl"]["estimate"] == pytest.approx(-0.1)
    assert own["difference"]["retention"]["estimate"] == pytest.approx(0.02)
    assert own["never_half"] == 0
    # 0.6 · 5/6 is the first plateau of at least a half, in the fifth cycle and not before.
    assert row(told, "fixed")["half"]["estimate"] > 4 * STEP
    assert own["difference"]["half"]["estimate"] < 0


def test_what_costs_other_skills_is_not_favoured(scope: Scope, tmp_path: Path) -> None:
    made = MadeUp(lambda c: Arm(0.9, 2, lost=0.3) if c.fast.population == 8 else PLAIN)
    told = run(POPULATION, scope, tmp_path / "out", made)
    assert row(told, "K = 8")["difference"]["area"]["low"] > 0
    assert told["favoured"] is None


def test_a_run_that_never_gets_half_right_stands_with_its_whole_budget(
    scope: Scope, tmp_path: Path
) -> None:
    told = run(ACCEPTANCE, scope, tmp_path / "out", MadeUp(lambda c: Arm(0.3, 2)))
    for own in told["rows"]:
        assert own["half"]["estimate"] == total_rollouts(scope.base)
        assert own["never_half"] == own["runs"] == len(scope.units)


# -- what is said --------------------------------------------------------------------------------


def test_a_failed_run_is_in_no_mean_and_nothing_is_concluded(scope: Scope, tmp_path: Path) -> None:
    hard = scope.targets[0]
    made = MadeUp(
        arm=lambda c: Arm(0.9, 2) if c.fast.schedule == "adaptive" else PLAIN,
        broken=lambda c: c.fast.schedule == "adaptive" and tuple(c.task.options["target"]) == hard,
    )
    told = run(SCHEDULE, scope, tmp_path / "out", made)
    own = row(told, "adaptive")
    assert (own["runs"], own["failed"], own["pairs"], told["failed"]) == (4, 2, 4, 2)
    assert own["score"]["estimate"] == pytest.approx(0.9)
    assert own["difference"]["score"]["estimate"] == pytest.approx(0.3)
    assert told["favoured"] is None
    assert told["words"].startswith("Nothing can be told")
    assert [c["error"] for c in told["cells"] if "error" in c] == ["the server died"] * 2
    assert "the server died" in (tmp_path / "out/schedule/README.md").read_text("utf-8")
    again = MadeUp()
    run(SCHEDULE, scope, tmp_path / "out", again)
    assert len(again.ran) == 2  # what failed, and nothing else


def test_few_runs_are_no_evidence(tmp_path: Path) -> None:
    """One run a setting has an interval of no width, which is no certainty."""
    few = make_scope(QUICK, quick=True, development=True, targets=1)
    made = MadeUp(lambda c: Arm(0.9, 2, kl=0.1) if c.fast.schedule == "adaptive" else PLAIN)
    told = run(SCHEDULE, few, tmp_path / "out", made)
    assert row(told, "adaptive")["difference"]["area"]["low"] > 0
    assert told["favoured"] is None
    assert told["words"] == (
        "Nothing follows for the schedule of fast phases from 1 pair(s) of runs; 6 are the fewest."
    )


def test_without_any_run_the_table_says_so(scope: Scope, tmp_path: Path) -> None:
    told = run(SCHEDULE, scope, tmp_path / "out", MadeUp(broken=lambda c: True))
    assert all(own["score"] is None for own in told["rows"])
    assert table_of(told["rows"]).rows[0][1] == "–"
    assert summary_of(told["rows"]).rows[0] == ("fixed *", *["–"] * len(MEASURES), "6")
    assert differences_of(told["rows"]).rows[0][1:] == ("–",) * len(MEASURES)


def test_the_baseline_takes_what_is_best_for_it(scope: Scope, tmp_path: Path) -> None:
    best = phrasebook.VAGUE[3]
    made = MadeUp(lambda c: Arm(0.65 if c.task.options["instruction"] == best else 0.6, cycles=6))
    told = run(BASELINE, scope, tmp_path / "out", made)
    assert told["favoured"] == best
    assert best in told["words"]
    assert {cell["arm"] for cell in told["cells"]} == {"rl"}


def rows_of(**areas: tuple[float, float, float]) -> list[dict[str, Any]]:
    """A default and variants with these differences in area and none in all else."""

    def own(name: str, found: tuple[float, float, float] | None) -> dict[str, Any]:
        none = {"estimate": 0.0, "low": 0.0, "high": 0.0}
        area = None if found is None else dict(zip(("estimate", "low", "high"), found, strict=True))
        difference = {"area": area, "score": none, "retention": none}
        return {
            "variant": name,
            "failed": 0,
            "pairs": 6,
            "area": {"estimate": 0.5},
            "difference": None if found is None else difference,
        }

    return [own("default", None), *(own(name, found) for name, found in areas.items())]


@pytest.mark.parametrize(
    ("areas", "winner"),
    [
        ({}, None),
        ({"a": (0.1, 0.01, 0.2)}, "a"),
        ({"a": (0.1, -0.01, 0.2)}, None),
        ({"a": (0.0, 0.0, 0.0)}, None),
        ({"a": (0.1, 0.05, 0.2), "b": (0.2, 0.01, 0.4)}, "b"),
        ({"a": (0.1, 0.05, 0.2), "b": (0.3, -0.01, 0.6)}, "a"),
    ],
)
def test_the_rule_that_was_fixed_beforehand(
    areas: dict[str, tuple[float, float, float]], winner: str | None
) -> None:
    rows = rows_of(**areas)
    assert favoured(rows) == winner
    assert favoured([{**r, "failed": 1} for r in rows]) is None
    assert favoured([{**r, "pairs": 5} for r in rows]) is None
    assert best(rows) == "default"  # the first of equals
    assert best([{**r, "failed": 1} for r in rows]) is None


def test_words_name_the_default_and_the_winner(scope: Scope, tmp_path: Path) -> None:
    told = run(SCHEDULE, scope, tmp_path / "out")
    assert words(SCHEDULE, told["rows"]) == told["words"]
    assert "fixed" in told["words"]


# -- the folder ----------------------------------------------------------------------------------


def test_all_in_one_command_share_the_default_s_cells(scope: Scope, tmp_path: Path) -> None:
    out, made = tmp_path / "out", MadeUp()
    told = ablate(
        asked_for("ablations"), scope, out, command="fst study ablations", workers=Workers(run=made)
    )
    names = ["rate", "schedule", "population", "acceptance", "split", "penalty"]
    assert [r["study"] for r in told["studies"]] == names
    units = len(scope.units)
    assert len(made.ran) == len(set(made.ran)) == units * (1 + 2 + 1 + 3 + 2 + 2 + 2)
    for name in names:
        kept = json.loads((out / name / "result.json").read_text("utf-8"))
        assert kept["study"] == name
        readme = (out / name / "README.md").read_text("utf-8")
        for word in ("command", "machine", "time", "commit", "Fixed beforehand", "(default)"):
            assert word in readme
        assert (out / name / "learning.svg").is_file()
    again = MadeUp()
    ablate(
        asked_for("ablations"),
        scope,
        out,
        command="fst study ablations",
        workers=Workers(run=again),
    )
    assert again.ran == []


def test_another_configuration_leaves_the_results_alone(scope: Scope, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(SCHEDULE, scope, out)
    before = files(out)
    other = make_scope([*QUICK, "slow.learning_rate=1e-3"], quick=True, development=True)
    with pytest.raises(ConfigError, match="another configuration"):
        run(SCHEDULE, other, out)
    assert files(out) == before


def files(folder: Path) -> Sequence[tuple[str, bytes]]:
    return [(str(f), f.read_bytes()) for f in sorted(folder.rglob("*")) if f.is_file()]
