"""Score a number, and name the kind of mistake if it is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from programs.math_word.reading import read_number, read_numbers, write

READABLE: Final = 0.1
"""What a wrong number earns: something to tell it from no number at all."""

SLIP: Final = Decimal("0.1")
"""Relative distance up to which a wrong answer looks like a slip of the arithmetic."""

MAX_FACTOR: Final = 100
"""Largest whole factor that counts as a multiplication too many or too few."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A score in [0, 1] and the reasons for it."""

    score: float
    words: str

    @property
    def exact(self) -> bool:
        return self.score == 1.0


def judge(
    answer: str, *, expected: str, question: str, results: Sequence[str], solution: str
) -> Verdict:
    """Compare the last number of an answer with the expected one.

    Args:
        answer: what the policy has written.
        expected: the number, in plain digits.
        question: to tell a number that was merely copied.
        results: what the steps of the solution give, to tell where an answer stopped.
        solution: the worked solution; may be empty.
    """
    got, wanted = read_number(answer), Decimal(expected)
    said = f"Expected {expected}. The answer is {_quote(answer)}"
    worked = f"\nWorked solution:\n{solution}" if solution else ""
    if got is None:
        return Verdict(0.0, f"{said}: there is no number in it.{worked}")
    if got == wanted:
        return Verdict(1.0, f"{said}, which is correct.")
    kind = _kind(got, wanted, question, [Decimal(result) for result in results])
    return Verdict(READABLE, f"{said}, read as {write(got)}. {kind}{worked}")


def _kind(got: Decimal, wanted: Decimal, question: str, results: Sequence[Decimal]) -> str:
    """The first kind of mistake that fits, from the surest to the vaguest."""
    if got == -wanted:
        return "The sign is wrong."
    if got in results:
        number = results.index(got) + 1
        return (
            f"This is an intermediate result, that of step {number} of {len(results)}, not what "
            "the question asks for."
        )
    if got in read_numbers(question):
        return "This number stands in the question; it is not the answer to it."
    if factor := _factor(got, wanted):
        return factor
    if got != int(got) and wanted == int(wanted):
        return "A whole number was expected."
    size = "too large" if got > wanted else "too small"
    distance = abs(got - wanted)
    if distance == 1:
        return f"It is {size} by one: check the counting, or a remainder."
    if distance <= SLIP * abs(wanted):
        return f"It is {size} by {write(distance)}, a slip of the arithmetic perhaps."
    return f"It is {size} by {write(distance)}: check which operations the question calls for."


def _factor(got: Decimal, wanted: Decimal) -> str | None:
    """Says by which whole factor an answer is off, ``None`` if by none up to the largest."""
    if 0 in (got, wanted) or (got < 0) != (wanted < 0):
        return None
    size = "large" if abs(got) > abs(wanted) else "small"
    larger, smaller = max(abs(got), abs(wanted)), min(abs(got), abs(wanted))
    factor = larger / smaller
    if factor > MAX_FACTOR or factor * smaller != larger or factor != int(factor):
        return None
    return (
        f"It is {int(factor)} times too {size}: a multiplication, a division or a change of units "
        "is missing, or one too many."
    )


def _quote(answer: str, most: int = 200) -> str:
    """The end of a long answer, where its number stands."""
    return repr(answer if len(answer) <= most else f"…{answer[-most:]}")
