"""The studies on made-up cells: what they ask for, what they answer, and when they must not."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from made_up import ARMS, QUICK, Arm, MadeUp, quick_scope

from experiments.studies.catalog import STUDIES, chosen
from experiments.studies.page import Grid
from experiments.studies.protocol import FEWEST_GROUPS, Answer, judge
from experiments.studies.run import run_studies
from experiments.studies.scope import Scope, make_scope, read_targets, take_targets
from experiments.studies.sweep import RATES, choose, sweep, sweep_cells
from experiments.studies.workers import Workers
from fst_agents.errors import ConfigError
from optimizers.plan import distill_steps, total_rollouts
from programs import micro
from programs.micro import phrasebook


@pytest.fixture(scope="module")
def scope() -> Scope:
    return quick_scope()


@pytest.fixture(scope="module")
def wide() -> Scope:
    """With as many targets as an interval needs."""
    return replace(quick_scope(), targets=read_targets().reported[:FEWEST_GROUPS])


def run(name: str, scope: Scope, out: Path, made: MadeUp | None = None) -> dict[str, Any]:
    made = MadeUp() if made is None else made
    return run_studies(chosen(name), scope, out, command="fst study", workers=Workers(run=made))


# -- the targets ------------------------------------------------------------------------------


def test_the_reported_targets_follow_from_the_rule() -> None:
    held_out = json.loads((micro.path() / "quality.json").read_text("utf-8"))["held_out"]
    accuracy = {pair: cell["sampled"] for pair, cell in held_out.items()}
    fixed = read_targets()
    assert take_targets(accuracy, fixed.development, 8) == list(fixed.reported)
    good = [t for t in fixed.reported if accuracy[" > ".join(t)] > 0.05]
    assert list(fixed.quick) == [good[len(good) // 4], good[3 * len(good) // 4]]


def test_what_is_reported_was_neither_trained_on_nor_tuned_on() -> None:
    fixed = read_targets()
    assert set(fixed.reported) <= set(phrasebook.held_out_pairs())
    assert not set(fixed.reported) & set(fixed.development)


def test_no_two_rules_are_one_function_in_two_orders() -> None:
    fixed = read_targets()
    for one, other in combinations((*fixed.reported, *fixed.development), 2):
        assert not phrasebook.equivalent(one, other), (one, other)


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"targets": 9}, "--targets: got 9, expected 1 to 8"),
        ({"seeds": 0}, "--seeds: got 0"),
        ({"overrides": ["task.name=digits-pipeline"]}, "the targets are rules of 'digits'"),
        ({"overrides": ["slow.colour=red"]}, "slow.colour: unknown key"),
    ],
)
def test_a_wrong_request_is_one_line(asked: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(line)):
        make_scope(**asked)


# -- the studies ------------------------------------------------------------------------------


def test_all_studies_share_their_cells(scope: Scope, tmp_path: Path) -> None:
    made = MadeUp()
    result = run("all", scope, tmp_path / "out", made)
    assert [r["study"] for r in result["studies"]] == list(STUDIES)
    assert len(made.ran) == len(set(made.ran))
    asked = sum(len(study.cells(scope)) for study in STUDIES.values())
    assert len(made.ran) < asked / 2
    again = MadeUp()
    run("all", scope, tmp_path / "out", again)
    assert again.ran == []


def test_every_study_says_what_was_asked_of_it(scope: Scope, tmp_path: Path) -> None:
    for told in run("all", scope, tmp_path / "out")["studies"]:
        assert {"study", "paper", "ours", "holds", "n", "cells"} <= told.keys()
        assert set(told["ours"]) == {"estimate", "low", "high"}
        assert {"targets", "seeds"} <= told["n"].keys()
        assert isinstance(told["holds"], bool)
        assert told["words"].startswith(f"{told['finding']} {told['verdict']}")
        folder = tmp_path / "out" / told["study"]
        assert json.loads((folder / "result.json").read_text("utf-8"))["study"] == told["study"]
        readme = (folder / "README.md").read_text("utf-8")
        for word in ("command", "machine", "time", "commit", "Protocol"):
            assert word in readme
        for figure in re.findall(r"\]\(([\w-]+\.svg)\)", readme):
            ElementTree.parse(folder / figure)


EXPECTED = {
    # RL is at 0.6 after eight cycles, FST at 0.9 after two.
    "sample-efficiency": (4.0, "holds"),
    "forgetting": (0.0, "holds"),
    "channels": (0.5, "holds"),
    "prompts-alone": (0.5, "holds"),
    "distill": (0.4, "holds"),
    "plasticity": (0.0, "holds weakly"),  # at least as good, and not beyond no effect
}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_made_up_arms_give_the_figure_that_was_made_up(
    name: str, wide: Scope, tmp_path: Path
) -> None:
    told = run(name, wide, tmp_path / "out")
    figure, verdict = EXPECTED[name]
    assert told["ours"]["estimate"] == pytest.approx(figure, abs=0.01)
    assert told["verdict"] == verdict


def test_the_way_to_a_share_of_rls_peak_is_told_too(wide: Scope, tmp_path: Path) -> None:
    """RL is at k/8 of 0.6 after k cycles: at a quarter of 0.6 after two, where FST, at 0.45, is
    after one; at 90 % of it after eight, where FST is after two."""
    told = run("sample-efficiency", wide, tmp_path / "out")
    to_share = told["more"]["to_share"]
    assert list(to_share) == ["25%", "50%", "75%", "90%", "95%"]
    assert to_share["25%"] == pytest.approx(2.0)
    assert to_share["90%"] == pytest.approx(4.0)
    # FST: nothing for a cycle, 0.45 in the next, 0.9 for six. RL: k/8 of 0.6 after k cycles.
    assert told["more"]["area"] == pytest.approx((0.45 + 6 * 0.9) / 8 - 0.6 * 28 / 64)
    page = (tmp_path / "out/sample-efficiency/README.md").read_text("utf-8")
    assert "to 90% of it" in page
    assert "points with FST" in page


def test_drift_is_measured_where_both_are_equally_good(wide: Scope, tmp_path: Path) -> None:
    """At RL's peak of 0.6, RL has paid 2.0 × 0.6, and FST 0.1 × 0.6 in the same window."""
    told = run("drift", wide, tmp_path / "out")
    assert told["ours"]["estimate"] == pytest.approx(0.1 * 0.6 / (2.0 * 0.6), rel=0.05)
    assert told["holds"] is True


