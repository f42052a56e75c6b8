"""The two-step digits task: each predictor is judged by its own part of the rule."""

from __future__ import annotations

from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fst_agents.dspy_bridge import apply, seed_candidate
from fst_agents.errors import ConfigError
from fst_agents.run_file import read_options
from programs.digits import DigitsPipeline, PipelineRule
from programs.digits.pipeline import ENTRY, PipelineOptions, grade
from programs.micro import phrasebook
from programs.micro.reflector import read_examples

RULE = PipelineRule(("increment",), ("reverse", "complement"))
GOLD = RULE.example((4, 7, 1, 9), "train")
"""4719 → 5820 (add one) → 0285 (reversed) → 9714 (subtracted from nine)."""


def judge(middle: Any, answer: Any, **kwargs: Any) -> dspy.Prediction:
    prediction = dspy.Prediction(middle=middle, answer=answer)
    settings: dict[str, Any] = {"reward": "partial", "credit": "predictor", **kwargs}
    return grade(GOLD, prediction, **settings)


def test_the_labels_are_the_rule_s() -> None:
    assert (GOLD.digits, GOLD.middle, GOLD.answer) == ("4719", "5820", "9714")
    assert GOLD.inputs().toDict() == {"digits": "4719"}
    assert judge("5820", "9714").score == 1.0


def test_the_second_predictor_is_judged_by_what_it_was_given() -> None:
    """1234 is wrong in all four places; reversed and subtracted from nine it is 5678."""
    result = judge("1234", "5678")
    assert result.predictor_scores == {"first": 0.0, "second": 1.0}
    assert result.score == 0.5
    assert result.objective_scores == {"exact": 0.0, "partial": 0.5}


def test_partial_credit_counts_positions_of_each_list() -> None:
    """5829 has three of four right. From it 0714 is right (9285 → 0714); 0799 has two of four."""
    result = judge("5829", "0799")
    assert result.predictor_scores == {"first": 0.75, "second": 0.5}
    assert result.score == pytest.approx(0.625)
    assert judge("5829", "0799", reward="exact").score == 0.0


def test_nothing_is_right_after_what_cannot_be_read() -> None:
    result = judge("no digits", "9714")
    assert result.predictor_scores == {"first": 0.0, "second": 0.0}
    assert "Input 5820, expected 9714" in judge("no digits", "1", of="second").feedback


def test_feedback_is_about_the_predictor_that_is_asked_for() -> None:
    first = judge("1234", "5678", of="first").feedback
    second = judge("1234", "5678", of="second").feedback
    assert first.startswith("Input 4719, expected 5820, got '1234'.")
    assert second.startswith("Input 1234, expected 5678, got '5678'.")
    assert "correct" in second
    assert judge("1234", "5678").feedback == f"first: {first}\nsecond: {second}"
    assert len(read_examples(first)) == len(read_examples(second)) == 1


def test_credit_may_be_left_with_the_program() -> None:
    assert judge("1234", "5678", credit="program").predictor_scores == {}


@given(st.text(max_size=12) | st.none(), st.text(max_size=12) | st.none())
def test_whatever_is_answered_gets_a_score(middle: str | None, answer: str | None) -> None:
    result = judge(middle, answer)
    assert 0.0 <= result.score <= 1.0
    assert result.feedback


def test_the_rule_is_shared_out() -> None:
    assert PipelineRule.of(("double", "reverse")) == PipelineRule(("double",), ("reverse",))
    assert PipelineRule.of(("double", "reverse", "increment")).second == ("reverse", "increment")
    four = PipelineRule.of(("double", "reverse", "increment", "swap_ends"))
    assert four == PipelineRule(("double", "reverse"), ("increment", "swap_ends"))


@pytest.mark.parametrize(
    ("target", "words"),
    [(["reverse"], "got 1 operations"), (["reverse", "spin"], "unknown operation: got 'spin'")],
)
def test_a_rule_that_makes_no_sense_is_refused(target: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        read_options(PipelineOptions, {"target": target}, "task")
    assert caught.value.problems[0].startswith("task.target: ")


def test_the_task_s_splits_share_no_digits_and_follow_the_seed() -> None:
    options = PipelineOptions(train_size=30, val_size=20, test_size=10)
    task, again, other = (ENTRY.build(options, seed) for seed in (0, 0, 1))
    every = [*task.trainset, *task.valset, *task.testset]
    assert len({e.digits for e in every}) == len({e.id for e in every}) == 60
    assert [e.id for e in task.trainset] == [e.id for e in again.trainset]
    assert [e.id for e in task.trainset] != [e.id for e in other.trainset]


def test_skills_are_the_operations_in_both_places() -> None:
    skills = ENTRY.build(PipelineOptions(), 0).skills
    firsts = [phrasebook.parse(s.candidate.instructions["first"]) for s in skills]
    seconds = [phrasebook.parse(s.candidate.instructions["second"]) for s in skills]
    assert set(firsts) == set(seconds) == {(op,) for op in phrasebook.OPERATIONS}
    gold: Any = skills[0].problems[0].example
    right = dspy.Prediction(middle=gold.middle, answer=gold.answer)
    assert grade(gold, right, reward="exact", credit="program").score == 1.0


def test_the_program_runs_both_predictors_by_their_names() -> None:
    program = apply(DigitsPipeline(), seed_candidate(DigitsPipeline()))
    names = [name for name, _ in program.named_predictors()]
    with dspy.context(lm=dspy.utils.DummyLM([{"middle": "5820"}, {"answer": "9714"}])):
        made: Any = program(digits="4719")
    assert names == ["first", "second"]
    assert (made.middle, made.answer) == ("5820", "9714")
