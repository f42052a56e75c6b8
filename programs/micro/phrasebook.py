"""The phrase book: ten operations on lists of digits, and the words for them.

An *instruction* is text; its meaning is a tuple of operations, applied left to right. `phrase` and
`parse` go back and forth. Everything here is pure and depends on nothing but the standard library.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import permutations
from random import Random
from typing import Final

DigitList = tuple[int, ...]
Ops = tuple[str, ...]
Pair = tuple[str, str]

LENGTHS: Final = (4, 5, 6)
"""The list lengths the micro policy was trained on."""

_FUNCTIONS: Final[dict[str, Callable[[DigitList], DigitList]]] = {
    "reverse": lambda d: d[::-1],
    "sort_ascending": lambda d: tuple(sorted(d)),
    "sort_descending": lambda d: tuple(sorted(d, reverse=True)),
    "increment": lambda d: tuple((x + 1) % 10 for x in d),
    "decrement": lambda d: tuple((x - 1) % 10 for x in d),
    "double": lambda d: tuple(2 * x % 10 for x in d),
    "complement": lambda d: tuple(9 - x for x in d),
    "rotate_left": lambda d: d[1:] + d[:1],
    "rotate_right": lambda d: d[-1:] + d[:-1],
    "swap_ends": lambda d: d[-1:] + d[1:-1] + d[:1] if len(d) > 1 else d,
}

OPERATIONS: Final[tuple[str, ...]] = tuple(_FUNCTIONS)
"""The ids of the ten operations."""

PHRASINGS: Final[dict[str, tuple[str, str, str]]] = {
    "reverse": (
        "reverse the digits",
        "write the list backwards",
        "turn the order around",
    ),
    "sort_ascending": (
        "sort the digits in ascending order",
        "arrange them from smallest to largest",
        "put the list in increasing order",
    ),
    "sort_descending": (
        "sort the digits in descending order",
        "arrange them from largest to smallest",
        "put the list in decreasing order",
    ),
    "increment": (
        "add one to each digit",
        "increment every digit",
        "raise all values by one",
    ),
    "decrement": (
        "subtract one from each digit",
        "decrement every digit",
        "lower all values by one",
    ),
    "double": (
        "double each digit",
        "multiply every digit by two",
        "make all values twice as big",
    ),
    "complement": (
        "subtract each digit from nine",
        "complement every digit to nine",
        "replace all values by nine minus the value",
    ),
    "rotate_left": (
        "rotate the list to the left",
        "move the first digit to the end",
        "shift left by one place",
    ),
    "rotate_right": (
        "rotate the list to the right",
        "move the last digit to the front",
        "shift right by one place",
    ),
    "swap_ends": (
        "swap the first and last digits",
        "exchange the two ends",
        "trade the outer digits",
    ),
}
"""Three ways to say each operation."""

VAGUE: Final[tuple[str, ...]] = (
    "solve the task.",
    "do the task.",
    "answer the question.",
    "follow the rule.",
    "give the right answer.",
    "find the rule and use it.",
)
"""Instructions that name no operation; the micro policy answers them with a random one."""

COURTESIES: Final[tuple[str, ...]] = (
    "please {}",
    "the task: {}",
    "your task is this: {}",
    "you are given a list of digits. {}",
    "{} answer with the digits only.",
    "{} give only the result.",
)
"""Harmless words around an instruction: they change nothing in its meaning."""

_FORMS: Final[dict[int, tuple[str, ...]]] = {
    1: ("{}.",),
    2: ("{}, then {}.", "first {}. then {}."),
}
_LEADING_FIRST: Final = re.compile(r"^first (?=.*[,.;] then )")
_SEPARATOR: Final = re.compile(r"\s*[,.;]?\s+then\s+")


def apply(ops: Sequence[str], digits: Sequence[int]) -> DigitList:
    """Apply operations from left to right, in arithmetic modulo ten.

    Raises:
        ValueError: An operation is unknown; the message lists the known ones.
    """
    result = tuple(digits)
    for op in check(ops):
        result = _FUNCTIONS[op](result)
    return result


def check(ops: Sequence[str]) -> Ops:
    """Return the operations as a tuple, or raise ValueError listing the valid names."""
    for op in ops:
        if op not in _FUNCTIONS:
            raise ValueError(
                f"unknown operation: got {op!r}, expected one of {', '.join(OPERATIONS)}; "
                "name operations from that list"
            )
    return tuple(ops)


def variants(ops: Sequence[str]) -> int:
    """Return how many distinct instructions `phrase` can make for these operations."""
    return len(_forms(len(ops))) * 3 ** len(ops) if ops else len(VAGUE)


def phrase(ops: Sequence[str], variant: int = 0) -> str:
    """Put operations into words.

    Args:
        ops: Any number of operations; none gives a vague instruction.
        variant: Which of the `variants(ops)` wordings, modulo that number.
    """
    variant %= variants(check(ops))
    if not ops:
        return VAGUE[variant]
    form, variant = divmod(variant, 3 ** len(ops))
    clauses: list[str] = []
    for op in ops:
        variant, choice = divmod(variant, 3)
        clauses.append(PHRASINGS[op][choice])
    return _forms(len(ops))[form].format(*clauses)


def parse(instruction: str) -> Ops | None:
    """Read the operations back out of an instruction: the inverse of `phrase`.

    Case, white space, final punctuation and `COURTESIES` do not matter. Returns None when the text
    is vague or says anything the phrase book does not know.
    """
    text = _strip_courtesies(" ".join(instruction.lower().split()))
    text = _LEADING_FIRST.sub("", text).rstrip(" .!;")
    ops = [_meanings().get(clause) for clause in _SEPARATOR.split(text)]
    known = tuple(op for op in ops if op is not None)
    return known if len(known) == len(ops) else None


def pairs() -> tuple[Pair, ...]:
    """Return all 90 ordered pairs of two different operations."""
    return tuple(permutations(OPERATIONS, 2))


@cache
def held_out_pairs() -> tuple[Pair, ...]:
    """Return 28 pairs of which no instruction was ever seen in pre-training, in either order.

    No held-out pair collapses, and none is a trained function in other words.
    """
    return tuple(pair for pair in pairs() if pair in _HELD_OUT or pair[::-1] in _HELD_OUT)


@cache
def trained_pairs() -> tuple[Pair, ...]:
    """Return the other 62 pairs: those of the pre-training data."""
    return tuple(pair for pair in pairs() if pair not in held_out_pairs())


def equivalent(a: Sequence[str], b: Sequence[str]) -> bool:
    """Say whether two sequences of operations are the same function of the digits."""
    return _fingerprint(tuple(a)) == _fingerprint(tuple(b))


def collapses(ops: Sequence[str]) -> bool:
    """Say whether operations do no more than one of them alone, or nothing at all."""
    simpler = [(), *((op,) for op in OPERATIONS)]
    return any(equivalent(ops, other) for other in simpler if len(other) < len(ops))


def words() -> tuple[str, ...]:
    """Return every word of the phrase book, once, in alphabetical order."""
    forms = [form for group in _FORMS.values() for form in group]
    clauses = [clause for group in PHRASINGS.values() for clause in group]
    text = " ".join([*clauses, *VAGUE, *COURTESIES, *forms])
    return tuple(sorted(set(re.findall(r"[a-z]+", text))))


_HELD_OUT: Final[tuple[Pair, ...]] = (
    ("reverse", "double"),
    ("reverse", "complement"),
    ("sort_ascending", "double"),
    ("sort_descending", "increment"),
    ("sort_descending", "decrement"),
    ("increment", "rotate_left"),
    ("increment", "rotate_right"),
    ("decrement", "double"),
    ("decrement", "rotate_left"),
    ("decrement", "rotate_right"),
    ("double", "complement"),
    ("double", "swap_ends"),
    ("complement", "swap_ends"),
    ("rotate_left", "swap_ends"),
)
"""Held out in both orders. A held-out pair is to be a new combination, not a new kind of one: of an
operation's partners among values, places and sorts at most half, rounded up, are held out, and one
couple rearranges twice, which a small network can hardly put together. Beside the development
rules' three couples, 540 choices leave it at that and no larger ones do; this one was drawn."""


def _forms(count: int) -> tuple[str, ...]:
    return _FORMS.get(count) or (", then ".join(["{}"] * count) + ".",)


def _strip_courtesies(text: str) -> str:
    for courtesy in COURTESIES:
        before, _, after = courtesy.partition("{}")
        text = text.removeprefix(before).removesuffix(after)
    return text


@cache
def _meanings() -> dict[str, str]:
    return {clause: op for op, clauses in PHRASINGS.items() for clause in clauses}


@cache
def _probes() -> tuple[DigitList, ...]:
    """Draw enough lists that two different compositions disagree on some of them."""
    rng = Random(0)
    return tuple(
        tuple(rng.randrange(10) for _ in range(length)) for length in LENGTHS for _ in range(200)
    )


@cache
def _fingerprint(ops: Ops) -> tuple[DigitList, ...]:
    return tuple(apply(ops, probe) for probe in _probes())
