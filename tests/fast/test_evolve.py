"""Evolution on a toy whose optimum is known: instructions are bags of words.

Problem i asks for the word ``WORDS[i % 6]``; a rollout scores 1 if the instruction has it. The
feedback names the word, and the scripted reflection model adds the first word it reads.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fst_agents.config import FastConfig
from fst_agents.errors import ConfigError, ProgramError, ReflectionError, ServingError
from fst_agents.ledger import LedgerEvaluate, RolloutLedger
from fst_agents.types import Call, Candidate, Feedback, Outcome, Population, Problem, Rollout
from optimizers.fast_gepa import GepaFast

WORDS = ("red", "green", "blue", "cyan", "pink", "gold")
PROBLEMS = [Problem(f"p{i}", WORDS[i % 6]) for i in range(12)]
VERSION = 7

Score = Callable[[Candidate, Problem], float | None]


def has_word(candidate: Candidate, problem: Problem) -> float:
    return float(all(problem.example in text.split() for text in candidate.instructions.values()))


def play(candidate: Candidate, problem: Problem, score: float | None) -> Rollout:
    """One call per predictor; a predictor without the word gets the blame."""
    blame = {
        name: "well done" if problem.example in text.split() else f"missing: {problem.example}"
        for name, text in candidate.instructions.items()
    }
    calls = tuple(
        Call(name, (), (1,), (2,), (0.0,), "stop", VERSION, 1.0, "out", {"q": "x"}, {"a": "out"})
        for name in candidate.instructions
    )
    return Rollout(
        problem.id,
        candidate.id,
        VERSION,
        calls,
        Feedback(score, "whole program", predictor_text=blame),
        Outcome.INFRA_ERROR if score is None else Outcome.OK,
    )


class Evaluate:
    """Counts like the real one: a (problem, candidate) pair is paid for once."""

    def __init__(self, score: Score = has_word) -> None:
        self._score = score
        self._known: dict[tuple[str, str], Rollout] = {}

    def __call__(self, candidate: Candidate, problems: Sequence[Problem]) -> list[Rollout]:
        for problem in problems:
            key = (problem.id, candidate.id)
            if key not in self._known:
                self._known[key] = play(candidate, problem, self._score(candidate, problem))
        return [self._known[p.id, candidate.id] for p in problems]

    def spent(self) -> int:
        return len(self._known)


class Reflector:
    """Adds the first missing word to the instruction; counts its calls."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def __call__(self, prompt: str) -> str:
        self.prompts.append(prompt)
        current = prompt.split("```")[1].strip()
        missing = re.findall(r"missing: (\w+)", prompt)
        return f"Here you are:\n```\n{current} {missing[0]}\n```"


def start(*texts: str) -> Population:
    return Population(tuple(Candidate({"main": text}) for text in texts))


def config(**changes: object) -> FastConfig:
    return FastConfig.model_validate({"population": 3, "minibatch": 4, **changes})


def answer(text: str) -> Callable[[str], str]:
    return lambda prompt: text


def fails(prompt: str) -> str:
    raise ConnectionError("no route to host")


# --- learning -----------------------------------------------------------------------------------


def test_evolve_finds_the_optimum_and_stops_there() -> None:
    evaluate = Evaluate()
    fast = GepaFast(config(), Reflector())
    population, report = fast.evolve(
        start("solve"), PROBLEMS, evaluate, rollouts=500, policy_version=VERSION, cycle=0
    )
    assert set(population.best.instructions["main"].split()) == {"solve", *WORDS}
    assert population.mean(population.best.id) == 1.0
    assert population.policy_version == VERSION
    assert fast.record.stopped == "solved"
    metrics = report.metrics
    assert metrics["fast/seed_mean"] == 0.0
    assert metrics["fast/best_mean"] == 1.0
    assert metrics["fast/rollouts"] == evaluate.spent()
    assert metrics["fast/rollouts"] + metrics["fast/unused_budget"] == 500
    assert metrics["fast/proposals"] == metrics["fast/accepted"] + metrics["fast/rejected"]