def test_a_higher_ceiling_is_seen_where_both_curves_have_flattened(
    wide: Scope, tmp_path: Path
) -> None:
    made = MadeUp(arms={**ARMS, "rl": Arm(top=0.6, cycles=4)})
    told = run("ceiling", wide, tmp_path / "a", made)
    assert told["ours"]["estimate"] == pytest.approx(0.3, abs=0.03)
    assert told["holds"] is True
    made = MadeUp(arms={**ARMS, "fst": Arm(top=0.6, cycles=4), "rl": Arm(top=0.9, cycles=2)})
    assert run("ceiling", wide, tmp_path / "b", made)["verdict"] == "does not hold"


def test_an_arm_that_is_no_better_does_not_hold(scope: Scope, tmp_path: Path) -> None:
    same = MadeUp(arms={**ARMS, "fst": ARMS["rl"]})
    assert run("sample-efficiency", scope, tmp_path / "a", same)["verdict"] == "does not hold"
    assert run("drift", scope, tmp_path / "b", same)["verdict"] == "does not hold"
    lost = MadeUp(arms={**ARMS, "fst": Arm(0.9, 2, lost=0.3)})
    assert run("forgetting", scope, tmp_path / "c", lost)["verdict"] == "does not hold"


def test_a_smaller_effect_holds_weakly(scope: Scope, tmp_path: Path) -> None:
    slower = MadeUp(arms={**ARMS, "fst": Arm(0.9, 6)})
    told = run("sample-efficiency", scope, tmp_path / "out", slower)
    assert 1 < told["ours"]["estimate"] < 3
    assert (told["verdict"], told["holds"]) == ("holds weakly", False)


