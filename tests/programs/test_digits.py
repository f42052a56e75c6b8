"""The digits task: its data, its rewards, and feedback that keeps the rule to itself."""

import re
from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from programs.digits import SEED_INSTRUCTION, Digits, DigitsProgram, other_skills
from programs.micro import phrasebook
from programs.micro.phrasebook import OPERATIONS

TASK = Digits(("rotate_left", "swap_ends"), train_size=40, val_size=20, test_size=30)
GOLD = dspy.Example(id="g", digits="47190", answer="41907").with_inputs("digits")


def judge(answer: Any, reward: Any = "partial") -> dspy.Prediction:
    task = Digits(TASK.target, reward=reward)
    return task.metric(GOLD, dspy.Prediction(answer=answer))


def test_the_program_has_one_predictor_with_a_vague_instruction() -> None:
    (name, predictor), *others = TASK.program.named_predictors()
    assert (name, others) == ("solve", [])
    signature: Any = predictor.signature
    assert signature.instructions == SEED_INSTRUCTION
    assert phrasebook.parse(SEED_INSTRUCTION) is None
    assert list(signature.input_fields) == ["digits"]
    assert list(signature.output_fields) == ["answer"]


def test_every_program_is_a_fresh_one() -> None:
    assert TASK.program is not TASK.program
    signature: Any = DigitsProgram("reverse the digits.").solve.signature
    assert signature.instructions == "reverse the digits."


def test_splits_are_disjoint_by_digits_and_have_unique_ids() -> None:
    every = [*TASK.trainset, *TASK.valset, *TASK.testset]
    assert [len(s) for s in (TASK.trainset, TASK.valset, TASK.testset)] == [40, 20, 30]
    assert len({e.digits for e in every}) == len({e.id for e in every}) == 90
    assert {len(e.digits) for e in every} == {4, 5, 6}
    assert all(e.inputs().keys() == ["digits"] for e in every)


def test_examples_follow_the_rule_and_the_seed() -> None:
    first = TASK.trainset[0]
    digits = tuple(map(int, first.digits))
    assert first.answer == "".join(map(str, phrasebook.apply(TASK.target, digits)))
    again = Digits(TASK.target, train_size=40, val_size=20, test_size=30)
    other = Digits(TASK.target, train_size=40, val_size=20, test_size=30, seed=1)
    assert [e.id for e in again.trainset] == [e.id for e in TASK.trainset]
    assert [e.id for e in other.trainset] != [e.id for e in TASK.trainset]


@pytest.mark.parametrize(
    ("answer", "partial"),
    [
        ("41907", 1.0),
        ("4 1 9 0 7", 1.0),
        ("41900", 0.8),
        ("71904", 0.6),
        ("419070", 5 / 6),
        ("4190", 0.8),
        ("", 0.0),
        (None, 0.0),
        ("four", 0.0),
        ("41907!", 0.0),
    ],
)
def test_partial_credit_is_the_share_of_correct_positions(answer: Any, partial: float) -> None:
    result = judge(answer)
    assert result.score == pytest.approx(partial)
    assert judge(answer, "exact").score == float(partial == 1.0)
    assert result.objective_scores["exact"] == float(partial == 1.0)


def test_the_exact_metric_ignores_the_task_s_reward() -> None:
    assert TASK.exact_metric(GOLD, dspy.Prediction(answer="41900")).score == 0.0
    assert TASK.exact_metric(GOLD, dspy.Prediction(answer="41907")).score == 1.0


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("41907", "This is correct"),
        ("70914", "stand in the wrong places; 1 of 5"),
        ("41901", "Wrong values at position 5; 4 of 5"),
        ("419", "Wrong length: 3 instead of 5; 3 of 5"),
        ("hello", "must be made of digits"),
    ],
)
def test_feedback_says_what_was_expected_and_the_kind_of_mistake(answer: str, kind: str) -> None:
    text = judge(answer).feedback
    assert f"Input 47190, expected 41907, got '{answer}'." in text
    assert kind in text


@given(
    st.sampled_from(phrasebook.pairs()),
    st.text("0123456789", min_size=4, max_size=6),
    st.one_of(st.text("0123456789", max_size=7), st.just("nothing")),
)
def test_feedback_never_names_an_operation(pair: Any, digits: str, answer: str) -> None:
    expected = "".join(map(str, phrasebook.apply(pair, tuple(map(int, digits)))))
    gold = dspy.Example(digits=digits, answer=expected)
    said = Digits(pair).metric(gold, dspy.Prediction(answer=answer)).feedback.lower()
    telling = {word for op in OPERATIONS for word in op.split("_")}
    assert not telling & set(re.findall(r"[a-z]+", said))
    assert not any(p in said for group in phrasebook.PHRASINGS.values() for p in group)


def test_other_skills_are_the_ten_operations_with_fresh_examples() -> None:
    skills = other_skills(TASK.target, seed=0, size=5)
    assert [phrasebook.parse(instruction) for instruction, _ in skills] == [
        (op,) for op in OPERATIONS
    ]
    for (instruction, examples), op in zip(skills, OPERATIONS, strict=True):
        assert len(examples) == 5, instruction
        for e in examples:
            wanted = phrasebook.apply((op,), tuple(map(int, e.digits)))
            assert e.answer == "".join(map(str, wanted))


def test_every_run_asks_other_skills_by_its_own_examples() -> None:
    asked = [
        tuple(e.digits for _, examples in other_skills(target, seed, size=5) for e in examples)
        for target in (("reverse", "double"), ("double", "reverse"))
        for seed in (0, 1)
    ]
    assert len(set(asked)) == 4


def test_a_rule_of_one_operation_is_allowed() -> None:
    assert Digits(("reverse",), train_size=1, val_size=0, test_size=0).trainset


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target": ("reverse", "spin")}, "'spin'.*rotate_left"),
        ({"target": ()}, "expected one or two"),
        ({"target": ("reverse", "double", "reverse")}, "got 3 operations"),
        ({"target": ("reverse",), "reward": "some"}, "'partial' or 'exact'"),
        ({"target": ("reverse",), "train_size": -1}, "train_size: got -1"),
    ],
)
def test_a_task_that_makes_no_sense_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Digits(**settings)