def test_children_name_their_parents_and_carried_members_keep_theirs() -> None:
    grandparent = Candidate({"main": "solve"}, parents=("0123456789ab",))
    fast = GepaFast(config(population=1), Reflector())
    population, _ = fast.evolve(
        Population((grandparent,)),
        PROBLEMS,
        Evaluate(),
        rollouts=500,
        policy_version=VERSION,
        cycle=0,
    )
    lineage = {c.id: c for c in fast.record.candidates if c.accepted}
    node = lineage[population.best.id]
    while not node.carried_over:
        (parent,) = node.parents
        node = lineage[parent]
    assert node.id == grandparent.id
    assert population.best.parents == lineage[population.best.id].parents


def test_all_carried_over_members_are_rescored_and_can_be_parents() -> None:
    """Three specialists with stale scores of version 6; 36 rollouts re-score them, no more."""
    carried = start("red green blue", "cyan pink", "gold")
    stale = Population(carried.candidates, {c.id: {"old": 0.0} for c in carried.candidates}, 6)
    evaluate = Evaluate()
    fast = GepaFast(config(), Reflector(), seed=1)
    population, report = fast.evolve(
        stale, PROBLEMS, evaluate, rollouts=36, policy_version=VERSION, cycle=1
    )
    assert evaluate.spent() == 36
    assert report.metrics["fast/reflection_calls"] == 0
    assert population.candidates == carried.candidates
    assert [population.mean(c.id) for c in population.candidates] == [3 / 6, 2 / 6, 1 / 6]
    _, report = fast.evolve(
        population, PROBLEMS, Evaluate(), rollouts=300, policy_version=VERSION, cycle=2
    )
    parents = {p for c in fast.record.candidates if not c.carried_over for p in c.parents}
    assert len(parents & {c.id for c in carried.candidates}) >= 2
    assert report.metrics["fast/best_mean"] > 0.5


def test_same_seed_same_phase_and_another_cycle_another_order() -> None:
    def phase(seed: int, cycle: int) -> list[str]:
        fast = GepaFast(config(), Reflector(), seed=seed)
        fast.evolve(
            start("solve"), PROBLEMS, Evaluate(), rollouts=90, policy_version=VERSION, cycle=cycle
        )
        return [c.id for c in fast.record.candidates]

    assert phase(3, 0) == phase(3, 0)
    assert len({tuple(phase(3, cycle)) for cycle in range(4)}) > 1


def test_ledger_rollouts_of_the_slow_phase_are_free() -> None:
    seed = Candidate({"main": "solve"})
    ledger = RolloutLedger()
    ledger.add(play(seed, p, has_word(seed, p)) for p in PROBLEMS[:5])

    def run(candidate: Candidate, problems: Sequence[Problem]) -> list[Rollout]:
        return [play(candidate, p, has_word(candidate, p)) for p in problems]

    evaluate = LedgerEvaluate(run, ledger, policy_version=VERSION)
    _, report = GepaFast(config(), Reflector()).evolve(
        Population((seed,)), PROBLEMS, evaluate, rollouts=40, policy_version=VERSION, cycle=0
    )
    assert report.metrics["fast/reused"] == 5
    assert report.metrics["fast/rollouts"] == evaluate.spent() <= 40