def test_where_rl_never_learns_there_is_no_figure_and_it_is_said(
    scope: Scope, tmp_path: Path
) -> None:
    made = MadeUp(arms={**ARMS, "rl": Arm(top=0.01, cycles=9)})
    told = run("sample-efficiency", scope, tmp_path / "out", made)
    assert told["ours"] == {"estimate": None, "low": None, "high": None}
    assert told["verdict"] == "cannot be told"
    assert told["more"]["rl_never_leaves_zero"] == 1.0
    sooner = run("zero-reward", scope, tmp_path / "out", made)
    assert sooner["ours"]["estimate"] > 3  # the budget of eight cycles over FST's two and less
    assert sooner["more"] == {"rl_silent": 1.0, "fst_silent": 0.0}


def test_a_failed_cell_forbids_a_verdict(scope: Scope, tmp_path: Path) -> None:
    label = " → ".join(scope.targets[0])
    told = run("channels", scope, tmp_path / "out", MadeUp(broken=(label,)))
    assert (told["verdict"], told["holds"], told["failed"]) == ("cannot be told", False, 1)
    assert [c["error"] for c in told["cells"] if "error" in c] == ["the server died"]
    assert "the server died" in (tmp_path / "out/channels/README.md").read_text("utf-8")


def test_a_chain_of_rules_is_judged_by_its_worst_stage(scope: Scope, tmp_path: Path) -> None:
    told = run("continual", scope, tmp_path / "out")
    arms = {cell["arm"] for cell in told["cells"]}
    assert arms == {"fst", "rl"}
    assert told["ours"]["estimate"] == pytest.approx(1.0, abs=0.02)
    assert told["more"]["rl"] == pytest.approx(0.6 * 6 / 8 / 0.9, abs=0.02)


def test_an_unknown_study_names_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"no study 'f1'; there are sample-efficiency, .*, sweep, rate, "
    ):
        chosen("f1")


def test_another_configuration_leaves_the_results_alone(scope: Scope, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("channels", scope, out)
    other = replace(scope, base=scope.base.model_copy(update={"seed": 1}))
    with pytest.raises(ConfigError, match="another configuration"):
        run("channels", other, out)


# -- judging ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "failed", "verdict"),
    [
        ([3.0, 4.0, 3.0, 4.0, 5.0], 0, "holds"),
        ([3.0, 4.0, 3.0, 4.0], 0, "holds weakly"),  # an interval of four says too little
        ([0.5, 0.5, 0.5, 0.5, 20.0], 0, "holds weakly"),  # its interval does not
        ([2.0, 2.0], 0, "holds weakly"),
        ([4.0], 0, "holds weakly"),
        ([1.0, 0.5], 0, "does not hold"),
        ([3.0, 4.0], 1, "cannot be told"),
        ([], 0, "cannot be told"),
    ],
)
def test_verdicts(values: list[float], failed: int, verdict: str) -> None:
    """At least 3 is asked for, 1 is no effect."""
    answer = Answer([[v] for v in values], "", Grid((), ()))
    assert judge(STUDIES["sample-efficiency"].protocol, answer, failed).verdict == verdict


@pytest.mark.parametrize(
    ("values", "differences", "verdict"),
    [
        ([-0.01] * 5, [0.3, 0.5, 0.3, 0.5, 0.4], "holds"),
        ([-0.01] * 5, [0.3, -0.5, 0.4, -0.2, 0.3], "holds weakly"),  # not surely beyond RL
        ([-0.10, -0.30], [0.3, 0.5], "holds weakly"),  # better than RL, and too much is lost
        ([-0.10, -0.30], [-0.3, 0.2], "does not hold"),
        ([-0.01], [0.3], "holds weakly"),
        ([-0.01, -0.01], [], "cannot be told"),
    ],
)
def test_verdicts_against_another_arm(
    values: list[float], differences: list[float], verdict: str
) -> None:
    """At most 2 points lost is asked for; no effect is what RL loses, run by run."""
    pairs = [[v] for v in differences]
    answer = Answer([[v] for v in values], "", Grid((), ()), differences=pairs)
    assert judge(STUDIES["forgetting"].protocol, answer, 0).verdict == verdict


