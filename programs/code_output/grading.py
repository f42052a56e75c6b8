"""Score an answer and say what is wrong with it.

1 for a right answer. Less than right is at most :data:`MOST`: :data:`READABLE` for an answer that
can be read at all, and the rest by how near it comes (:func:`programs.code_output.literals.\
closeness`). Arguments are judged by what the function makes of them, in the sandbox.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from programs.code_output.literals import (
    UnreadableError,
    closeness,
    difference,
    parse,
    read,
    same,
    value,
)
from programs.code_output.sandbox import Kind, Request, Result

READABLE: Final = 0.1
MOST: Final = 0.5
MAX_ARGUMENTS: Final = 500
"""Longest text of arguments that is tried."""

Run = Callable[[Sequence[Request]], Sequence[Result]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A score in [0, 1] and the reasons for it."""

    score: float
    words: str

    @property
    def exact(self) -> bool:
        return self.score == 1.0


def judge_returned(call: str, expected: str, answer: str) -> Verdict:
    """An answer to what a call returns; ``expected`` is a ``repr``."""
    truth = f"{call} returns {expected}"
    try:
        got = read(answer)
    except UnreadableError as error:
        hint = _hint(expected, answer)
        return Verdict(0.0, f"{truth}. The answer is {_quote(answer)}: {error}.{hint}")
    wanted = read(expected)
    if same(wanted, got):
        return Verdict(1.0, f"Correct: {truth}.")
    words = f"{truth}. The answer is {_quote(answer)}. {difference(wanted, got)}"
    return Verdict(_partial(wanted, got), words)


def judge_printed(call: str, expected: str, answer: str) -> Verdict:
    """An answer to what a call prints; white space at the ends of lines does not count."""
    wanted, got = printed(expected).split("\n"), printed(answer).split("\n")
    truth = f"{call} prints (it does not return a value):\n{expected}"
    if wanted == got:
        return Verdict(1.0, f"Correct: {truth}")
    said = f"{truth}\nThe answer is {_quote(answer)}."
    if len(got) != len(wanted):
        reason = f"Wrong number of lines: {len(got)} instead of {len(wanted)}."
    else:
        line = next(i for i, pair in enumerate(zip(wanted, got, strict=True)) if len({*pair}) > 1)
        quoted = wanted[line] == got[line][1:-1]
        reason = "The quotes are not printed." if quoted else difference(wanted[line], got[line])
        reason = f"Line {line + 1}: {reason}"
    return Verdict(_partial(wanted, got) if any(got) else 0.0, f"{said} {reason}")


def judge_arguments(code: str, expected: str, known: str, answer: str, run: Run) -> Verdict:
    """Arguments that should make ``f`` return ``expected``, as ``known`` ones do.

    ``run`` runs requests in a sandbox. The answer is read, never run.
    """
    goal = f"f is to return {expected}, as f({known}) does"
    try:
        arguments = read_arguments(answer, count_parameters(code))
    except UnreadableError as error:
        return Verdict(0.0, f"{goal}. The answer is {_quote(answer)}: {error}.")
    call = f"f({', '.join(map(repr, arguments))})"
    (result,) = run([Request(code, "f", repr(arguments))])
    match result.kind:
        case Kind.VALUE:
            return _judge_value(goal, call, expected, result.value)
        case Kind.ERROR:
            return Verdict(READABLE, f"{goal}. {call} raises {result.error}.")
        case Kind.TIMEOUT:
            return Verdict(READABLE, f"{goal}. {call} does not come to an end.")
        case kind:
            reason = result.error or kind.value
            return Verdict(READABLE, f"{goal}. {call} is stopped: {kind.value} ({reason}).")


def _judge_value(goal: str, call: str, expected: str, result: str) -> Verdict:
    if result == expected:
        return Verdict(1.0, f"Correct: {call} returns {expected}.")
    said = f"{goal}. {call} returns {result:.300} instead."
    try:
        wanted, got = read(expected), read(result)
    except UnreadableError:  # such as nan or a very long value: no literal, and so not the goal
        return Verdict(READABLE, said)
    if same(wanted, got):
        return Verdict(1.0, f"Correct: {call} returns {expected}.")
    return Verdict(_partial(wanted, got), f"{said} {difference(wanted, got)}")


def read_arguments(text: str, count: int) -> tuple[Any, ...]:
    """Read what would stand between the brackets of a call: ``3, 'ab'``.

    Raises:
        UnreadableError: too long, not literals, named, or not ``count`` of them.
    """
    if len(text) > MAX_ARGUMENTS:
        raise UnreadableError(f"it has {len(text)} characters, more than {MAX_ARGUMENTS}")
    node = parse(f"f({text.strip()}\n)")  # on a line of its own, or a comment would hide it
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        raise UnreadableError("it is not what stands between the brackets of one call")
    if node.keywords:
        raise UnreadableError("the arguments must be given by position, without names")
    arguments = tuple(map(value, node.args))
    if len(arguments) != count:
        hint = " (a tuple is one argument: leave out the brackets around it)"
        one_tuple = len(arguments) == 1 and isinstance(arguments[0], tuple)
        raise UnreadableError(
            f"f takes {count} argument(s), not {len(arguments)}{hint if one_tuple else ''}"
        )
    return arguments


def count_parameters(code: str) -> int:
    """How many parameters the function ``f`` of a program takes."""
    functions = [node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)]
    return len(next(node for node in functions if node.name == "f").args.args)


def printed(text: str) -> str:
    """Printed text as it is compared: without white space at its ends and at those of lines."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _partial(wanted: Any, got: Any) -> float:
    """Never 1, and never nothing: the answer could be read."""
    return READABLE + (MOST - READABLE) * closeness(wanted, got)


def _hint(expected: str, answer: str) -> str:
    bare = answer.strip().strip("`").strip()
    if expected == repr(bare):
        return " It is a text: its quotes are part of the answer."
    if answer.strip() != bare:
        return " Write the bare literal, without backticks."
    return " Expected is the bare literal of the value, as repr writes it, and nothing else."


def _quote(text: str) -> str:
    return repr(text) if len(text) <= 300 else f"{text[:300]!r}… ({len(text)} characters)"
