"""The digits task: a hidden rule turns one list of digits into another.

The rule is one or two operations of the phrase book. The program starts from an instruction that
says nothing; the metric shows what was expected and what kind of mistake was made, never the rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Final, Literal

import dspy
from pydantic import Field, field_validator

from fst_agents.dspy_bridge import problems
from fst_agents.types import Candidate, Skill
from programs.digits.grading import (
    MAX_SIZE,
    comment,
    compact,
    distinct_lists,
    partial_credit,
    write,
)
from programs.micro import phrasebook
from programs.micro.phrasebook import OPERATIONS, VAGUE, Ops
from programs.micro.reflector import OfflineReflector
from programs.task import Entry, Options, Task

SEED_INSTRUCTION: Final = VAGUE[0]

Reward = Literal["partial", "exact"]

ENOUGH: Final = 0.985
"""Mean reward at which a rule is solved: some 95 % of answers exactly right."""


class DigitsProgram(dspy.Module):
    """One predictor, `solve`: digits in, answer out."""

    def __init__(self, instruction: str = SEED_INSTRUCTION) -> None:
        super().__init__()
        self.solve = dspy.Predict(dspy.make_signature("digits -> answer", instruction))

    def forward(self, digits: str) -> dspy.Prediction:
        """Answer a list of digits such as `"4719"`."""
        return self.solve(digits=digits)


@dataclass(frozen=True)
class Digits:
    """A digits task: its rule, its data and its metric.

    Attributes:
        target: The hidden rule, one or two operations, applied in this order.
        reward: `partial` scores the share of correct positions, `exact` all or nothing.
        train_size, val_size, test_size: Examples per split; no list of digits occurs twice.
        seed: Decides the examples.
        instruction: What the program starts from.

    Raises:
        ValueError: An operation, the reward or a size is not valid.
    """

    target: Ops
    reward: Reward = "partial"
    train_size: int = 512
    val_size: int = 64
    test_size: int = 128
    seed: int = 0
    instruction: str = SEED_INSTRUCTION

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", check_rule(self.target))
        if self.reward not in ("partial", "exact"):
            raise ValueError(
                f"reward: got {self.reward!r}, expected 'partial' or 'exact'; choose one of the two"
            )
        for name in ("train_size", "val_size", "test_size"):
            if not 0 <= getattr(self, name) <= MAX_SIZE:
                raise ValueError(
                    f"{name}: got {getattr(self, name)}, expected 0 to {MAX_SIZE}; "
                    "choose a size in that range"
                )

    @property
    def program(self) -> DigitsProgram:
        """A fresh program with the seed instruction."""
        return DigitsProgram(self.instruction)

    @property
    def trainset(self) -> list[dspy.Example]:
        """The examples to learn from."""
        return self._splits[0]

    @property
    def valset(self) -> list[dspy.Example]:
        """The examples to choose by."""
        return self._splits[1]

    @property
    def testset(self) -> list[dspy.Example]:
        """The examples to report on."""
        return self._splits[2]

    def metric(
        self,
        gold: dspy.Example,
        pred: dspy.Prediction,
        trace: object = None,
        pred_name: str | None = None,
        pred_trace: object = None,
    ) -> dspy.Prediction:
        """Score a prediction by the task's reward, in [0, 1], with feedback in words."""
        return grade(gold, pred, self.reward)

    def exact_metric(
        self,
        gold: dspy.Example,
        pred: dspy.Prediction,
        trace: object = None,
        pred_name: str | None = None,
        pred_trace: object = None,
    ) -> dspy.Prediction:
        """Score a prediction 1 if it is exactly right, else 0; for evaluation."""
        return grade(gold, pred, "exact")

    @cached_property
    def _splits(self) -> tuple[list[dspy.Example], list[dspy.Example], list[dspy.Example]]:
        sizes = {"train": self.train_size, "val": self.val_size, "test": self.test_size}
        lists = iter(distinct_lists(sum(sizes.values()), Random(f"digits/{self.seed}")))
        train, val, test = (
            [example(next(lists), self.target, split) for _ in range(size)]
            for split, size in sizes.items()
        )
        return train, val, test


