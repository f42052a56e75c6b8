"""Pre-flight checks: a line for every kind of fault, none where a run would go well."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import SAMPLING, echo

from fst_agents.dspy_bridge import problems, seed_candidate
from fst_agents.preflight import MOST_LINES, Parameters, capped, forward_parameters, preflight
from fst_agents.preflight_metric import PROBES
from fst_agents.preflight_prompts import MOST_MEASURED
from fst_agents.rollouts import Runner
from fst_agents.scoring import RANGE_SLACK
from fst_agents.serving.scripted_host import ScriptedHost
from programs.digits import Digits
from programs.micro.adapter import CompactAdapter


class QA(dspy.Module):
    """Two predictors: the inputs of one are an example's, of the other they are not."""

    def __init__(self) -> None:
        super().__init__()
        self.solve = dspy.Predict(dspy.make_signature("question, context -> answer", "Solve it."))
        self.check = dspy.Predict(dspy.make_signature("question, answer -> verdict", "Check it."))

    def forward(self, question: str, context: str = "") -> Any:
        return self.check(question=question, answer=self.solve(question=question, context=context))


def example(identity: str = "a", **fields: Any) -> dspy.Example:
    row = {"id": identity, "question": f"q of {identity}", "answer": "yes"} | fields
    inputs = [name for name in ("question", "context") if name in row]
    return dspy.Example(row).with_inputs(*inputs)


def same(gold: Any, prediction: Any) -> float:
    return float(gold.answer == prediction.answer)