# --- budget -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    budget=st.integers(12, 150),
    members=st.integers(1, 3),
    minibatch=st.integers(1, 14),
    merge=st.booleans(),
    seed=st.integers(0, 5),
    acceptance=st.sampled_from(["strict_improvement", "improvement_or_equal", "beyond_noise"]),
)
def test_budget_is_never_exceeded_and_what_is_left_is_reported(
    budget: int, members: int, minibatch: int, merge: bool, seed: int, acceptance: str
) -> None:
    texts = ("solve", "red", "cyan pink")[:members]
    fast = GepaFast(
        config(minibatch=minibatch, merge=merge, acceptance=acceptance), Reflector(), seed
    )
    evaluate = Evaluate()
    if budget < members * len(PROBLEMS):
        with pytest.raises(ConfigError, match=f"got {budget}"):
            fast.evolve(
                start(*texts), PROBLEMS, evaluate, rollouts=budget, policy_version=7, cycle=0
            )
        assert evaluate.spent() == 0
        return
    _, report = fast.evolve(
        start(*texts), PROBLEMS, evaluate, rollouts=budget, policy_version=7, cycle=0
    )
    assert evaluate.spent() == report.metrics["fast/rollouts"] <= budget
    assert report.metrics["fast/unused_budget"] == budget - evaluate.spent()
    if fast.record.stopped == "budget":
        assert report.metrics["fast/unused_budget"] < len(PROBLEMS)


def test_an_accepted_child_costs_exactly_the_anchor_set() -> None:
    """24 = 12 for the seed + 12 for the one child there is room for; minibatches are free."""
    evaluate = Evaluate()
    _, report = GepaFast(config(), Reflector()).evolve(
        start("solve"), PROBLEMS, evaluate, rollouts=35, policy_version=VERSION, cycle=0
    )
    assert report.metrics["fast/accepted"] == 1
    assert evaluate.spent() == 24


def test_a_rejected_child_costs_its_minibatch() -> None:
    """All scores are equal, no child improves: one pays 4 of 12, 8 are too few for another."""
    evaluate = Evaluate(lambda candidate, problem: 0.5)
    _, report = GepaFast(config(), Reflector()).evolve(
        start("solve"), PROBLEMS, evaluate, rollouts=24, policy_version=VERSION, cycle=0
    )
    assert (report.metrics["fast/rejected"], evaluate.spent()) == (1, 16)


# --- masked rollouts ----------------------------------------------------------------------------


def test_problem_masked_for_a_carried_member_is_left_out_for_all() -> None:
    def score(candidate: Candidate, problem: Problem) -> float | None:
        lost = problem.id == "p0" and candidate.instructions["main"] == "red"
        return None if lost else has_word(candidate, problem)

    fast = GepaFast(config(), Reflector())
    population, report = fast.evolve(
        start("solve", "red"),
        PROBLEMS,
        Evaluate(score),
        rollouts=300,
        policy_version=VERSION,
        cycle=0,
    )
    assert report.metrics["fast/masked"] == 1
    assert all(set(row) == {p.id for p in PROBLEMS[1:]} for row in population.scores.values())


def test_masked_rollouts_of_a_child_neither_help_nor_hurt() -> None:
    """Every child loses two problems; the optimum is still found on the other ten."""

    def score(candidate: Candidate, problem: Problem) -> float | None:
        child = candidate.instructions["main"] != "solve"
        return None if child and problem.id in ("p0", "p1") else has_word(candidate, problem)

    fast = GepaFast(config(population=1), Reflector())
    population, report = fast.evolve(
        start("solve"), PROBLEMS, Evaluate(score), rollouts=500, policy_version=VERSION, cycle=0
    )
    assert fast.record.stopped == "solved"
    assert report.metrics["fast/best_mean"] == 1.0
    assert set(population.scores[population.best.id]) == {p.id for p in PROBLEMS[2:]}


def test_child_that_could_hardly_be_scored_is_not_selected() -> None:
    """The child keeps 5 of 12 problems, all perfect: too little to be called better."""

    def score(candidate: Candidate, problem: Problem) -> float | None:
        if candidate.instructions["main"] == "solve":
            return 0.0
        return 1.0 if problem.id in ("p1", "p2", "p3", "p4", "p5") else None

    fast = GepaFast(config(minibatch=12), Reflector())
    population, report = fast.evolve(
        start("solve"), PROBLEMS, Evaluate(score), rollouts=24, policy_version=VERSION, cycle=0
    )
    assert report.metrics["fast/accepted"] == 1
    assert [c.instructions["main"] for c in population.candidates] == ["solve"]
    assert len(population.scores[population.best.id]) == 12