def check_rule(target: Sequence[str]) -> Ops:
    """The operations of a rule; ValueError unless they are one or two known ones."""
    if len(target) not in (1, 2):
        raise ValueError(
            f"target: got {len(target)} operations, expected one or two; "
            'name them as in ["rotate_left", "swap_ends"]'
        )
    return phrasebook.check(target)


def example(digits: Sequence[int], ops: Sequence[str], split: str) -> dspy.Example:
    """Make one example; its id is the split and the digits, so it never depends on the order."""
    given, answer = write(digits), write(phrasebook.apply(ops, digits))
    return dspy.Example(id=f"{split}-{given}", digits=given, answer=answer).with_inputs("digits")


def other_skills(
    target: Sequence[str], seed: int, size: int = 32
) -> list[tuple[str, list[dspy.Example]]]:
    """Return what a policy should not forget: every operation, with its right instruction.

    Args:
        target: The rule being learned; its operations stay in.
        seed: Decides the digits, together with the rule: what one run measures by luck before it
            learns, no other shares.
        size: Examples per operation.
    """
    phrasebook.check(target)
    skills: list[tuple[str, list[dspy.Example]]] = []
    for op in OPERATIONS:
        rng = Random(f"skills/{seed}/{'/'.join(target)}/{op}")
        examples = [example(d, (op,), f"skill-{op}") for d in distinct_lists(size, rng)]
        skills.append((phrasebook.phrase((op,)), examples))
    return skills


def grade(gold: dspy.Example, pred: dspy.Prediction, reward: Reward) -> dspy.Prediction:
    """Score an answer and say what kind of mistake it is, if it is one."""
    got, expected = compact(getattr(pred, "answer", None)), str(gold.answer)
    exact = float(got == expected)
    partial = partial_credit(expected, got)
    return dspy.Prediction(
        score=exact if reward == "exact" else partial,
        feedback=comment(str(gold.digits), expected, got),
        objective_scores={"exact": exact, "partial": partial},
    )


class DigitsOptions(Options):
    """Keys of ``[task]`` for ``digits``."""

    target: tuple[str, ...] = Field(
        default=("reverse", "complement"), description="The hidden rule, one or two operations."
    )
    reward: Reward = Field(
        default="partial", description="Partial credit per position, or all or nothing."
    )
    instruction: str = Field(
        default=SEED_INSTRUCTION, min_length=1, description="What the program starts from."
    )

    @field_validator("target")
    @classmethod
    def _known(cls, target: Ops) -> Ops:
        return check_rule(target)


def build(options: DigitsOptions, seed: int) -> Task:
    """The task as the catalogue has it; the 2×2 is scored by exact match."""
    digits = Digits(
        options.target,
        reward=options.reward,
        train_size=options.train_size,
        val_size=options.val_size,
        test_size=options.test_size,
        seed=seed,
        instruction=options.instruction,
    )
    return Task(
        program=digits.program,
        trainset=digits.trainset,
        valset=digits.valset,
        testset=digits.testset,
        metric=digits.metric,
        eval_metric=digits.exact_metric,
        enough=ENOUGH,
        skills=[
            Skill(instruction, Candidate({"solve": instruction}), problems(examples))
            for instruction, examples in other_skills(options.target, seed)
        ],
        reflect=OfflineReflector(seed=seed),
    )


def facts() -> dict[str, list[str] | list[list[str]]]:
    """The operations, and which pairs of them the micro policy was trained on."""
    return {
        "operations": list(OPERATIONS),
        "trained": [list(pair) for pair in phrasebook.trained_pairs()],
        "held_out": [list(pair) for pair in phrasebook.held_out_pairs()],
    }


ENTRY: Final = Entry(
    name="digits",
    summary="a hidden rule of one or two operations on 4–6 digits (embedded policy)",
    options=DigitsOptions,
    build=build,
    facts=facts,
)
