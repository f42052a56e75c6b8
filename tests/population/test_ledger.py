"""The rollout ledger and the evaluator that reads it first."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fst_agents.errors import ProgramError, StalePolicyError
from fst_agents.ledger import LedgerEvaluate, RolloutLedger
from fst_agents.types import Candidate, Feedback, Outcome, Problem, Rollout

A, B = Candidate({"p": "a"}), Candidate({"p": "b"})


def rollout(
    problem: str, candidate: Candidate = A, version: int = 0, score: float | None = 1.0
) -> Rollout:
    outcome = Outcome.TIMEOUT if score is None else Outcome.OK
    return Rollout(problem, candidate.id, version, (), Feedback(score), outcome)


def problems(*names: str) -> list[Problem]:
    return [Problem(name, None) for name in names]


class Runner:
    """Runs whatever it is asked for under one version and remembers what that was."""

    def __init__(self, version: int = 0, score: float | None = 0.5) -> None:
        self.version = version
        self.score = score
        self.asked: list[list[str]] = []

    def __call__(self, candidate: Candidate, problems: Sequence[Problem]) -> list[Rollout]:
        self.asked.append([p.id for p in problems])
        return [rollout(p.id, candidate, self.version, self.score) for p in problems]


@pytest.mark.parametrize(
    ("staleness", "version", "found"),
    [(0, 5, True), (0, 6, False), (1, 6, True), (1, 7, False), (1, 4, False)],
)
def test_find_answers_within_the_allowed_staleness_only(
    staleness: int, version: int, found: bool
) -> None:
    ledger = RolloutLedger(staleness)
    ledger.add([rollout("x", version=5)])
    assert (ledger.find("x", A.id, version) is not None) is found
    assert ledger.reused == int(found)
    assert ledger.find("x", B.id, 5) is None


def test_first_rollout_of_the_newest_version_is_remembered() -> None:
    ledger = RolloutLedger(max_staleness=3)
    old, first, second = rollout("x", version=1), rollout("x", version=2), rollout("x", version=2)
    ledger.add([first, second, old])
    assert ledger.find("x", A.id, 2) is first
    assert ledger.paid == 3


def test_a_newer_version_drops_what_is_too_old() -> None:
    ledger = RolloutLedger(max_staleness=1)
    ledger.add([rollout("x", version=1), rollout("y", version=2)])
    assert len(ledger) == 2
    ledger.add([rollout("z", version=3)])
    assert len(ledger) == 2
    assert ledger.find("x", A.id, 2) is None
    ledger.add([rollout("x", version=1)])
    assert len(ledger) == 2


def test_memory_is_bounded_by_capacity() -> None:
    ledger = RolloutLedger(capacity=2)
    ledger.add([rollout("x"), rollout("y"), rollout("z")])
    assert [ledger.find(name, A.id, 0) is None for name in "xyz"] == [True, False, False]


def test_masked_rollouts_are_not_remembered() -> None:
    ledger = RolloutLedger()
    ledger.add([rollout("x", score=None)])
    assert len(ledger) == 0
    assert ledger.paid == 1


@pytest.mark.parametrize("bad", [(-1, 5), (0, 0)])
def test_ledger_refuses_impossible_bounds(bad: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="max_staleness >= 0"):
        RolloutLedger(*bad)


def test_evaluate_runs_only_what_is_missing_and_keeps_the_order() -> None:
    ledger = RolloutLedger()
    ledger.add([rollout("y")])
    run = Runner()
    evaluate = LedgerEvaluate(run, ledger, policy_version=0)
    answers = evaluate(A, problems("x", "y", "z", "x"))
    assert [r.problem_id for r in answers] == ["x", "y", "z", "x"]
    assert [r.score for r in answers] == [0.5, 1.0, 0.5, 0.5]
    assert run.asked == [["x", "z"]]
    assert (evaluate.spent(), ledger.reused) == (2, 1)


def test_evaluate_is_free_the_second_time_masked_rollouts_included() -> None:
    run = Runner(score=None)
    evaluate = LedgerEvaluate(run, RolloutLedger(), policy_version=0)
    first = evaluate(A, problems("x"))
    assert evaluate(A, problems("x")) == first
    assert evaluate.spent() == 1
    assert evaluate(B, problems("x")) != first
    assert evaluate.spent() == 2


def test_evaluate_feeds_the_ledger_for_the_next_phase() -> None:
    ledger = RolloutLedger(max_staleness=1)
    LedgerEvaluate(Runner(), ledger, policy_version=0)(A, problems("x"))
    later = LedgerEvaluate(Runner(1), ledger, policy_version=1)
    later(A, problems("x", "y"))
    assert later.spent() == 1


def test_evaluate_refuses_rollouts_of_another_version() -> None:
    evaluate = LedgerEvaluate(Runner(version=3), RolloutLedger(), policy_version=4)
    with pytest.raises(StalePolicyError, match=r"version\(s\) \[3\] while version 4"):
        evaluate(A, problems("x"))


def test_evaluate_refuses_an_answer_to_another_question() -> None:
    def run(candidate: Candidate, asked: Sequence[Problem]) -> list[Rollout]:
        return [rollout(p.id, candidate) for p in reversed(asked)]

    evaluate = LedgerEvaluate(run, RolloutLedger(), policy_version=0)
    with pytest.raises(ProgramError, match="one per problem, in order"):
        evaluate(A, problems("x", "y"))


@given(
    st.lists(st.tuples(st.sampled_from([A, B]), st.lists(st.sampled_from("uvwxyz"), max_size=8))),
    st.sets(st.sampled_from("uvwxyz")),
)
def test_evaluate_spends_once_per_pair(
    requests: list[tuple[Candidate, list[str]]], known: set[str]
) -> None:
    """Spent equals the distinct (problem, candidate) pairs asked for that nobody had run."""
    ledger = RolloutLedger()
    ledger.add([rollout(name) for name in sorted(known)])
    evaluate = LedgerEvaluate(Runner(), ledger, policy_version=0)
    for candidate, names in requests:
        assert [r.problem_id for r in evaluate(candidate, problems(*names))] == names
    asked = {(c.id, name) for c, names in requests for name in names}
    assert evaluate.spent() == len(asked - {(A.id, name) for name in known})
