"""The offline reflector: reads GEPA's prompt, edits once, and gets there under gepa itself."""

from collections.abc import Sequence
from random import Random
from statistics import median
from typing import Any, cast

import dspy
import pytest
from gepa.api import optimize
from gepa.core.adapter import EvaluationBatch
from gepa.strategies.instruction_proposal import InstructionProposalSignature
from hypothesis import given
from hypothesis import strategies as st

from programs.digits import SEED_INSTRUCTION, Digits
from programs.micro import phrasebook
from programs.micro.phrasebook import OPERATIONS, Ops
from programs.micro.reflector import OfflineReflector, UnknownTask, edits, known_ops, read_examples

PAIR = ("rotate_left", "swap_ends")
sequences = st.lists(st.sampled_from(OPERATIONS), max_size=2).map(tuple)


def prompt(instruction: str, records: Sequence[dict[str, Any]]) -> Any:
    return InstructionProposalSignature.prompt_renderer(
        {"current_instruction_doc": instruction, "dataset_with_feedback": records}
    )


def records(target: Ops, count: int = 4, answer: str = "0000", seed: int = 0) -> list[Any]:
    task = Digits(target, train_size=count, val_size=0, test_size=0, seed=seed)
    return [
        {
            "Inputs": {"digits": gold.digits},
            "Generated Outputs": {"answer": answer},
            "Feedback": task.metric(gold, dspy.Prediction(answer=answer)).feedback,
        }
        for gold in task.trainset
    ]


def answer_to(reflector: OfflineReflector, instruction: str, target: Ops, seed: int = 0) -> str:
    reply = reflector(prompt(instruction, records(target, seed=seed)))
    return InstructionProposalSignature.output_extractor(reply)["new_instruction"]


def distance_is_one(a: Ops, b: Ops) -> bool:
    """Whether one inserted, dropped, replaced or swapped operation lies between two rules."""
    if len(a) == len(b):
        return sum(x != y for x, y in zip(a, b, strict=True)) == 1 or (a != b and a[::-1] == b)
    short, long = sorted((a, b), key=len)
    return any(long[:i] + long[i + 1 :] == short for i in range(len(long)))


def test_it_reads_the_examples_from_the_metric_s_feedback() -> None:
    shown = read_examples(prompt("x.", records(PAIR)))
    assert len(shown) == 4
    assert all(phrasebook.apply(PAIR, s.digits) == s.expected for s in shown)


@given(sequences)
def test_edits_are_single_and_complete(ops: Ops) -> None:
    every = [(op,) for op in OPERATIONS] + [(a, b) for a in OPERATIONS for b in OPERATIONS]
    assert edits(ops) == {e for e in every if distance_is_one(ops, e)}


@given(
    current=sequences,
    target=st.sampled_from(phrasebook.pairs()),
    variant=st.integers(0, 17),
    seed=st.integers(0, 99),
)
def test_a_reflection_makes_one_edit_at_most(
    current: Ops, target: Ops, variant: int, seed: int
) -> None:
    instruction = phrasebook.phrase(current, variant)
    reply = known_ops(answer_to(OfflineReflector(seed), instruction, target, seed))
    assert reply == current or distance_is_one(current, reply)
    assert reply


def test_a_rule_of_two_steps_takes_two_reflections() -> None:
    reflector = OfflineReflector()
    first = answer_to(reflector, SEED_INSTRUCTION, PAIR)
    second = answer_to(reflector, first, PAIR)
    assert len(known_ops(first)) == 1
    assert phrasebook.equivalent(known_ops(second), PAIR)


def test_a_right_rule_is_only_reworded() -> None:
    reflector = OfflineReflector()
    instruction = phrasebook.phrase(PAIR)
    reworded = {answer_to(reflector, instruction, PAIR) for _ in range(20)}
    assert len(reworded) > 5
    assert instruction not in reworded
    assert {phrasebook.parse(text) for text in reworded} == {PAIR}


def test_reflections_on_one_instruction_differ_and_follow_the_seed() -> None:
    def several(seed: int) -> list[str]:
        reflector = OfflineReflector(seed)
        return [answer_to(reflector, SEED_INSTRUCTION, PAIR) for _ in range(8)]

    assert len(set(several(0))) > 1
    assert several(0) == several(0)


def test_an_instruction_it_cannot_read_counts_as_vague() -> None:
    reply = answer_to(OfflineReflector(), "Whirl the things, please!", PAIR)
    assert len(known_ops(reply)) == 1


