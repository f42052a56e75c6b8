"""Answers that can be read in part: what counts as read, what it earns, what is said of it."""

from __future__ import annotations

import random
from typing import Any

import dspy
import pytest
from dspy.utils.exceptions import AdapterParseError
from hypothesis import given
from hypothesis import strategies as st
from worlds import SAMPLING, chat, full_marks, problem

from fst_agents.dspy_bridge import seed_candidate
from fst_agents.dspy_partial import read_partially
from fst_agents.outcomes import FailureScores, fields_read
from fst_agents.rollouts import Limits, Runner
from fst_agents.serving.scripted_host import ScriptedHost
from fst_agents.types import Call, Outcome, Sampling
from programs.micro.adapter import CompactAdapter

SCORES = FailureScores(failure=-0.5, partial=0.3)


class Report(dspy.Signature):
    """Report."""

    question: str = dspy.InputField()
    city: str = dspy.OutputField()
    people: int = dspy.OutputField()
    source: str = dspy.OutputField()


class Reporter(dspy.Module):
    def __init__(self, signature: Any = Report) -> None:
        super().__init__()
        self.report = dspy.Predict(signature)

    def forward(self, question: str) -> Any:
        return self.report(question=question)


def one(
    text: str,
    adapter: dspy.Adapter | None = None,
    *,
    program: dspy.Module | None = None,
    sampling: Sampling = SAMPLING,
    scores: FailureScores = SCORES,
) -> Any:
    def script(prompt: str, sampling: Sampling, rng: random.Random) -> str:
        return text

    student = Reporter() if program is None else program
    room = Runner(
        student,
        full_marks,
        ScriptedHost(script),
        adapter=adapter,
        limits=Limits(retries=0),
        failures=scores,
    )
    try:
        return room.collect([(problem(), seed_candidate(student))], sampling)[0]
    finally:
        room.close()


CHAT = dspy.ChatAdapter(use_json_adapter_fallback=False)


@pytest.mark.parametrize(
    ("adapter", "text"),
    [
        pytest.param(CHAT, chat(city="Bern", source="a map"), id="chat, a field is missing"),
        pytest.param(
            CHAT, chat(city="Bern", people="many", source="a map"), id="chat, one is no number"
        ),
        pytest.param(
            CHAT, chat(people="many", city="Bern", source="a map"), id="chat, the first is none"
        ),
        pytest.param(CompactAdapter(), "city: Bern\nsource: a map", id="compact, one is missing"),
        pytest.param(
            CompactAdapter(), "city: Bern\npeople: many\nsource: a map", id="compact, no number"
        ),
        pytest.param(
            dspy.JSONAdapter(), '{"city": "Bern", "source": "a map"}', id="JSON, one is missing"
        ),
        pytest.param(
            dspy.JSONAdapter(),
            '{"city": "Bern", "people": "many", "source": "a map"}',
            id="JSON, one is no number",
        ),
        pytest.param(
            dspy.XMLAdapter(use_json_adapter_fallback=False),
            "<city>Bern</city><people>many</people><source>a map</source>",
            id="XML, one is no number",
        ),
    ],
)
def test_two_of_three_fields_earn_two_thirds_of_the_credit(
    adapter: dspy.Adapter, text: str
) -> None:
    """−0.5 + 0.3 · 2/3 = −0.3."""
    rollout = one(text, adapter)
    [call] = rollout.calls
    assert rollout.outcome is Outcome.PARSE_FAILURE
    assert rollout.score == pytest.approx(-0.3)
    assert (call.parsed, call.outputs) == (False, None)
    assert (call.partial, call.missing) == ({"city": "Bern", "source": "a map"}, ("people",))
    assert (
        "Could be read: 'city', 'source'; missing or unreadable: 'people'."
        in (rollout.feedback.predictor_text["report"])
    )


def test_an_answer_without_any_field_earns_nothing() -> None:
    rollout = one("no fields here")
    assert (rollout.outcome, rollout.score) == (Outcome.PARSE_FAILURE, -0.5)
    assert rollout.calls[0].missing == ("city", "people", "source")
    assert "Missing or unreadable: 'city', 'people', 'source'." in rollout.feedback.text


def test_bare_headers_earn_nothing() -> None:
    rollout = one("[[ ## city ## ]]\n\n[[ ## source ## ]]\n  \n")
    assert (rollout.score, rollout.calls[0].partial) == (-0.5, {})


