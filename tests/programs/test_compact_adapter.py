"""The compact adapter: what it sends, what it reads back, and what it refuses."""

from typing import Any

import dspy
import pytest
from dspy.lm15 import Message, Request, Response, TextPart, Usage

from programs.micro.adapter import CompactAdapter

ADAPTER = CompactAdapter()
ONE = dspy.make_signature("digits -> answer", "reverse the digits.")
MANY = dspy.make_signature("question, limit: int -> reason, total: int", "count.")


class Scripted:
    """An engine that answers from a list and keeps the requests."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.requests: list[Request] = []

    def __deepcopy__(self, memo: object) -> "Scripted":
        return self

    def complete(self, request: Request) -> Response:
        self.requests.append(request)
        message = Message.assistant([TextPart(self.answers.pop(0))])
        return Response(
            id=None, model=request.model, message=message, finish_reason="stop", usage=Usage()
        )


def ask(signature: Any, *answers: str, **inputs: Any) -> tuple[dspy.Prediction, Scripted]:
    engine = Scripted(*answers)
    lm = dspy.LM("scripted/lm", engine=engine, cache=False, num_retries=0)
    with dspy.context(lm=lm, adapter=ADAPTER, disable_history=True):
        return dspy.Predict(signature)(**inputs), engine


def test_one_input_and_one_output_are_bare() -> None:
    assert ADAPTER.format(ONE, [], {"digits": "4719"}) == [
        {"role": "system", "content": "reverse the digits."},
        {"role": "user", "content": "4719"},
    ]
    assert ADAPTER.parse(ONE, " 9174\n") == {"answer": "9174"}


def test_several_fields_get_a_line_each() -> None:
    messages = ADAPTER.format(MANY, [], {"question": "how many?", "limit": 3})
    assert messages[1]["content"] == "question: how many?\nlimit: 3"
    text = ADAPTER.format_assistant_message_content(MANY, {"reason": "two and one", "total": 3})
    assert text == "reason: two and one\ntotal: 3"
    assert ADAPTER.parse(MANY, text) == {"reason": "two and one", "total": 3}


def test_a_value_may_span_lines_and_the_first_mention_counts() -> None:
    parsed = ADAPTER.parse(MANY, "chatter\nreason: one\n two\ntotal: 3\ntotal: 4")
    assert parsed == {"reason": "one\n two", "total": 3}


def test_demos_become_turns() -> None:
    messages = ADAPTER.format(ONE, [{"digits": "12", "answer": "21"}], {"digits": "34"})
    assert [(m["role"], m["content"]) for m in messages[1:]] == [
        ("user", "12"),
        ("assistant", "21"),
        ("user", "34"),
    ]


def test_values_are_coerced_to_their_types() -> None:
    signature = dspy.make_signature("x -> items: list[int], sure: bool", "list.")
    assert ADAPTER.parse(signature, "items: [1, 2]\nsure: True") == {"items": [1, 2], "sure": True}


def test_a_partial_parse_is_an_error_that_carries_what_was_read() -> None:
    with pytest.raises(dspy.AdapterParseError) as caught:
        ADAPTER.parse(MANY, "reason: because")
    assert caught.value.parsed_result == {"reason": "because"}


def test_a_value_of_the_wrong_type_is_an_error_that_carries_the_others() -> None:
    with pytest.raises(dspy.AdapterParseError, match="total") as caught:
        ADAPTER.parse(MANY, "reason: because\ntotal: many")
    assert caught.value.parsed_result == {"reason": "because"}


def test_a_prediction_goes_through_one_call() -> None:
    prediction, engine = ask(ONE, "9174", digits="4719")
    assert prediction.answer == "9174"
    (request,) = engine.requests
    assert request.system == "reverse the digits."
    assert [m.text for m in request.messages] == ["4719"]


def test_an_unreadable_answer_is_not_asked_for_again() -> None:
    with pytest.raises(dspy.AdapterParseError):
        ask(MANY, "nonsense", "reason: x\ntotal: 3", question="?", limit=1)


def test_conversation_history_is_rendered_as_turns() -> None:
    class Chat(dspy.Signature):
        """talk."""

        history: dspy.History = dspy.InputField()
        said: str = dspy.InputField()
        answer: str = dspy.OutputField()

    history = dspy.History(messages=[{"said": "a", "answer": "b"}])
    messages = ADAPTER.format(Chat, [], {"history": history, "said": "c"})
    assert [m["content"] for m in messages] == ["talk.", "a", "b", "c"]


def test_chain_of_thought_works() -> None:
    engine = Scripted("reasoning: flip it\nanswer: 21")
    lm = dspy.LM("scripted/lm", engine=engine, cache=False, num_retries=0)
    with dspy.context(lm=lm, adapter=ADAPTER, disable_history=True):
        prediction = dspy.ChainOfThought(ONE)(digits="12")
    assert (prediction.reasoning, prediction.answer) == ("flip it", "21")