def test_nothing_scored_is_an_error_not_a_zero() -> None:
    with pytest.raises(ServingError, match="no problem of 12 could be scored"):
        GepaFast(config(), Reflector()).evolve(
            start("solve"), PROBLEMS, Evaluate(lambda c, p: None), rollouts=50,
            policy_version=VERSION, cycle=0,
        )  # fmt: skip


def test_a_score_above_that_of_a_solved_problem_is_refused() -> None:
    """Stars from 1 to 5: by the usual best, 1, every text would be perfect and none be tried."""

    def stars(candidate: Candidate, problem: Problem) -> float:
        return 1.0 + 4.0 * has_word(candidate, problem)

    def evolve(perfect_score: float = 1.0) -> Population:
        fast = GepaFast(config(), Reflector(), perfect_score=perfect_score)
        return fast.evolve(
            start("red"), PROBLEMS, Evaluate(stars), rollouts=500, policy_version=VERSION, cycle=0
        )[0]

    with pytest.raises(ConfigError, match=r"task.score_range: a score of 5 is above .* 1; set it"):
        evolve()
    assert evolve(perfect_score=5.0).best.instructions["main"] != "red"


def test_scores_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(ProgramError, match="not a finite number"):
        GepaFast(config(), Reflector()).evolve(
            start("solve"), PROBLEMS, Evaluate(lambda c, p: float("nan")), rollouts=50,
            policy_version=VERSION, cycle=0,
        )  # fmt: skip


# --- several predictors -------------------------------------------------------------------------


def pair(first: str, second: str) -> Population:
    return Population((Candidate({"plan": first, "write": second}),))


@pytest.mark.parametrize("components", ["round_robin", "all"])
def test_instructions_of_all_predictors_evolve(components: str) -> None:
    def half(candidate: Candidate, problem: Problem) -> float:
        return sum(problem.example in t.split() for t in candidate.instructions.values()) / 2

    population, report = GepaFast(config(components=components), Reflector()).evolve(
        pair("plan", "write"),
        PROBLEMS,
        Evaluate(half),
        rollouts=900,
        policy_version=VERSION,
        cycle=0,
    )
    assert report.metrics["fast/best_mean"] == 1.0
    assert all(set(WORDS) <= set(t.split()) for t in population.best.instructions.values())


def test_only_the_named_components_change() -> None:
    fast = GepaFast(config(population=4), Reflector(), components=["write"])
    fast.evolve(
        pair(" ".join(WORDS), "write"),
        PROBLEMS,
        Evaluate(),
        rollouts=900,
        policy_version=VERSION,
        cycle=1,
    )
    assert {c.instructions["plan"] for c in fast.record.candidates} == {" ".join(WORDS)}
    assert fast.record.stopped == "solved"


def test_round_robin_begins_with_the_next_component_in_the_next_cycle() -> None:
    def first_change(cycle: int) -> str:
        reflector = Reflector()
        fast = GepaFast(config(), reflector)
        fast.evolve(
            pair("plan", "write"),
            PROBLEMS,
            Evaluate(),
            rollouts=24,
            policy_version=VERSION,
            cycle=cycle,
        )
        return reflector.prompts[0].split("```")[1].strip()

    assert [first_change(cycle) for cycle in range(3)] == ["plan", "write", "plan"]


def test_merge_crosses_children_of_one_parent() -> None:
    """The reflection model replaces the word, so specialists stay on the front and can be merged.

    A predictor with the word earns half a point; a merged candidate has two parents.
    """

    def half(candidate: Candidate, problem: Problem) -> float:
        return sum(problem.example in t.split() for t in candidate.instructions.values()) / 2

    def replace(prompt: str) -> str:
        return f"```\n{re.findall(r'missing: (.+)', prompt)[0]}\n```"

    fast = GepaFast(config(population=4, merge=True), replace, seed=1)
    fast.evolve(
        pair("red", "red"), PROBLEMS, Evaluate(half), rollouts=900, policy_version=7, cycle=0
    )
    merged = [c for c in fast.record.candidates if len(c.parents) == 2]
    texts = {c.id: c.instructions for c in fast.record.candidates}
    assert merged
    for child in merged:
        mother, father = (texts[p] for p in child.parents)
        assert all(t in (mother[n], father[n]) for n, t in child.instructions.items())