class Words:
    """A tokenizer of one token a word; its chat template adds two to each message."""

    def __init__(self) -> None:
        self.rendered = 0

    def render(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
        self.rendered += 1
        return (0,) * sum(len(m["content"].split()) + 2 for m in messages)

    def decode(self, token_ids: Sequence[int]) -> str:
        raise AssertionError("nothing is to be decoded")


def faults(
    *examples: dspy.Example, program: dspy.Module | None = None, metric: Any = same, **options: Any
) -> list[str]:
    given: dict[str, Any] = {"adapter": None} | options
    return preflight(QA() if program is None else program, examples, metric, **given)


def forwarding(forward: Any, name: str = "forward") -> dspy.Module:
    return type("Made", (QA,), {name: forward})()


# -- what a program takes -----------------------------------------------------------------------


def test_what_forward_takes() -> None:
    assert forward_parameters(QA()) == Parameters(("question",), ("context",), "refused")
    assert str(forward_parameters(QA())) == "question, context"

    def keywords(self: Any, *, a: int, b: int = 1, **more: Any) -> None: ...
    def nothing(self: Any, *rest: Any) -> None: ...
    def alone(question: str) -> None: ...

    assert forward_parameters(forwarding(keywords)) == Parameters(("a",), ("b",), "taken")
    assert str(forward_parameters(forwarding(nothing))) == "nothing"
    assert forward_parameters(forwarding(staticmethod(alone))).required == ("question",)


def test_what_dspys_own_modules_take() -> None:
    class Signature(dspy.Signature):
        """Answer."""

        question: str = dspy.InputField()
        hint: str = dspy.InputField(default="none")
        answer: str = dspy.OutputField()

    for module in (dspy.Predict(Signature), dspy.ChainOfThought(Signature)):
        assert forward_parameters(module) == Parameters(("question",), ("hint",), "ignored")
    react = dspy.ReAct(dspy.make_signature("question -> answer"), tools=[])
    assert forward_parameters(react) == Parameters((), (), "taken")


def test_programs_that_cannot_be_run() -> None:
    class Headless(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.solve = dspy.Predict("question -> answer")

    def by_position(self: Any, question: str, /) -> None: ...

    assert faults(program=Headless()) == [
        "Headless has neither forward nor aforward, so it cannot be run; define one, with the "
        "inputs as its parameters"
    ]
    assert faults(program=forwarding(by_position)) == [
        "Made.forward takes question by position only, but inputs are given by name; remove the "
        "'/' from its parameters"
    ]
    [line] = faults(program=dspy.Module())
    assert line.startswith("Module has no predictors: ")


# -- examples -----------------------------------------------------------------------------------


def test_nothing_is_wrong_with_what_is_right() -> None:
    assert faults(example("a"), example("b", context="c")) == []
    assert faults() == []


def test_nothing_is_wrong_with_a_shipped_task() -> None:
    task = Digits(("reverse", "complement"), train_size=16, val_size=8, test_size=0)
    found = preflight(
        task.program,
        [*task.trainset, *task.valset],
        task.metric,
        adapter=None,
        tokenizer=Words(),
        context_length=32_768,
        score_range=(0.0, 1.0),
    )
    assert found == []


def test_ids_that_occur_twice() -> None:
    content = dspy.Example(question="q", answer="yes").with_inputs("question")
    found = faults(example("a"), example("a", question="r"), content, content, content)
    [by_id, by_content] = found
    assert by_id == "example 'a': 2 examples have this id; give each its own, or drop the repeats"
    assert by_content.endswith(
        ": 3 examples have the same content (without an `id`, a hash of it stands for one); drop "
        "the repeats, or give each an `id`"
    )


def test_inputs_that_are_not_declared_missing_or_not_taken() -> None:
    given = [
        dspy.Example(id="bare", question="q", answer="yes"),
        dspy.Example(id="lacks", answer="yes").with_inputs(),
        dspy.Example(id="label", question="q", answer="yes").with_inputs("context"),
        dspy.Example(id="more", question="q", answer="yes").with_inputs("question", "id"),
    ]
    assert faults(*given) == [
        "example 'bare': no inputs are declared; call .with_inputs('question', 'context') on it",
        "example 'lacks': field 'question' is missing; the program's forward takes question, "
        "context",
        "example 'label': field 'question' is not among its inputs; name it in with_inputs; the "
        "program's forward takes question, context",
        "example 'more': input 'id' is not taken; the program's forward takes question, context; "
        "leave it out of with_inputs",
    ]


def test_inputs_that_are_taken_or_ignored_are_no_fault() -> None:
    def anything(self: Any, **kwargs: Any) -> None: ...

    more = dspy.Example(id="a", question="q", answer="yes").with_inputs("question", "id")
    assert faults(more, program=forwarding(anything)) == []
    assert faults(more, program=dspy.Predict("question -> answer")) == []
    assert faults(more, program=dspy.Predict("question, hint -> answer")) == [
        "example 'a': field 'hint' is missing; the program's forward takes question, hint"
    ]


def test_what_is_no_example_is_named_by_its_number() -> None:
    strangers: list[Any] = [example(), {"question": "q"}, 3]
    assert faults(*strangers) == [
        f"example number {number} is of type {kind}; expected a dspy.Example with declared inputs"
        for number, kind in ((2, "dict"), (3, "int"))
    ]


def test_every_kind_of_fault_is_capped_by_itself() -> None:
    bare = [dspy.Example(id=n, question="q", answer="yes") for n in range(332)]
    lacks = [dspy.Example(id=f"l{n}", answer="yes").with_inputs() for n in range(21)]
    found = faults(*bare, *lacks)
    assert len(found) == 2 * (MOST_LINES + 1)
    assert found[MOST_LINES] == "and 312 more examples without declared inputs"
    assert found[-1] == "and 1 more inputs that examples lack"


@given(st.lists(st.text(), max_size=50))
def test_capped_lines_and_their_count_are_all_lines(lines: list[str]) -> None:
    kept = capped(lines, "lines")
    assert kept[:MOST_LINES] == lines[:MOST_LINES]
    more = len(lines) - MOST_LINES
    assert kept[MOST_LINES:] == ([f"and {more} more lines"] if more > 0 else [])


# -- the metric ---------------------------------------------------------------------------------


def typo(gold: Any, pred: Any) -> float:
    return float(gold.anwser == pred.answer)


def divides(gold: Any, pred: Any, trace: Any = None) -> float:
    return len(pred.answer) / 0


def lines_of_text(gold: Any, pred: Any) -> float:
    raise ValueError("two\n  lines")


def no_return(gold: Any, pred: Any) -> None:
    gold.answer == pred.answer  # noqa: B015  # pyright: ignore[reportUnusedExpression]


def strangers(gold: Any, pred: Any, trace: Any, name: Any, own: Any) -> Any:
    return {"score": 1.0, "predictor_scores": {"slove": 1.0}}


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (typo, "the metric raised AttributeError: 'Example' object has no attribute 'anwser'"),
        (divides, "the metric raised ZeroDivisionError: division by zero"),
        (lines_of_text, "the metric raised ValueError: two lines"),
        (lambda gold, pred: math.nan, "the metric's score is nan; expected a finite number"),
        (
            lambda gold, pred: pred.answer,
            "the metric returned 'yes' of type str; expected a number, or a dspy.Prediction with "
            "`score` and `feedback`",
        ),
        (
            lambda gold, pred: dspy.Prediction(score="high"),
            "the metric's score is 'high'; expected a number",
        ),
        (
            lambda gold, pred: 5,
            "the metric's score is 5; expected 0 to 1, the range it declares (task.score_range); "
            "mend the metric or the range",
        ),
        (
            strangers,
            "the metric's predictor_scores name 'slove'; expected predictors of the program: "
            "'solve', 'check'",
        ),
        (
            no_return,
            "the metric returned no score; it must return a number, or a dspy.Prediction with "
            "`score`",
        ),
    ],
)
def test_a_metric_that_gives_labels_no_score_is_reported_once(metric: Any, said: str) -> None:
    found = faults(example("a"), example("b"), metric=metric, score_range=(0.0, 1.0))
    assert found == [f"example 'a': on its own labels {said}"]


