"""What the reflection model is shown, and what of its answers is used."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from fst_agents.errors import ReflectionError
from fst_agents.types import Call, Feedback, Outcome, Rollout
from optimizers.gepa_adapter import GuardedReflection, feedback_text, reflective_records
from optimizers.reflection import answer_fault


def call(predictor: str, text: str, parsed: bool = True, reason: str = "stop") -> Call:
    return Call(
        predictor=predictor,
        messages=(),
        prompt_ids=(1,),
        completion_ids=(2, 3),
        logprobs=(0.0, 0.0),
        finish_reason=reason,
        policy_version=0,
        temperature=1.0,
        text=text,
        inputs={"digits": [1, 2]},
        outputs={"answer": text} if parsed else None,
    )


def rollout(
    *calls: Call,
    feedback: Feedback | None = None,
    outcome: Outcome = Outcome.OK,
    error: str | None = None,
) -> Rollout:
    said = Feedback(0.5, "expected 21, got 12") if feedback is None else feedback
    return Rollout("x", "c", 0, calls, said, outcome, error=error)


def test_records_are_of_the_named_predictor_only() -> None:
    records = reflective_records("b", [rollout(call("a", "one"), call("b", "two"))])
    assert records == [
        {
            "Inputs": {"digits": "[1, 2]"},
            "Generated Outputs": {"answer": "two"},
            "Feedback": "expected 21, got 12",
        }
    ]


def test_a_predictor_that_was_never_called_has_no_records() -> None:
    assert reflective_records("b", [rollout(call("a", "one"))]) == []


def test_parse_failure_shows_the_raw_completion_and_says_so() -> None:
    failed = rollout(
        call("a", "12 12", parsed=False),
        feedback=Feedback(0.0, ""),
        outcome=Outcome.PARSE_FAILURE,
    )
    (record,) = reflective_records("a", [failed])
    assert record["Generated Outputs"] == "12 12"
    assert "could not be parsed" in record["Feedback"]


def test_an_answer_that_was_read_in_part_says_which_fields_are_missing() -> None:
    part = replace(call("a", "plan: go", parsed=False), partial={"plan": "go"}, missing=("answer",))
    fields = "Could be read: 'plan'; missing or unreadable: 'answer'."
    failed = rollout(part, feedback=Feedback(0.05, ""), outcome=Outcome.PARSE_FAILURE)
    (record,) = reflective_records("a", [failed])
    assert record["Generated Outputs"] == "plan: go"
    assert record["Feedback"].endswith(f"fields that were asked for. {fields}")
    said = Feedback(0.05, "", predictor_text={"a": f"It could not be read: 'plan: go'. {fields}"})
    (record,) = reflective_records("a", [replace(failed, feedback=said)])
    assert record["Feedback"].count(fields) == 1


def test_masked_and_unscored_rollouts_are_not_shown() -> None:
    masked = rollout(call("a", "one"), outcome=Outcome.INFRA_ERROR)
    unscored = rollout(call("a", "one"), feedback=Feedback(None, "no idea"))
    assert reflective_records("a", [masked, unscored]) == []


def test_the_last_three_calls_of_a_loop_are_shown() -> None:
    records = reflective_records("a", [rollout(*(call("a", str(i)) for i in range(5)))])
    assert [r["Generated Outputs"]["answer"] for r in records] == ["2", "3", "4"]


def test_feedback_on_the_predictor_goes_before_feedback_on_the_program() -> None:
    said = Feedback(0.0, "program", predictor_text={"a": "predictor"})
    assert feedback_text(rollout(feedback=said), call("a", "")) == "predictor"
    assert feedback_text(rollout(feedback=said), call("b", "")) == "program"


def test_feedback_names_cut_off_outputs_and_program_errors() -> None:
    text = feedback_text(
        rollout(outcome=Outcome.PROGRAM_ERROR, error="KeyError: 'x'"),
        call("a", "1", reason="length"),
    )
    assert text.splitlines() == [
        "expected 21, got 12",
        "The output was cut off after 2 tokens.",
        "The program failed: KeyError: 'x'",
    ]


def test_without_words_the_score_is_the_feedback() -> None:
    silent = rollout(feedback=Feedback(0.25, "  "))
    assert feedback_text(silent, call("a", "1")) == "The score of this output is 0.25."


def test_prompt_is_gepas_own_and_shows_instruction_input_and_feedback() -> None:
    prompts: list[str] = []

    def model(prompt: str) -> str:
        prompts.append(prompt)
        return "```\nSort it.\n```"

    records = reflective_records("a", [rollout(call("a", "12"))])
    proposal, _ = GuardedReflection(model).reflect({"a": "Do it."}, {"a": records}, ["a"])
    assert proposal.new_texts == {"a": "Sort it."}
    (prompt,) = prompts
    assert re.search(
        r"```\nDo it\.\n```.*# Example 1\n## Inputs\n### digits\n\[1, 2\].*## Generated Outputs\n"
        r"### answer\n12.*## Feedback\nexpected 21, got 12",
        prompt,
        re.DOTALL,
    )


def test_of_two_components_the_useful_text_is_kept() -> None:
    def model(prompt: str) -> str:
        return "```\nSort it.\n```" if "Do a." in prompt else "I give up."

    guarded = GuardedReflection(model)
    records = [{"Feedback": "wrong"}]
    proposal, _ = guarded.reflect(
        {"a": "Do a.", "b": "Do b."}, {"a": records, "b": records}, ["a", "b"]
    )
    assert proposal.new_texts == {"a": "Sort it."}
    assert (guarded.calls, guarded.invalid, guarded.exhausted) == (2, 1, False)
    assert guarded.faults == ["b: no complete ``` block in the answer"]


def test_nothing_to_reflect_on_is_neither_a_call_nor_a_fault() -> None:
    def model(prompt: str) -> str:
        raise AssertionError("not to be called")

    guarded = GuardedReflection(model)
    for _ in range(20):
        guarded.reflect({"a": "Do it."}, {"a": []}, ["a"])
    guarded.raise_if_broken()
    assert (guarded.calls, guarded.exhausted) == (0, False)


def test_broken_means_the_first_failure_or_three_in_a_row() -> None:
    answers: list[str | Exception] = [ValueError("1"), ValueError("2"), "```\nnew\n```"]

    def model(prompt: str) -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    proven = GuardedReflection(model, proven=True)
    for _ in range(3):
        proven.reflect({"a": "Do it."}, {"a": [{"Feedback": "wrong"}]}, ["a"])
        proven.raise_if_broken()
    answers.append(ValueError("3"))
    unproven = GuardedReflection(model)
    unproven.reflect({"a": "Do it."}, {"a": [{"Feedback": "wrong"}]}, ["a"])
    with pytest.raises(ReflectionError, match=r"1 time\(s\) in a row, last with ValueError: 3"):
        unproven.raise_if_broken()


def test_a_good_answer_has_no_fault() -> None:
    assert answer_fault("```\nSort it.\n```", "Sort it.", "Do it.") is None
