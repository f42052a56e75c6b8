"""The task `code_output`: its programs, its data, its grading and its DSPy program."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
from collections.abc import Sequence
from random import Random
from typing import Any, Literal

import dspy
import pytest
from dspy.utils import DummyLM
from hypothesis import given, settings
from hypothesis import strategies as st

from programs.code_output import ENTRY, CodeOutputOptions, CodeProgram, build, exact, metric
from programs.code_output.data import CALLS, MIN_DIFFERENT, solve, splits
from programs.code_output.generator import draw
from programs.code_output.grading import (
    MAX_ARGUMENTS,
    MOST,
    READABLE,
    count_parameters,
    judge_arguments,
    judge_printed,
    judge_returned,
    read_arguments,
)
from programs.code_output.literals import UnreadableError, closeness, difference, read, same
from programs.code_output.sandbox import Kind, Request, Result, SandboxError, run
from programs.task import Task

SMALL = CodeOutputOptions(train_size=40, val_size=15, test_size=15)

LITERALS: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def task() -> Task:
    return build(SMALL, seed=0)


def everything(task: Task) -> list[dspy.Example]:
    return [*task.trainset, *task.valset, *task.testset]


def right(example: dspy.Example) -> dspy.Prediction:
    name = "result" if example.direction == "output" else "arguments"
    return dspy.Prediction(**{name: example.answer})


# --- programs ---


@pytest.mark.parametrize("difficulty", [1, 2, 3])
@pytest.mark.parametrize("style", ["return", "print"])
def test_programs_are_python_and_come_to_an_end(
    difficulty: int, style: Literal["return", "print"]
) -> None:
    rng = Random(f"{difficulty}/{style}")
    drawn = [draw(rng, difficulty, style, 1) for _ in range(150)]
    results = run([Request(f"{p.code}\n{p.calls()[0]}") for p in drawn])
    kinds = [result.kind for result in results]
    assert set(kinds) <= {Kind.VALUE, Kind.ERROR}
    assert kinds.count(Kind.ERROR) <= 15
    assert all(bool(r.stdout) == (style == "print") for r in results if r.kind is Kind.VALUE)
    assert all(r.error.split(":")[0] not in ("SyntaxError", "NameError") for r in results)


def test_programs_have_variety() -> None:
    rng = Random(0)
    code = [draw(rng, 3, "return", 1).code for _ in range(200)]
    assert len(set(code)) == 200
    for word in ("for ", "while ", "if ", "elif ", "else:", "break", "def g(", "lambda", ".get("):
        assert any(word in text for text in code), word
    assert {count_parameters(text) for text in code} == {1, 2, 3}


def test_a_harder_program_is_longer() -> None:
    def mean_lines(difficulty: int) -> float:
        rng = Random(1)
        return sum(draw(rng, difficulty, "return", 1).code.count("\n") for _ in range(200)) / 200

    assert mean_lines(1) * 1.3 < mean_lines(2) < mean_lines(3) / 1.3


def test_no_helper_is_defined_in_vain() -> None:
    rng = Random(2)
    for _ in range(200):
        code = draw(rng, 3, "return", 1).code
        for name in ("g", "h"):
            assert len(re.findall(rf"\b{name}\(", code)) != 1


# --- data ---


def test_equal_seeds_give_equal_data_and_others_do_not(task: Task) -> None:
    again, other = build(SMALL, seed=0), build(SMALL, seed=1)
    assert [e.toDict() for e in everything(again)] == [e.toDict() for e in everything(task)]
    assert not {e.code for e in everything(other)} & {e.code for e in everything(task)}


def test_splits_share_nothing(task: Task) -> None:
    assert [len(s) for s in (task.trainset, task.valset, task.testset)] == [40, 15, 15]
    assert len({e.id for e in everything(task)}) == 70
    assert len({e.code for e in everything(task)}) == 70
    assert all(e.id.startswith("val-") for e in task.valset)


def test_an_example_asks_for_one_thing(task: Task) -> None:
    directions = [e.direction for e in everything(task)]
    assert 20 <= directions.count("output") <= 50
    for e in everything(task):
        assert set(e.inputs().keys()) == {"code", "call", "result"}
        assert bool(e.call) == (e.direction == "output") != bool(e.result)
        assert len(e.answer if e.call else e.result) <= SMALL.max_output


def test_answers_are_what_python_itself_gives(task: Task) -> None:
    """Our own, trusted programs, run in this process for once: a second opinion."""
    styles: set[str] = set()
    for e in everything(task):
        scope: dict[str, Any] = {}
        exec(e.code, scope)
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            value = eval(e.call or f"f({e.answer})", scope)
        expected = e.answer if e.call else e.result
        assert expected == (said.getvalue()[:-1] if e.style == "print" else repr(value))
        styles.add(e.style)
    assert styles == {"return", "print"}


def test_results_depend_on_the_arguments() -> None:
    assert 1 < MIN_DIFFERENT <= CALLS
    (solved,) = solve(1, 3, directions=("output",), difficulty=2, max_output=80)
    calls = solved.program.calls()
    tried = run([Request(f"{solved.program.code}\ndef v(): return {c}", "v") for c in calls])
    assert len({(t.value, t.stdout) for t in tried}) >= MIN_DIFFERENT


@pytest.mark.parametrize("direction", ["output", "input"])
def test_one_direction_alone(direction: Literal["output", "input"]) -> None:
    options = SMALL.model_copy(update={"direction": direction, "test_size": 0})
    task = build(options, seed=0)
    assert {e.direction for e in everything(task)} == {direction}
    assert [name for name, _ in task.program.named_predictors()] == [f"predict_{direction}.predict"]


def test_options_that_cannot_be_met_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max_output: got 1 .* of 40 different.*allow longer"):
        build(CodeOutputOptions(train_size=36, val_size=4, test_size=0, max_output=1), seed=0)


def test_splits_are_dealt_in_order() -> None:
    solved = solve(4, 0, directions=("input",), difficulty=1, max_output=80)
    train, test = splits(solved, {"train": 3, "test": 1})
    assert [e.code for e in [*train, *test]] == [s.program.code for s in solved]


# --- literals ---


@pytest.mark.parametrize(
    ("expected", "got", "words"),
    [
        (4, 5, "Off by one: too large by 1."),
        (4, -4, "Wrong sign."),
        (40, 12, "Wrong number: too small by 28."),
        (1, True, "Wrong type: a bool instead of an int."),
        ([1], (1,), "Wrong type: a tuple instead of a list."),
        (True, False, "Wrong value."),
        ("abc", "ABC", "The right letters in the wrong case."),
        ("a ", "a", "Right but for white space at its ends."),
        ("abc", "acb", "The right characters in the wrong order; first at index 1: "
         "expected 'b', got 'c'."),
        ("abc", "abcd", "Wrong length: 4 characters instead of 3; they agree in the first 3."),
        ("abc", "abd", "Wrong characters; first at index 2: expected 'c', got 'd'."),
        ([1, 2, 3], [1, 3, 2], "The right elements in the wrong order; first at index 1: "
         "expected 2, got 3."),
        ([1, 2], [1], "Wrong length: 1 elements instead of 2; they agree in the first 1."),
        ([1, 2, 3], [1, 2, 4], "Wrong element at index 2: Off by one: too large by 1."),
        (([1], 5), ([2], 7), "Wrong element at index 0 (2 elements are wrong): "
         "Wrong element at index 0: Off by one: too large by 1."),
        ({"a": 1}, {"b": 1}, "Wrong keys: missing 'a', too many 'b'."),
        ({"a": 1, "b": 2}, {"b": 2, "a": 3}, "Wrong value of key 'a': Wrong number: too large "
         "by 2."),
        ([1], [1], "They are the same."),
    ],
)  # fmt: skip
def test_a_difference_is_named(expected: Any, got: Any, words: str) -> None:
    assert difference(expected, got) == words


@pytest.mark.parametrize(
    ("expected", "got", "value"),
    [
        (4, 5, 1 / 2),
        (4, 1, 1 / 4),
        (1, True, 0.0),
        ("abcd", "abce", 0.75),
        ([1, 2, 3, 4], [1, 2, 3], 3 / 4),
        ([1, 2], [2, 2], (1 / 2 + 1) / 2),
        ((1, "ab"), (1, "ab"), 1.0),
        ({"a": 1, "b": 2}, {"a": 1, "c": 2}, 1 / 3),
        ({1, 2, 3}, {2, 3, 4}, 1 / 2),
        (1.0, float("inf"), 0.0),
        (None, 0, 0.0),
        ([], [], 1.0),
        (10**400, 0, 0.0),
    ],
)
def test_closeness_by_hand(expected: Any, got: Any, value: float) -> None:
    assert closeness(expected, got) == pytest.approx(value)


@given(LITERALS, LITERALS)
def test_closeness_is_one_for_the_same_and_less_for_others(a: Any, b: Any) -> None:
    assert same(a, a)
    assert closeness(a, a) == 1.0
    assert 0.0 <= closeness(a, b) <= 1.0
    assert (difference(a, b) == "They are the same.") == same(a, b) == same(b, a)


@given(LITERALS)
def test_what_repr_writes_is_read_back(value: Any) -> None:
    assert "inf" in repr(value) or same(read(repr(value)), value)


def test_types_are_told_apart_at_any_depth() -> None:
    assert not same([1], [True])
    assert not same({"a": (1.0,)}, {"a": (1,)})
    assert not same({1: 0}, {True: 0})
    assert same({"a": 1, "b": 2}, {"b": 2, "a": 1})


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "f(1)", "1 +", "1 + 1", "{[]: 1}", "a\0b", "[1 for i in 'ab']", "1,\n2)"),
        *("[" * 150, "-" * 1999 + "1", "9" * 5000, "1" + "+1" * 900, "not " * 400 + "1"),
    ],
)
def test_what_is_no_literal_is_not_read(text: str) -> None:
    with pytest.raises(UnreadableError):
        read(text)


# --- grading ---


@pytest.mark.parametrize(
    ("expected", "answer", "score", "words"),
    [
        ("[1, 2]", " [1,2]\n", 1.0, "Correct: f(0) returns [1, 2]."),
        ("[1, 2]", "[2, 1]", READABLE + 0.4 * 0.5, "in the wrong order"),
        ("7", "8", READABLE + 0.4 * 0.5, "Off by one"),
        ("7", "'7'", READABLE, "a str instead of an int"),
        ("'ab'", '"ab"', 1.0, "Correct"),
        ("'ab'", "ab", 0.0, "its quotes are part of the answer"),
        ("7", "`7`", 0.0, "without backticks"),
        ("7", "It gives 7", 0.0, "f(0) returns 7. The answer is 'It gives 7': it cannot be read"),
        ("7", "", 0.0, "SyntaxError"),
        ("7", "7" * 2001, 0.0, "2001 characters, more than 2000"),
    ],
)
def test_a_returned_value_is_judged(expected: str, answer: str, score: float, words: str) -> None:
    verdict = judge_returned("f(0)", expected, answer)
    assert verdict.score == pytest.approx(score)
    assert words in verdict.words


@pytest.mark.parametrize(
    ("answer", "score", "words"),
    [
        ("a b\n12", 1.0, "Correct: f(0) prints"),
        ("\na b  \n12\n", 1.0, "Correct"),
        ("a b\n13", READABLE + 0.4 * (1 + 0.5) / 2, "Line 2: Wrong characters; first at index 1"),
        ("'a b'\n12", READABLE + 0.4 * (6 / 8 + 1) / 2, "Line 1: The quotes are not printed."),
        ("12", READABLE, "1 instead of 2"),
        ("", 0.0, "Wrong number of lines"),
    ],
)
def test_printed_text_is_judged(answer: str, score: float, words: str) -> None:
    verdict = judge_printed("f(0)", "a b\n12", answer)
    assert verdict.score == pytest.approx(score, abs=0.05 if answer == "12" else 1e-9)
    assert words in verdict.words


CODE = "def g(x):\n    return x\n\n\ndef f(a, b):\n    while a < 0: pass\n    return 10 // a + g(b)"


@pytest.mark.parametrize(
    ("answer", "score", "words"),
    [
        ("5, 1", 1.0, "Correct: f(5, 1) returns 3."),
        ("1, -7", 1.0, "Correct: f(1, -7) returns 3."),
        ("5, 2  # a comment", READABLE + 0.2, "f(5, 2) returns 4 instead. Off by one: too large"),
        ("0, 1", READABLE, "f(0, 1) raises ZeroDivisionError"),
        ("-1, 1", READABLE, "f(-1, 1) does not come to an end"),
        ("5, 1.0", READABLE, "f(5, 1.0) returns 3.0 instead. Wrong type: a float"),
        ("5, 'x'", READABLE, "raises TypeError"),
        ("5", 0.0, "f takes 2 argument(s), not 1."),
        ("(5, 1)", 0.0, "leave out the brackets around it"),
        ("a=5, b=1", 0.0, "by position, without names"),
        ("f(5, 1)", 0.0, "not a literal"),
        ("5, 1), f(2, 3", 0.0, "the brackets of one call"),
        ("__import__('os'), 1", 0.0, "not a literal"),
        ("*[5, 1]", 0.0, "not a literal"),
        ("5, " + "1" * MAX_ARGUMENTS, 0.0, "503 characters, more than 500"),
        ("", 0.0, "f takes 2 argument(s), not 0."),
    ],
)
def test_arguments_are_judged_by_what_they_give(answer: str, score: float, words: str) -> None:
    verdict = judge_arguments(CODE, "3", "5, 1", answer, run)
    assert verdict.score == pytest.approx(score)
    assert words in verdict.words
    assert "f is to return 3, as f(5, 1) does" in verdict.words or verdict.exact


@pytest.mark.parametrize("kind", [Kind.MEMORY, Kind.REFUSED, Kind.CRASHED, Kind.TOO_LONG])
def test_every_end_of_a_program_has_words(kind: Kind) -> None:
    def stopped(requests: Sequence[Request]) -> list[Result]:
        assert requests == [Request(CODE, "f", "(5, 1)")]
        return [Result(kind)]

    verdict = judge_arguments(CODE, "3", "5, 1", "5, 1", stopped)
    assert verdict.score == READABLE
    assert f"f(5, 1) is stopped: {kind.value}" in verdict.words


def test_a_result_that_is_no_literal_is_wrong() -> None:
    verdict = judge_arguments("def f(a): return a * 1e999", "3", "1", "1.5", run)
    assert (verdict.score, verdict.exact) == (READABLE, False)


@given(st.lists(LITERALS, max_size=3))
def test_arguments_are_read_as_they_are_written(values: list[Any]) -> None:
    text = ", ".join(map(repr, values))
    if len(text) <= MAX_ARGUMENTS and "inf" not in text:
        assert same(list(read_arguments(text, len(values))), values)


def test_a_wrong_answer_never_reaches_half_a_point() -> None:
    near = judge_returned("f(0)", repr("a" * 300), repr("a" * 299 + "b"))
    assert READABLE < near.score <= MOST
    assert not near.exact


# --- metric ---


def test_gold_answers_are_right(task: Task) -> None:
    for example in everything(task):
        verdict = metric(example, right(example))
        assert verdict.score == 1.0, verdict.feedback
        assert verdict.objective_scores == {"exact": 1.0, "partial": 1.0}
        assert exact(example, right(example)) == 1.0
        assert verdict.feedback.startswith("Correct")


def test_the_predictor_that_answered_is_scored(task: Task) -> None:
    for direction, other in (("output", "input"), ("input", "output")):
        example = next(e for e in task.trainset if e.direction == direction)
        own, stranger = f"predict_{direction}.predict", f"predict_{other}.predict"
        verdict = metric(example, dspy.Prediction(), [], own, [])
        assert verdict.score == 0.0
        assert verdict.predictor_scores == {own: 0.0}
        assert verdict.feedback == metric(example, dspy.Prediction()).feedback
        others = metric(example, right(example), [], stranger, []).feedback
        assert others == f"This predictor was not called: {own} has answered."


def test_eval_metric_knows_no_partial_credit(task: Task) -> None:
    example = next(e for e in task.trainset if e.direction == "input")
    wrong = dspy.Prediction(arguments=", ".join(["None"] * count_parameters(example.code)))
    assert metric(example, wrong).score == READABLE
    assert exact(example, wrong) == 0.0


ANSWERS = st.text(max_size=40) | LITERALS.map(repr) | st.none() | st.integers()


@settings(max_examples=60, deadline=None)
@given(ANSWERS, st.integers(0, 39))
def test_any_answer_gets_a_score_and_feedback(task: Task, answer: object, number: int) -> None:
    example = task.trainset[number]
    verdict = metric(example, dspy.Prediction(result=answer, arguments=answer))
    assert 0.0 <= verdict.score <= 1.0
    assert verdict.feedback.strip()
    assert exact(example, dspy.Prediction(result=answer, arguments=answer)) in (0.0, 1.0)


def test_a_broken_sandbox_is_an_error_of_the_metric(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> list[Result]:
        raise SandboxError("gone")

    monkeypatch.setattr("programs.code_output.sandbox.run", broken)
    example = next(e for e in task.trainset if e.direction == "input")
    with pytest.raises(SandboxError, match="gone"):
        metric(example, right(example))


# --- the program ---


def test_each_example_calls_the_one_predictor_it_needs(task: Task) -> None:
    names = [name for name, _ in task.program.named_predictors()]
    assert names == ["predict_output.predict", "predict_input.predict"]
    for example in task.trainset[:8]:
        field = "result" if example.direction == "output" else "arguments"
        lm = DummyLM([{"reasoning": "Step by step.", field: example.answer}])
        with dspy.context(lm=lm, trace=[]):
            prediction = task.program(**example.inputs())
            (step,) = dspy.settings.trace
        own = f"predict_{example.direction}.predict"
        assert step[0] is dict(task.program.named_predictors())[own]
        assert set(step[1]) == {"code", "call" if example.direction == "output" else "result"}
        assert metric(example, prediction).score == 1.0


def test_the_forward_takes_the_inputs_of_an_example(task: Task) -> None:
    parameters = set(inspect.signature(CodeProgram.forward).parameters) - {"self"}
    assert isinstance(task.program, CodeProgram)
    assert all(set(e.inputs().keys()) == parameters for e in everything(task))


def test_the_entry_is_what_the_catalogue_needs() -> None:
    assert (ENTRY.name, ENTRY.options, ENTRY.build) == ("code_output", CodeOutputOptions, build)
    named = [name for name, _ in CodeProgram().named_predictors()]
    facts = ENTRY.facts()
    assert list(facts["predictors"].values()) == named