def test_where_no_answer_could_be_read_it_guesses() -> None:
    """A policy that writes nothing but noise: no feedback says what was expected."""
    unread = [{**record, "Feedback": "The output could not be parsed."} for record in records(PAIR)]
    assert read_examples(prompt("x.", unread)) == ()
    reflector = OfflineReflector()
    replies = {reflector(prompt(SEED_INSTRUCTION, unread)) for _ in range(20)}
    guesses = {known_ops(reply.strip("`\n")) for reply in replies}
    assert len(guesses) > 5
    assert {len(ops) for ops in guesses} == {1}


def test_it_takes_chat_messages_as_well() -> None:
    text = prompt(SEED_INSTRUCTION, records(PAIR))
    as_text = [{"role": "user", "content": text}]
    as_parts = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    replies = {OfflineReflector()(p) for p in (text, as_text, as_parts)}
    assert len(replies) == 1


@pytest.mark.parametrize(
    "foreign",
    [
        "Please write a better prompt.",
        prompt("Answer.", [{"Inputs": {"q": "Capital of France?"}, "Feedback": "It is Paris."}]),
    ],
)
def test_another_task_is_refused_with_a_way_out(foreign: str) -> None:
    with pytest.raises(UnknownTask, match="reflection_lm"):
        OfflineReflector()(foreign)


class Follower:
    """A gepa adapter around a perfect follower of instructions; vague ones mean any operation."""

    propose_new_texts = None

    def __init__(self, task: Digits, seed: int) -> None:
        self.task, self.rng = task, Random(seed)

    def evaluate(
        self, batch: list[dspy.Example], candidate: dict[str, str], capture_traces: bool = False
    ) -> EvaluationBatch[Any, Any]:
        answers = [self.follow(candidate["solve"], gold.digits) for gold in batch]
        graded = [
            self.task.metric(gold, dspy.Prediction(answer=a))
            for gold, a in zip(batch, answers, strict=True)
        ]
        traces = list(zip(batch, answers, graded, strict=True))
        return EvaluationBatch(
            outputs=answers,
            scores=[g.score for g in graded],
            trajectories=traces if capture_traces else None,
        )

    def follow(self, instruction: str, digits: str) -> str:
        ops = phrasebook.parse(instruction) or (self.rng.choice(OPERATIONS),)
        return "".join(map(str, phrasebook.apply(ops, tuple(map(int, digits)))))

    def make_reflective_dataset(
        self, candidate: dict[str, str], batch: EvaluationBatch[Any, Any], components: list[str]
    ) -> dict[str, list[dict[str, Any]]]:
        examples = [
            {"Inputs": {"digits": gold.digits}, "Generated Outputs": a, "Feedback": g.feedback}
            for gold, a, g in batch.trajectories or []
        ]
        return dict.fromkeys(components, examples)


class Silent:
    def log(self, message: str) -> None:
        """Drop gepa's progress messages."""


def calls_until_found(target: Ops, reward: Any, acceptance: Any) -> int:
    """Return the metric calls gepa spent until some candidate's rule is the hidden one."""
    task = Digits(target, reward=reward, train_size=192, val_size=32, test_size=0)

    def found(state: Any) -> bool:
        rules = [known_ops(c["solve"]) for c in state.program_candidates]
        return any(rule and phrasebook.equivalent(rule, target) for rule in rules)

    result = optimize(
        seed_candidate={"solve": SEED_INSTRUCTION},
        trainset=task.trainset,
        valset=task.valset,
        adapter=cast(Any, Follower(task, 0)),
        reflection_lm=OfflineReflector(),
        max_metric_calls=1500,
        reflection_minibatch_size=4,
        acceptance_criterion=acceptance,
        stop_callbacks=cast(Any, [found]),
        logger=Silent(),
    )
    return int(result.total_metric_calls or 0)


@pytest.mark.parametrize(
    ("reward", "acceptance"),
    [("partial", "strict_improvement"), ("exact", "improvement_or_equal")],
)
def test_gepa_finds_nearly_every_held_out_rule_within_five_hundred_calls(
    reward: str, acceptance: str
) -> None:
    calls = {p: calls_until_found(p, reward, acceptance) for p in phrasebook.held_out_pairs()}
    assert sum(n <= 500 for n in calls.values()) >= 0.9 * len(calls), calls
    assert median(calls.values()) <= 150