def test_what_cannot_be_called_as_a_metric() -> None:
    [line] = faults(example(), metric=lambda gold: 1.0)
    assert line.startswith("metric <function ")
    assert "takes (gold); expected (gold, prediction)" in line
    [line] = faults(example(), metric=3)
    assert line.startswith("metric 3 cannot be called: ")


def four(gold: Any, pred: Any, trace: Any, name: Any) -> float:
    return 1.0


def six(gold: Any, pred: Any, trace: Any, name: Any, own: Any, more: Any) -> float:
    return 1.0


def by_name_only(gold: Any, pred: Any, *, tolerance: float) -> float:
    return 1.0


@pytest.mark.parametrize("metric", [four, six, by_name_only])
def test_a_metric_that_wants_what_nobody_gives_is_refused(metric: Any) -> None:
    [line] = faults(example(), metric=metric)
    assert line.startswith("metric <function ")
    assert "expected (gold, prediction), (gold, prediction, trace) or GEPA's" in line


def most_by_default(gold: Any, pred: Any, trace: Any = None, name: Any = None) -> float:
    return 1.0


def tolerant(gold: Any, pred: Any, *, tolerance: float = 0.1) -> float:
    return 1.0


def seven(gold: Any, pred: Any, a: Any, b: Any, c: Any, d: Any = 0, *e: Any, **f: Any) -> float:
    return 1.0


@pytest.mark.parametrize("metric", [most_by_default, tolerant, seven, lambda *all: 1.0])
def test_a_metric_may_take_more_than_it_is_given(metric: Any) -> None:
    assert faults(example(), metric=metric) == []


def explains(gold: Any, pred: Any) -> float:
    return float(len(pred.reasoning) > 3)


def by_key(gold: Any, pred: Any) -> float:
    return float(pred["reasoning"] == gold["answer"])


def by_get(gold: Any, pred: Any) -> float:
    return float(len(pred.get("reasoning")))


def by_membership(gold: Any, pred: Any) -> Any:
    return 1.0 if "reasoning" in pred else None


def through_a_dict(gold: Any, pred: Any) -> float:
    return float(len(pred.toDict()["reasoning"]))


