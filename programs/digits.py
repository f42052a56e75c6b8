"""The digits task: a hidden rule turns one list of digits into another.

The rule is one or two operations of the phrase book. The program starts from an instruction that
says nothing; the metric shows what was expected and what kind of mistake was made, never the rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Final, Literal

import dspy

from programs.micro import phrasebook
from programs.micro.phrasebook import LENGTHS, OPERATIONS, VAGUE, Ops

SEED_INSTRUCTION: Final = VAGUE[0]


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

    Raises:
        ValueError: An operation, the reward or a size is not valid.
    """

    target: Ops
    reward: Literal["partial", "exact"] = "partial"
    train_size: int = 512
    val_size: int = 64
    test_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", phrasebook.check(self.target))
        if len(self.target) not in (1, 2):
            raise ValueError(
                f"target: got {len(self.target)} operations, expected one or two; "
                'name them as in ["rotate_left", "swap_ends"]'
            )
        if self.reward not in ("partial", "exact"):
            raise ValueError(
                f"reward: got {self.reward!r}, expected 'partial' or 'exact'; choose one of the two"
            )
        for name in ("train_size", "val_size", "test_size"):
            if not 0 <= getattr(self, name) <= _MAX_SIZE:
                raise ValueError(
                    f"{name}: got {getattr(self, name)}, expected 0 to {_MAX_SIZE}; "
                    "choose a size in that range"
                )

    @property
    def program(self) -> DigitsProgram:
        """A fresh program with the seed instruction."""
        return DigitsProgram()

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
        lists = iter(_distinct_lists(sum(sizes.values()), Random(f"digits/{self.seed}")))
        train, val, test = (
            [example(next(lists), self.target, split) for _ in range(size)]
            for split, size in sizes.items()
        )
        return train, val, test


def example(digits: Sequence[int], ops: Sequence[str], split: str) -> dspy.Example:
    """Make one example; its id is the split and the digits, so it never depends on the order."""
    given, answer = _text(digits), _text(phrasebook.apply(ops, digits))
    return dspy.Example(id=f"{split}-{given}", digits=given, answer=answer).with_inputs("digits")


def other_skills(
    target: Sequence[str], size: int = 32, seed: int = 0
) -> list[tuple[str, list[dspy.Example]]]:
    """Return what a policy should not forget: every operation, with its right instruction.

    Args:
        target: The rule being learned; its digits are never reused, its operations stay in.
        size: Examples per operation.
        seed: Decides the digits.
    """
    phrasebook.check(target)
    skills: list[tuple[str, list[dspy.Example]]] = []
    for op in OPERATIONS:
        rng = Random(f"skills/{seed}/{op}")
        examples = [example(d, (op,), f"skill-{op}") for d in _distinct_lists(size, rng)]
        skills.append((phrasebook.phrase((op,)), examples))
    return skills


def grade(
    gold: dspy.Example, pred: dspy.Prediction, reward: Literal["partial", "exact"]
) -> dspy.Prediction:
    """Score an answer and say what kind of mistake it is, if it is one.

    Partial credit is the number of correct positions over the longer of the two lengths, so a
    random answer earns about 0.1 and anything but digits earns 0.
    """
    got = "".join(str(getattr(pred, "answer", "") or "").split())
    expected = str(gold.answer)
    exact = float(got == expected)
    partial = _partial_credit(expected, got)
    return dspy.Prediction(
        score=exact if reward == "exact" else partial,
        feedback=f"Input {gold.digits}, expected {expected}, got {got!r}. "
        + _describe(expected, got),
        objective_scores={"exact": exact, "partial": partial},
    )


_MAX_SIZE: Final = 5000


def _partial_credit(expected: str, got: str) -> float:
    if not _is_digits(got):
        return 0.0
    return _correct(expected, got) / max(len(expected), len(got))


def _correct(expected: str, got: str) -> int:
    return sum(a == b for a, b in zip(expected, got, strict=False))


def _describe(expected: str, got: str) -> str:
    """Name the kind of mistake in words that never occur in a rule."""
    if got == expected:
        return "This is correct."
    if not _is_digits(got):
        return "The answer must be made of digits and nothing else."
    share = f"{_correct(expected, got)} of {len(expected)} positions are correct."
    if len(got) != len(expected):
        return f"Wrong length: {len(got)} instead of {len(expected)}; {share}"
    if sorted(got) == sorted(expected):
        return f"The values are correct but stand in the wrong places; {share}"
    wrong = [i for i, (a, b) in enumerate(zip(expected, got, strict=True), 1) if a != b]
    return f"Wrong values at position {', '.join(map(str, wrong))}; {share}"


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _distinct_lists(count: int, rng: Random) -> list[tuple[int, ...]]:
    """Draw different lists of digits, in every length the micro policy knows."""
    lists: dict[tuple[int, ...], None] = {}
    while len(lists) < count:
        length = rng.choice(LENGTHS)
        lists[tuple(rng.randrange(10) for _ in range(length))] = None
    return list(lists)


def _text(digits: Sequence[int]) -> str:
    return "".join(map(str, digits))