# --- the reflection model -----------------------------------------------------------------------


def test_reflection_that_fails_at_once_raises_and_costs_no_proposal() -> None:
    evaluate = Evaluate()
    with pytest.raises(ReflectionError, match="ConnectionError: no route to host") as caught:
        GepaFast(config(), fails).evolve(
            start("solve"), PROBLEMS, evaluate, rollouts=400, policy_version=VERSION, cycle=0
        )
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert evaluate.spent() == 12


def test_a_reflection_error_comes_through_as_it_is() -> None:
    def helpless(prompt: str) -> str:
        raise ReflectionError("this task is not in my phrase book")

    with pytest.raises(ReflectionError, match=r"^this task is not in my phrase book$"):
        GepaFast(config(), helpless).evolve(
            start("solve"), PROBLEMS, Evaluate(), rollouts=400, policy_version=VERSION, cycle=0
        )


def test_one_failure_of_a_proven_model_is_forgiven_three_in_a_row_are_not() -> None:
    class Flaky(Reflector):
        failing: frozenset[int] = frozenset()

        def __call__(self, prompt: str) -> str:
            if len(self.prompts) in self.failing:
                self.prompts.append("")
                raise TimeoutError("slow")
            return super().__call__(prompt)

    flaky = Flaky()
    flaky.failing = frozenset({1, 3, 4})
    fast = GepaFast(config(), flaky)
    _, report = fast.evolve(
        start("solve"), PROBLEMS, Evaluate(), rollouts=500, policy_version=VERSION, cycle=0
    )
    assert report.metrics["fast/best_mean"] == 1.0
    calls = len(flaky.prompts)
    assert report.metrics["fast/reflection_calls"] == calls
    flaky.failing = frozenset(range(calls, calls + 3))
    with pytest.raises(ReflectionError, match=r"3 time\(s\) in a row"):
        fast.evolve(
            start("solve"), PROBLEMS, Evaluate(), rollouts=500, policy_version=VERSION, cycle=1
        )
    assert len(flaky.prompts) == calls + 3


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Use all the colours.", "no complete ``` block"),
        ("```\nUse all the", "no complete ``` block"),
        ("```\n\n```", "block is empty"),
        ("```\n  solve \n```", "unchanged"),
        ("```\n" + "long " * 5000 + "\n```", "24999 bytes, at most 20000"),
    ],
)
def test_useless_answers_end_the_phase_without_paying(text: str, fault: str) -> None:
    evaluate = Evaluate()
    fast = GepaFast(config(), answer(text))
    population, report = fast.evolve(
        start("solve"), PROBLEMS, evaluate, rollouts=500, policy_version=VERSION, cycle=0
    )
    assert fast.record.stopped == "no usable proposal"
    assert report.metrics["fast/invalid_proposals"] == 8
    assert report.metrics["fast/reflection_calls"] == 8
    assert all(fault in line for line in fast.record.faults)
    assert evaluate.spent() == 12
    assert [c.instructions["main"] for c in population.candidates] == ["solve"]


def test_proposals_already_in_the_pool_are_not_paid_for_again() -> None:
    evaluate = Evaluate()
    fast = GepaFast(config(), answer("```\nsolve red\n```"))
    _, report = fast.evolve(
        start("solve", "solve red"),
        PROBLEMS,
        evaluate,
        rollouts=500,
        policy_version=VERSION,
        cycle=0,
    )
    assert evaluate.spent() == 24
    assert report.metrics["fast/proposals"] == 0
    assert report.metrics["fast/duplicate_proposals"] + report.metrics["fast/invalid_proposals"] > 0


def test_a_proposal_that_keeps_being_rejected_is_tried_three_times_at_most() -> None:
    """Each try costs at most its minibatch; then it counts as a duplicate and the phase ends."""
    evaluate = Evaluate()
    fast = GepaFast(config(minibatch=2), answer("```\nuseless\n```"))
    _, report = fast.evolve(
        start("solve"), PROBLEMS, evaluate, rollouts=500, policy_version=VERSION, cycle=0
    )
    assert evaluate.spent() <= 12 + 3 * 2
    assert report.metrics["fast/rejected"] == 1
    assert report.metrics["fast/duplicate_proposals"] == 8
    assert fast.record.stopped == "no usable proposal"


def test_answers_that_are_no_text_are_refused() -> None:
    def silent(prompt: str) -> str:
        return None  # pyright: ignore[reportReturnType]

    with pytest.raises(ReflectionError, match="must return a str, got NoneType"):
        GepaFast(config(), silent).evolve(
            start("solve"), PROBLEMS, Evaluate(), rollouts=50, policy_version=VERSION, cycle=0
        )


def test_an_interrupt_passes_through() -> None:
    def interrupted(prompt: str) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        GepaFast(config(), interrupted).evolve(
            start("solve"), PROBLEMS, Evaluate(), rollouts=50, policy_version=VERSION, cycle=0
        )


def test_errors_of_evaluate_come_through() -> None:
    def broken(candidate: Candidate, problem: Problem) -> float:
        if candidate.instructions["main"] != "solve":
            raise ServingError("the server died")
        return 0.0

    with pytest.raises(ServingError, match="the server died"):
        GepaFast(config(), Reflector()).evolve(
            start("solve"), PROBLEMS, Evaluate(broken), rollouts=50, policy_version=7, cycle=0
        )


# --- requests that are refused ------------------------------------------------------------------


def test_all_faults_of_a_request_are_named_before_anything_is_paid() -> None:
    evaluate = Evaluate()
    fast = GepaFast(config(), Reflector(), components=["writer"])
    with pytest.raises(ConfigError) as caught:
        fast.evolve(
            start("a", "b"), [*PROBLEMS, PROBLEMS[0]], evaluate, rollouts=25,
            policy_version=VERSION, cycle=0,
        )  # fmt: skip
    assert [line.split(":")[0] for line in caught.value.problems] == [
        "components",
        "the fast phase needs problems with distinct ids",
        "fast.rollouts",
    ]
    assert "2 candidate(s) on 13 problems takes 26 rollouts, got 25" in str(caught.value)
    assert evaluate.spent() == 0


def test_no_problems_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one problem"):
        GepaFast(config(), Reflector()).evolve(
            start("a"), [], Evaluate(), rollouts=25, policy_version=VERSION, cycle=0
        )


# --- what is left behind ------------------------------------------------------------------------


def test_nothing_is_printed_or_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    stdout, stderr = sys.stdout, sys.stderr
    GepaFast(config(merge=True), Reflector()).evolve(
        start("solve"), PROBLEMS, Evaluate(), rollouts=200, policy_version=VERSION, cycle=0
    )
    assert (sys.stdout, sys.stderr) == (stdout, stderr)
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_record_is_json_and_written_to_the_log_folder(tmp_path: Path) -> None:
    fast = GepaFast(config(), Reflector(), log_folder=tmp_path / "population")
    population, report = fast.evolve(
        start("solve"), PROBLEMS, Evaluate(), rollouts=60, policy_version=VERSION, cycle=4
    )
    (path,) = (tmp_path / "population").iterdir()
    assert path.name == "fast-004.json"
    data = json.loads(path.read_text())
    assert data == fast.record.to_dict()
    assert data["metrics"] == dict(report.metrics)
    seed, *children = data["candidates"]
    assert seed["carried_over"]
    assert seed["accepted"]
    assert len(seed["feedback"]) <= 3
    assert {c["id"] for c in data["candidates"] if c["selected"]} == {
        c.id for c in population.candidates
    }
    assert len(children) == report.metrics["fast/proposals"]
    assert all(c["parents"] for c in children)