def through_a_cast(gold: Any, pred: Any) -> float:
    return float(len(dict(pred)["reasoning"]))


def through_items(gold: Any, pred: Any) -> float:
    return float([v for k, v in pred.items() if k == "reasoning"][0])  # noqa: RUF015


def by_trace(gold: Any, pred: Any, trace: Any, name: Any, own: Any) -> float:
    return float(trace[0][2]["thought"] == 1)


def by_unpacking(gold: Any, pred: Any, trace: Any, name: Any, own: Any) -> float:
    return max(len(inputs["hop"]) for _, inputs, _ in trace)


@pytest.mark.parametrize(
    "metric",
    [
        explains,
        by_key,
        by_get,
        by_membership,
        through_a_dict,
        through_a_cast,
        through_items,
        by_trace,
        by_unpacking,
    ],
)
def test_a_metric_may_need_what_only_the_program_makes(metric: Any) -> None:
    assert faults(example("a"), example("b"), metric=metric) == []


def test_the_trace_of_a_probe_has_a_call_of_each_predictor() -> None:
    seen: list[int] = []

    def metric(gold: Any, pred: Any, trace: Any, name: Any, own: Any) -> float:
        seen.append(len(trace))
        return 1.0

    assert faults(example(), metric=metric) == []
    assert seen == [2]


def test_a_metric_may_leave_some_unscored() -> None:
    def sometimes(gold: Any, pred: Any) -> float | None:
        return None if gold.answer == "no" else 1.0

    assert faults(example("a", answer="no"), example("b"), metric=sometimes) == []


def test_a_metric_is_asked_rarely_and_leaves_the_examples_alone() -> None:
    asked: list[str] = []

    def metric(gold: Any, pred: Any) -> float:
        asked.append(gold.id)
        gold.answer = "spoilt"
        return 1.0

    given = [example(str(n)) for n in range(102)]
    assert faults(*given, metric=metric) == []
    assert asked == ["0", "25", "50", "75"]
    assert len(asked) == PROBES
    assert {e.answer for e in given} == {"yes"}


@given(
    score=st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    wrap=st.sampled_from([lambda s: s, lambda s: {"score": s}, lambda s: dspy.Prediction(score=s)]),
)
def test_a_metric_is_right_if_and_only_if_it_returns_a_score_in_range(
    score: Any, wrap: Callable[[Any], Any]
) -> None:
    number = isinstance(score, bool | int | float)
    right = number and -RANGE_SLACK <= score <= 1.0 + RANGE_SLACK
    found = faults(example(), metric=lambda gold, pred: wrap(score), score_range=(0.0, 1.0))
    assert (found == []) is right


# -- prompts ------------------------------------------------------------------------------------

ROOM: dict[str, Any] = {"adapter": CompactAdapter(), "tokenizer": Words(), "context_length": 14}
"""The compact adapter writes 'Solve it.' and a line `name: value` for each of two fields: with two
tokens a message from the template these are 8 tokens beside the values."""


def test_a_prompt_that_fills_the_context_is_a_fault() -> None:
    fits = example("fits", question="one two", context="one two three")
    full = example("full", question="one two", context="one two three four")
    assert faults(fits, full, **ROOM) == [
        "example 'full': its prompt for predictor 'solve' has 14 tokens, longest field 'context' "
        "(4 tokens); the policy's context is 14; shorten it, or raise serve.context_length"
    ]


def test_only_prompts_that_are_known_are_measured() -> None:
    without = example("a", question="word " * 100)  # `solve` needs a context as well
    assert faults(without, **ROOM) == []
    assert faults(example("a", question="word " * 100, context="c"), adapter=None) == []


def test_a_predictor_with_a_model_of_its_own_is_not_the_policys() -> None:
    long = example("a", context="word " * 100)
    assert len(faults(long, **ROOM)) == 1
    assert faults(long, **ROOM, fixed={"solve": None}) == []
    program = QA()
    program.solve.lm = dspy.utils.DummyLM([])
    assert faults(long, program=program, **ROOM) == []