def test_differences_of_zero_prove_nothing() -> None:
    answer = Answer([[0.0]] * 5, "", Grid((), ()))
    assert judge(STUDIES["channels"].protocol, answer, 0).verdict == "holds weakly"


@pytest.mark.parametrize(
    "key",
    [
        *("arm='rl'", "run_dir='x'", "eval.every=20"),
        *('task.target=["reverse","double"]', "task={target=[]}"),
    ],
)
def test_what_studies_set_themselves_is_refused(key: str) -> None:
    with pytest.raises(
        ConfigError, match=r"--set (arm|run_dir|eval\.every|task\.target): .*; leave it out"
    ):
        make_scope([key])
    with pytest.raises(ConfigError, match=r"slow\.learning_rate: it is what the study varies"):
        make_scope(["slow={learning_rate=1e-4}"], varied={"slow.learning_rate"})


def test_a_rate_that_is_given_is_every_arm_s_however_it_is_written() -> None:
    for text in ("slow.learning_rate=1e-4", "slow={learning_rate=1e-4}"):
        given = make_scope([text])
        cells = [given.cell(arm, given.targets[0], 0) for arm in ("fst", "rl")]
        rates = {cell.config.slow.learning_rate for cell in cells}
        assert rates == {1e-4}


def test_the_finishing_stage_is_the_distill_arm_s_alone() -> None:
    scope = make_scope(["distill.steps=7"])
    steps = {
        a: distill_steps(scope.cell(a, scope.targets[0], 0).config) for a in ("fst", "distill")
    }
    assert steps == {"fst": 0, "distill": 7}


def test_every_stage_has_its_rollouts_whatever_the_budget_of_one_rule() -> None:
    scope = make_scope(["budget.rollouts=9000"])
    chain = [c for c in STUDIES["continual"].cells(scope) if c.stages is not None]
    usual = [c for c in STUDIES["continual"].cells(make_scope()) if c.stages is not None]
    assert {total_rollouts(c.config) for c in chain} == {total_rollouts(c.config) for c in usual}


def test_one_rule_alone_has_no_second() -> None:
    with pytest.raises(ConfigError, match="needs at least two targets; got one"):
        STUDIES["plasticity"].cells(make_scope(targets=1))


def test_the_second_rule_shares_nothing_with_the_first() -> None:
    scope = make_scope()
    seconds = [scope.second(target) for target in scope.targets]
    assert sorted(seconds) == sorted(scope.targets)
    for first, second in zip(scope.targets, seconds, strict=True):
        assert not set(first) & set(second)


# -- the sweep --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rules() -> Scope:
    return make_scope(QUICK, quick=True, development=True)


def test_the_sweep_never_touches_a_reported_target(scope: Scope, rules: Scope) -> None:
    fixed = read_targets()
    with pytest.raises(ConfigError, match="sort_descending → decrement is reported"):
        sweep_cells(scope)
    cells = [cell for own in sweep_cells(rules).values() for cell in own]
    targets = {tuple(cell.config.task.options["target"]) for cell in cells}
    assert targets == set(fixed.development)
    assert {cell.config.slow.learning_rate for cell in cells} == set(RATES)
    assert {cell.config.task.options["reward"] for cell in cells} == {"partial", "exact"}
    assert {cell.config.arm for cell in cells} == {"rl"}


def test_the_sweep_takes_the_lower_of_equal_rates(rules: Scope, tmp_path: Path) -> None:
    told = sweep(rules, tmp_path / "out", command="fst study sweep", workers=Workers(run=MadeUp()))
    assert told["learning_rate"] == min(RATES)
    assert len(told["rows"]) == 2 * len(RATES)


def test_a_rate_with_a_failed_run_is_not_chosen() -> None:
    rows = [
        {"reward": "partial", "learning_rate": 1e-4, "area": 0.2},
        {"reward": "partial", "learning_rate": 2e-4, "area": None},
        {"reward": "exact", "learning_rate": 4e-4, "area": 0.9},
    ]
    assert choose(rows) == 1e-4
    assert choose(rows[1:]) is None
