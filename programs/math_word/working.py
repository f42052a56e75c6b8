"""A word problem with its worked solution, which is recorded while the answer is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One operation: what it gives, how it is written, and the result."""

    what: str
    operation: str
    value: int

    @property
    def text(self) -> str:
        """As in the solution: ``"cost of the pens: 3 × 4 = 12"``."""
        return f"{self.what}: {self.operation}"


@dataclass(frozen=True, slots=True)
class WordProblem:
    """A question and the steps to its answer, which is what the last one gives.

    Attributes:
        question: one or several sentences.
        solution: the worked solution as a text.
        results: what its steps give, in order; the last is the answer unless the solution of a
            dataset leaves it out.
        answer: the number asked for, without unit or grouping.
    """

    question: str
    solution: str
    results: tuple[str, ...]
    answer: str


class Working:
    """Computes step by step and writes the steps down."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def plus(self, what: str, *terms: int) -> int:
        """The sum of two or more terms."""
        return self._record(what, terms, "+", sum(terms))

    def minus(self, what: str, whole: int, part: int) -> int:
        """A difference, which must not be negative."""
        if part > whole:
            raise ValueError(f"{what}: {whole} - {part} is negative; draw other numbers")
        return self._record(what, (whole, part), "-", whole - part)

    def times(self, what: str, *factors: int) -> int:
        """The product of two or more factors."""
        return self._record(what, factors, "×", math.prod(factors))

    def over(self, what: str, total: int, parts: int) -> int:
        """A quotient, which must be whole."""
        if total % parts:
            raise ValueError(f"{what}: {total} ÷ {parts} is not whole; draw other numbers")
        return self._record(what, (total, parts), "÷", total // parts)

    def full(self, what: str, total: int, size: int) -> int:
        """How many times a size fits whole into a total; the remainder is written down."""
        value, rest = divmod(total, size)
        operation = f"{total} ÷ {size} = {value}" + (f", remainder {rest}" if rest else "")
        self.steps.append(Step(what, operation, value))
        return value

    def problem(self, question: str) -> WordProblem:
        """The finished problem; its answer is what the last step gave."""
        return WordProblem(
            question=question,
            solution="\n".join(f"{i}. {step.text}" for i, step in enumerate(self.steps, 1)),
            results=tuple(str(step.value) for step in self.steps),
            answer=str(self.steps[-1].value),
        )

    def _record(self, what: str, operands: Sequence[int], sign: str, value: int) -> int:
        operation = f" {sign} ".join(map(str, operands)) + f" = {value}"
        self.steps.append(Step(what, operation, value))
        return value