def test_demos_and_instructions_count() -> None:
    program = dspy.Predict(dspy.make_signature("question -> answer", "Solve it."))
    assert faults(example(question="one"), program=program, **ROOM) == []
    program.demos = [dspy.Example(question="one two three", answer="four five six")]
    [line] = faults(example(question="one"), program=program, **ROOM)
    assert "predictor 'self' has 17 tokens, longest field 'question' (1 tokens)" in line


def test_dspys_adapter_stands_in_for_none() -> None:
    long = example("a", context="word " * 5_000)
    options: dict[str, Any] = {"tokenizer": Words(), "context_length": 5_000}
    [line] = faults(long, **options)
    assert "longest field 'context' (5000 tokens)" in line
    with dspy.context(adapter=CompactAdapter()):
        [line] = faults(long, **options)
    assert "has 5011 tokens" in line


def test_what_cannot_be_shown_to_the_policy_is_a_fault() -> None:
    class Strict(Words):
        def render(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
            raise TypeError("System role\nnot supported")

    options: dict[str, Any] = ROOM | {"tokenizer": Strict()}
    assert faults(example("a", context="c"), example("b", context="d"), **options) == [
        "example 'a': its prompt for predictor 'solve' does not fit the policy's chat template: "
        "System role not supported"
    ]
    looks = dspy.Predict(dspy.make_signature("picture: dspy.Image -> answer", "Look."))
    picture = dspy.Example(id="p", picture=dspy.Image("https://example.org/a.png"), answer="yes")
    options = ROOM | {"adapter": None}
    assert faults(picture.with_inputs("picture"), program=looks, **options) == [
        "example 'p': its prompt for predictor 'self' is not text alone; only text can be sampled "
        "from a policy"
    ]


def test_what_an_adapter_cannot_write_is_left_to_the_program() -> None:
    class Choosy(CompactAdapter):
        def format_user_message_content(self, *args: Any, **kwargs: Any) -> str:
            raise TypeError("give me something else")

    options: dict[str, Any] = ROOM | {"adapter": Choosy()}
    assert faults(example("a", context="word " * 100), **options) == []


def test_half_a_character_is_measured_too() -> None:
    assert faults(example("a", context="\ud800" * 9, question="x"), **ROOM) == []


def test_prompts_are_measured_as_a_rollout_would_send_them() -> None:
    host = ScriptedHost(echo)
    long = example("a", question="how long?", context="word " * 9)

    class Solve(QA):
        def forward(self, question: str, context: str = "") -> Any:
            return self.solve(question=question, context=context)

    room = Runner(Solve(), same, host)
    try:
        [rollout] = room.collect([(problems([long])[0], seed_candidate(Solve()))], SAMPLING)
    finally:
        room.close()
    sent = [len(call.prompt_ids) for call in rollout.calls]
    options: dict[str, Any] = {"tokenizer": host.tokenizer, "program": Solve()}
    assert faults(long, context_length=sent[0] + 1, **options) == []
    [line] = faults(long, context_length=sent[0], **options)
    assert f"has {sent[0]} tokens, longest field 'context' (" in line


def test_short_examples_are_not_tokenized_and_many_take_no_time() -> None:
    words = Words()
    given = [example(str(n), context=f"context of {n} " * 10) for n in range(10_000)]
    started = time.perf_counter()
    found = faults(*given, adapter=None, tokenizer=words, context_length=4_096)
    seconds = time.perf_counter() - started
    assert found == []
    assert words.rendered == MOST_MEASURED  # once each, for what the template adds
    assert seconds < 10


def test_many_long_prompts_are_counted() -> None:
    given = [example(str(n), context="word " * (100 + n)) for n in range(30)]
    found = faults(*given, **ROOM)
    assert found[0].startswith("example '29': ")  # the longest first
    assert found[MOST_LINES:] == ["and 10 more prompts for predictor 'solve' that are too long"]
