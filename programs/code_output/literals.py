"""Python literals: read them, compare them, and say in words how two of them differ."""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any, Final

MAX_CHARS: Final = 2_000
"""Longest text that is read; also keeps the parser from running out of stack."""
COMPARED: Final = 200
"""How many characters of two texts are compared; the time grows with the cube."""

FILE: Final = "<answer>"
# What Python warns of in an answer, such as `"\d"`, is no business of the program's log.
warnings.filterwarnings("ignore", module=FILE)


class UnreadableError(ValueError):
    """A text is no literal; the message says why, as a clause."""


def read(text: str) -> Any:
    """The value of a literal, never the result of running anything.

    Raises:
        UnreadableError: it is none, or longer than :data:`MAX_CHARS`.
    """
    return value(parse(text))


def parse(text: str) -> ast.expr:
    """The syntax tree of an expression.

    Raises:
        UnreadableError: as :func:`read`.
    """
    if len(text) > MAX_CHARS:
        raise UnreadableError(f"it has {len(text)} characters, more than {MAX_CHARS}")
    try:
        return ast.parse(text.strip(), FILE, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise UnreadableError(f"it cannot be read as Python ({type(error).__name__})") from error


def value(node: ast.expr) -> Any:
    """The value of a syntax tree that is a literal.

    Raises:
        UnreadableError: it is none, such as a name or a call.
    """
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError) as error:
        raise UnreadableError("it is not a literal: a name, a call or an operation") from error


def same(expected: Any, got: Any) -> bool:
    """Equality that tells ``1``, ``True`` and ``1.0`` apart, at any depth; NaN equals nothing."""
    if type(expected) is not type(got):
        return False
    if isinstance(expected, list | tuple):
        return len(expected) == len(got) and all(map(same, expected, got))
    if isinstance(expected, dict):
        return _keys(expected) == _keys(got) and all(same(v, got[k]) for k, v in expected.items())
    if isinstance(expected, set):
        return _keys(expected) == _keys(got)
    return bool(expected == got)


def closeness(expected: Any, got: Any) -> float:
    """How near two values are, in [0, 1]; 1 if they are the same, 0 for another type.

    Numbers by 1/(1 + distance), texts by ``difflib``'s ratio (of their beginnings), lists and
    tuples by the mean over the positions of the longer one, dicts by the mean over the keys of
    both, sets by their share of common elements.
    """
    if same(expected, got):
        return 1.0
    if type(expected) is not type(got) or expected is None or isinstance(expected, bool):
        return 0.0
    if isinstance(expected, int):
        return 1 / (1 + abs(expected - got))
    if isinstance(expected, float):
        return 1 / (1 + abs(expected - got)) if math.isfinite(expected - got) else 0.0
    if isinstance(expected, str):
        pair = expected[:COMPARED], got[:COMPARED]
        return SequenceMatcher(None, *pair, autojunk=False).ratio()
    if isinstance(expected, list | tuple):
        near = map(closeness, expected, got)
        return sum(near) / max(len(expected), len(got))
    if isinstance(expected, dict):
        near = (closeness(v, got[k]) for k, v in expected.items() if k in got)
        return sum(near) / len(expected.keys() | got.keys())
    if isinstance(expected, set):
        return len(expected & got) / len(expected | got)
    return 0.0


def difference(expected: Any, got: Any) -> str:
    """The kind of a mistake, in words: what differs first, and how."""
    if same(expected, got):
        return "They are the same."
    wanted, given = type(expected).__name__, type(got).__name__
    if wanted != given:
        return f"Wrong type: {_article(given)} instead of {_article(wanted)}."
    if isinstance(expected, int) and not isinstance(expected, bool):
        return _number(expected, got)
    if isinstance(expected, str):
        return _text(expected, got)
    if isinstance(expected, list | tuple):
        return _sequence(expected, got)
    if isinstance(expected, dict):
        return _mapping(expected, got)
    return "Wrong value."


def _number(expected: int, got: int) -> str:
    if got == -expected:
        return "Wrong sign."
    distance = abs(got - expected)
    side = "large" if got > expected else "small"
    amount = "Off by one" if distance == 1 else "Wrong number"
    return f"{amount}: too {side} by {_short(distance)}."


def _text(expected: str, got: str) -> str:
    if got.strip() == expected.strip():
        return "Right but for white space at its ends."
    if got.lower() == expected.lower():
        return "The right letters in the wrong case."
    if sorted(got) == sorted(expected):
        return f"The right characters in the wrong order; {_first(expected, got)}"
    if len(got) != len(expected):
        lengths = f"{len(got)} characters instead of {len(expected)}"
        return f"Wrong length: {lengths}; {_first(expected, got)}"
    return f"Wrong characters; {_first(expected, got)}"


def _sequence(expected: Sequence[Any], got: Sequence[Any]) -> str:
    if sorted(map(repr, got)) == sorted(map(repr, expected)):
        return f"The right elements in the wrong order; {_first(expected, got)}"
    if len(got) != len(expected):
        lengths = f"{len(got)} elements instead of {len(expected)}"
        return f"Wrong length: {lengths}; {_first(expected, got)}"
    wrong = [i for i, (a, b) in enumerate(zip(expected, got, strict=True)) if not same(a, b)]
    others = f" ({len(wrong)} elements are wrong)" if len(wrong) > 1 else ""
    place = wrong[0]
    return f"Wrong element at index {place}{others}: {difference(expected[place], got[place])}"


def _mapping(expected: dict[Any, Any], got: dict[Any, Any]) -> str:
    missing, extra = _keys(expected) - _keys(got), _keys(got) - _keys(expected)
    if missing or extra:
        parts = [f"missing {_keys_text(missing)}"] if missing else []
        parts += [f"too many {_keys_text(extra)}"] if extra else []
        return f"Wrong keys: {', '.join(parts)}."
    key = next(k for k in expected if not same(expected[k], got[k]))
    return f"Wrong value of key {_short(key)}: {difference(expected[key], got[key])}"


def _first(expected: Sequence[Any], got: Sequence[Any]) -> str:
    """Where two sequences part."""
    for place, (a, b) in enumerate(zip(expected, got, strict=False)):
        if not same(a, b):
            return f"first at index {place}: expected {_short(a)}, got {_short(b)}."
    return f"they agree in the first {min(len(expected), len(got))}."


def _keys(values: Any) -> set[tuple[type, Any]]:
    """With their types, since ``1``, ``True`` and ``1.0`` are one key to Python."""
    return {(type(key), key) for key in values}


def _keys_text(keys: set[tuple[type, Any]]) -> str:
    return ", ".join(sorted(_short(key) for _, key in keys))[:200]


def _short(thing: Any) -> str:
    text = str(thing) if isinstance(thing, int) and abs(thing) < 10**80 else f"{thing!r:.80}"
    return text[:80]


def _article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"
