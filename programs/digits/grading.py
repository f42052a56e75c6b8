"""What both digits tasks share: lists of digits, partial credit, and feedback in words.

The words name the kind of a mistake and never an operation of the rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from programs.micro.phrasebook import LENGTHS

MAX_SIZE: Final = 5000
"""Most examples of a split: beyond that, different lists of four digits become rare."""


def partial_credit(expected: str, got: str) -> float:
    """The number of correct positions over the longer of the two lengths, in [0, 1].

    A random answer earns about 0.1, anything but digits 0.
    """
    if not is_digits(got):
        return 0.0
    return _correct(expected, got) / max(len(expected), len(got))


def compact(value: object) -> str:
    """What a field holds, without white space; nothing where it is absent."""
    return "".join(str(value or "").split())


def comment(given: str, expected: str, got: str) -> str:
    """Input, expected answer, answer, and the kind of mistake."""
    return f"Input {given}, expected {expected}, got {got!r}. {_describe(expected, got)}"


def is_digits(text: str) -> bool:
    """Whether a text is one or more of the digits 0 to 9 and nothing else."""
    return text.isascii() and text.isdigit()


def distinct_lists(count: int, rng: Random) -> list[tuple[int, ...]]:
    """Draw different lists of digits, in every length the micro policy knows.

    Raises:
        ValueError: more than three splits of :data:`MAX_SIZE` are asked for.
    """
    if count > 3 * MAX_SIZE:
        raise ValueError(
            f"sizes: got {count} examples in all, expected at most {3 * MAX_SIZE}; ask for fewer"
        )
    lists: dict[tuple[int, ...], None] = {}
    while len(lists) < count:
        length = rng.choice(LENGTHS)
        lists[tuple(rng.randrange(10) for _ in range(length))] = None
    return list(lists)


def write(digits: Sequence[int]) -> str:
    """Digits as the policy reads and writes them: ``4719``."""
    return "".join(map(str, digits))


def read(text: str) -> tuple[int, ...]:
    """The inverse of :func:`write`."""
    return tuple(map(int, text))


def _correct(expected: str, got: str) -> int:
    return sum(a == b for a, b in zip(expected, got, strict=False))


def _describe(expected: str, got: str) -> str:
    """Name the kind of mistake in words that never occur in a rule."""
    if got == expected:
        return "This is correct."
    if not is_digits(got):
        return "The answer must be made of digits and nothing else."
    share = f"{_correct(expected, got)} of {len(expected)} positions are correct."
    if len(got) != len(expected):
        return f"Wrong length: {len(got)} instead of {len(expected)}; {share}"
    if sorted(got) == sorted(expected):
        return f"The values are correct but stand in the wrong places; {share}"
    wrong = [i for i, (a, b) in enumerate(zip(expected, got, strict=True), 1) if a != b]
    return f"Wrong values at position {', '.join(map(str, wrong))}; {share}"
