"""The digits task as a pipeline: two predictors, each with a part of the hidden rule of its own.

``first`` turns the digits into a middle list, ``second`` turns that into the answer. Neither may do
the other's work: the middle list counts, too. The second predictor is judged by what it makes of
the list that it was given, right or wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final, Literal

import dspy
from pydantic import Field, field_validator

from fst_agents.dspy_bridge import problems
from fst_agents.types import Candidate, Skill
from programs.digits.grading import (
    comment,
    compact,
    distinct_lists,
    is_digits,
    partial_credit,
    read,
    write,
)
from programs.digits.task import SEED_INSTRUCTION, Reward
from programs.micro import phrasebook
from programs.micro.phrasebook import OPERATIONS, Ops
from programs.micro.reflector import OfflineReflector
from programs.task import Entry, Options, Task

FIRST, SECOND = "first", "second"

ENOUGH: Final = 0.99
"""Mean reward at which the rule is solved: higher than for one predictor, of which two can fail."""


class DigitsPipeline(dspy.Module):
    """Two predictors in a row: digits in, middle list, answer out."""

    def __init__(self, instruction: str = SEED_INSTRUCTION) -> None:
        super().__init__()
        self.first = dspy.Predict(dspy.make_signature("digits -> middle", instruction))
        self.second = dspy.Predict(dspy.make_signature("middle -> answer", instruction))

    def forward(self, digits: str) -> dspy.Prediction:
        """Answer a list of digits such as ``"4719"``; the middle list comes with the answer."""
        middle = self.first(digits=digits).middle
        return dspy.Prediction(middle=middle, answer=self.second(middle=middle).answer)


@dataclass(frozen=True)
class PipelineRule:
    """The hidden rule, cut in two.

    Attributes:
        first: Operations from the digits to the middle list.
        second: Operations from the middle list to the answer.
    """

    first: Ops
    second: Ops

    @classmethod
    def of(cls, target: Ops) -> PipelineRule:
        """Cut two to four operations in the middle; of three the second predictor gets two.

        Raises:
            ValueError: an operation is unknown, or there are too few or too many.
        """
        if not 2 <= len(target) <= 4:
            raise ValueError(
                f"target: got {len(target)} operations, expected two to four, which the two "
                'predictors share; name them as in ["double", "reverse", "complement"]'
            )
        cut = len(target) // 2
        known = phrasebook.check(target)
        return cls(known[:cut], known[cut:])

    def example(self, digits: tuple[int, ...], split: str) -> dspy.Example:
        """One example, with the middle list and the answer as labels."""
        middle = phrasebook.apply(self.first, digits)
        answer = phrasebook.apply(self.second, middle)
        return dspy.Example(
            id=f"{split}-{write(digits)}",
            digits=write(digits),
            middle=write(middle),
            answer=write(answer),
            second=" ".join(self.second),
        ).with_inputs("digits")


def grade(
    gold: dspy.Example,
    pred: dspy.Prediction,
    *,
    reward: Reward,
    credit: Literal["predictor", "program"],
    of: str | None = None,
) -> dspy.Prediction:
    """Score a run of the pipeline: the mean of what its two predictors earn, each in [0, 1].

    Args:
        credit: ``predictor`` scores the two apart as well, ``program`` leaves both with the mean.
        of: name of the predictor that the feedback is about; both by default.
    """
    middle, answer = compact(getattr(pred, "middle", None)), compact(getattr(pred, "answer", None))
    given = middle if is_digits(middle) else str(gold.middle)
    expected = write(phrasebook.apply(str(gold.second).split(), read(given)))
    stages = {
        FIRST: (str(gold.digits), str(gold.middle), middle),
        SECOND: (given, expected, answer),
    }
    partial = {name: partial_credit(want, got) for name, (_, want, got) in stages.items()}
    exact = {name: float(want == got) for name, (_, want, got) in stages.items()}
    if given != middle:  # nothing is right after what cannot be read
        partial[SECOND] = exact[SECOND] = 0.0
    scores = exact if reward == "exact" else partial
    words = {name: comment(*stage) for name, stage in stages.items()}
    said = [f"{name}: {text}" for name, text in words.items()]
    return dspy.Prediction(
        score=sum(scores.values()) / len(scores),
        feedback=words[of] if of is not None else "\n".join(said),
        objective_scores={
            "exact": float(all(exact.values())),
            "partial": sum(partial.values()) / len(partial),
        },
        predictor_scores=scores if credit == "predictor" else {},
    )


class PipelineOptions(Options):
    """Keys of ``[task]`` for ``digits-pipeline``."""

    target: tuple[str, ...] = Field(
        default=("increment", "reverse", "complement"),
        description="The hidden rule, two to four operations; the first half is `first`'s part, "
        "the rest (of three the last two) is `second`'s.",
    )
    reward: Reward = Field(
        default="partial", description="Partial credit per position, or all or nothing."
    )
    credit: Literal["predictor", "program"] = Field(
        default="predictor",
        description="Whether the metric scores the predictors apart, or only the program.",
    )

    @field_validator("target")
    @classmethod
    def _known(cls, target: Ops) -> Ops:
        PipelineRule.of(target)
        return target


def build(options: PipelineOptions, seed: int) -> Task:
    """The pipeline's task; the 2×2 counts the runs whose middle list and answer are both right."""
    rule = PipelineRule.of(options.target)
    sizes = {"train": options.train_size, "val": options.val_size, "test": options.test_size}
    lists = iter(distinct_lists(sum(sizes.values()), Random(f"digits-pipeline/{seed}")))
    train, val, test = (
        [rule.example(next(lists), split) for _ in range(size)] for split, size in sizes.items()
    )

    def metric(
        gold: dspy.Example,
        pred: dspy.Prediction,
        trace: object = None,
        pred_name: str | None = None,
        pred_trace: object = None,
    ) -> dspy.Prediction:
        return grade(gold, pred, reward=options.reward, credit=options.credit, of=pred_name)

    def exact(gold: dspy.Example, pred: dspy.Prediction, trace: object = None) -> float:
        whole = grade(gold, pred, reward="exact", credit="program")
        return float(whole.objective_scores["exact"])

    return Task(
        program=DigitsPipeline(),
        trainset=train,
        valset=val,
        testset=test,
        metric=metric,
        eval_metric=exact,
        enough=ENOUGH,
        skills=skills(seed),
        reflect=OfflineReflector(seed=seed),
    )


def skills(seed: int, size: int = 32) -> list[Skill]:
    """What should not be forgotten: every operation in both places, each by its right words."""
    found: list[Skill] = []
    for place, first in enumerate(OPERATIONS):
        second = OPERATIONS[(place + 3) % len(OPERATIONS)]
        rule = PipelineRule((first,), (second,))
        words = {FIRST: phrasebook.phrase((first,)), SECOND: phrasebook.phrase((second,))}
        rng = Random(f"pipeline-skills/{seed}/{first}")
        split = f"skill-{first}-{second}"
        examples = [rule.example(digits, split) for digits in distinct_lists(size, rng)]
        found.append(Skill(f"{first}, {second}", Candidate(words), problems(examples)))
    return found


def facts() -> dict[str, object]:
    """The operations, and the predictors' names."""
    return {"operations": list(OPERATIONS), "predictors": [FIRST, SECOND]}


ENTRY: Final = Entry(
    name="digits-pipeline",
    summary="the same in two steps: each predictor has to find its own part of the rule",
    options=PipelineOptions,
    build=build,
    facts=facts,
)