def test_fields_that_dspy_fills_in_by_itself_earn_nothing() -> None:
    class Optional(dspy.Signature):
        """Report."""

        question: str = dspy.InputField()
        city: str = dspy.OutputField()
        people: int = dspy.OutputField()
        remark: str = dspy.OutputField(default="none")
        source: str | None = dspy.OutputField()

    rollout = one(chat(remark="a", source="b"), program=Reporter(Optional))
    assert (rollout.score, rollout.calls[0].partial) == (-0.5, {})
    assert rollout.calls[0].missing == ("city", "people")
    rollout = one(chat(city="Bern"), program=Reporter(Optional))
    assert rollout.score == pytest.approx(-0.5 + 0.3 / 2)


def test_a_cut_off_answer_keeps_the_credit_of_what_came_before() -> None:
    """`[[ ## city ## ]]\\nBern\\n\\n` are 22 characters, and as many tokens of a scripted host."""
    rollout = one(chat(city="Bern", people="1"), sampling=Sampling(max_tokens=22))
    [call] = rollout.calls
    assert (rollout.outcome, call.truncated) == (Outcome.TRUNCATED, True)
    assert call.partial == {"city": "Bern"}
    assert rollout.score == pytest.approx(-0.5 + 0.3 / 3)
    assert "missing or unreadable: 'people', 'source'" in rollout.feedback.text


def test_a_cut_off_answer_that_can_be_read_is_ok_and_marked() -> None:
    text = chat(city="Bern", people="1", source="a map")
    rollout = one(text, sampling=Sampling(max_tokens=len(text) - 4))
    assert (rollout.outcome, rollout.score) == (Outcome.OK, 1.0)
    assert rollout.calls[0].truncated


def test_an_empty_answer_is_never_given_the_outputs_of_the_call_after_it() -> None:
    """The adapter reads nothing of an empty answer and asks again, in JSON: two calls, one read."""
    asked: list[str] = []

    def script(prompt: str, sampling: Sampling, rng: random.Random) -> str:
        asked.append(prompt)
        whole = '{"city": "Bern", "people": 1, "source": "a map"}'
        return "" if len(asked) == 1 else whole

    room = Runner(
        Reporter(),
        full_marks,
        ScriptedHost(script),
        adapter=dspy.ChatAdapter(),
        limits=Limits(retries=0),
    )
    [rollout] = room.collect([(problem(), seed_candidate(Reporter()))], SAMPLING)
    room.close()
    assert [call.parsed for call in rollout.calls] == [False, True]


def test_the_default_is_no_credit_for_parts() -> None:
    assert one(chat(city="Bern"), scores=FailureScores()).score == 0.0


def unread(read: int, lost: int) -> Call:
    partial = {f"r{k}": "x" for k in range(read)}
    missing = tuple(f"m{k}" for k in range(lost))
    return Call("p", (), (1,), (2,), (0.0,), "stop", 0, 1.0, "", {}, None, partial, missing)


@given(
    st.integers(0, 5),
    st.integers(1, 5),
    st.floats(-2, 2),
    st.floats(0, 1),
)
def test_credit_grows_with_what_was_read_and_stays_below_all_of_it(
    read: int, lost: int, failure: float, credit: float
) -> None:
    scores = FailureScores(failure, credit)
    score = scores.of(unread(read, lost))
    assert failure <= score <= failure + credit
    assert score <= scores.of(unread(read + 1, lost - 1)) + 1e-12
    assert (score == failure) or read > 0


def test_a_call_that_was_read_has_nothing_to_say_of_its_fields() -> None:
    assert fields_read(unread(0, 0)) == ""


texts = st.text() | st.lists(
    st.sampled_from(["[[ ## city ## ]]", "[[ ## people ## ]]", "\n", "1", "city:", "<city>", "{"])
).map("".join)


@given(texts, st.sampled_from([CHAT, CompactAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()]))
def test_whatever_was_answered_each_field_is_read_or_missing(
    text: str, adapter: dspy.Adapter
) -> None:
    try:
        adapter.parse(Report, text)
    except AdapterParseError as error:
        partial, missing = read_partially(adapter, error)
        assert {*partial, *missing} == {"city", "people", "source"}
        assert not set(partial) & set(missing)
        assert missing or "people" in partial  # blank texts count as missing
