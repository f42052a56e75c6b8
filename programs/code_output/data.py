"""Examples: programs drawn from the grammar, and what running them in the sandbox gave.

One batch runs every program on a few calls. A program is kept if all of them succeed, within the
allowed length, and their results differ: otherwise there would be nothing to work out.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

import dspy

from programs.code_output.generator import Program, Style, draw
from programs.code_output.grading import printed
from programs.code_output.sandbox import Kind, Limits, Request, Sandbox

Direction = Literal["output", "input"]

CALLS: Final = 5
"""How many calls a program is tried with."""
MIN_DIFFERENT: Final = 3
"""How many different results they must give."""
PRINTING: Final = 0.25
"""Share of programs that print their result, where it is the result that is asked for."""
MAX_ROUNDS: Final = 12
"""How many batches are drawn before the options count as impossible to meet."""

LIMITS: Final = Limits(output_chars=200_000)
"""For a whole batch; single results are held to ``max_output`` afterwards."""
BATCH: Final = 16
"""How many programs are tried in one process of the sandbox."""

HARNESS: Final = """
def outcomes(programs):
    return [outcomes_of(*program) for program in programs]

def outcomes_of(code, style, calls):
    said = []
    scope = {}
    try:
        exec(code, scope)
        if style == "print":
            scope["print"] = lambda *values: said.append(" ".join(map(str, values)))
        found = []
        for call in calls:
            said.clear()
            value = eval(call, scope)
            found.append("\\n".join(said) if style == "print" else repr(value))
        return found
    except Exception:
        return []
"""
"""Tries programs inside the sandbox: what each call returns or prints, nothing for a failure."""


@dataclass(frozen=True, slots=True)
class Solved:
    """A program, one call of it, and what that gives: a ``repr``, or the printed text."""

    program: Program
    direction: Direction
    arguments: str
    result: str

    def example(self, split: str) -> dspy.Example:
        """The example; of ``call`` and ``result``, the one that is asked for is empty."""
        call = f"f({self.arguments})"
        forward = self.direction == "output"
        content = f"{self.program.code}\n{call}\n{self.direction}"
        return dspy.Example(
            id=f"{split}-{hashlib.sha256(content.encode()).hexdigest()[:12]}",
            code=self.program.code,
            call=call if forward else "",
            result="" if forward else self.result,
            answer=self.result if forward else self.arguments,
            direction=self.direction,
            style=self.program.style,
        ).with_inputs("code", "call", "result")


def solve(
    count: int, seed: int, *, directions: tuple[Direction, ...], difficulty: int, max_output: int
) -> list[Solved]:
    """Draw different programs and run them. Equal arguments give equal programs.

    Raises:
        ValueError: too few programs keep within ``max_output``.
        SandboxError: the sandbox is not to be had here.
    """
    rng = Random(f"code_output/{seed}")
    found: dict[str, Solved] = {}
    for _ in range(MAX_ROUNDS):
        drawn: list[tuple[Direction, Program]] = []
        for _ in range((count - len(found)) * 3 // 2 + BATCH):
            direction = rng.choice(directions)
            prints = direction == "output" and rng.random() < PRINTING
            style: Style = "print" if prints else "return"
            drawn.append((direction, draw(rng, difficulty, style, CALLS)))
        tried = _try([program for _, program in drawn])
        for (direction, program), outcomes in zip(drawn, tried, strict=True):
            choice = rng.randrange(CALLS)
            if _fit(program, outcomes, max_output):
                call = program.calls()[choice]
                solved = Solved(program, direction, call[2:-1], outcomes[choice])
                found.setdefault(program.code, solved)
        if len(found) >= count:
            return list(found.values())[:count]
    raise ValueError(
        f"max_output: got {max_output} characters, with which only {len(found)} of {count} "
        "different programs were found; allow longer results or ask for fewer examples"
    )


def splits(solved: list[Solved], sizes: dict[str, int]) -> Iterator[list[dspy.Example]]:
    """Deal programs out to splits of the given sizes, in order."""
    rest = iter(solved)
    for split, size in sizes.items():
        yield [next(rest).example(split) for _ in range(size)]


def _try(programs: Sequence[Program]) -> list[list[str]]:
    """For each program one text a call, or nothing where it did not get through."""
    batches = [programs[start : start + BATCH] for start in range(0, len(programs), BATCH)]
    tried: list[list[str]] = []
    with Sandbox(LIMITS, workers=1) as sandbox:
        for batch, result in zip(batches, sandbox.run(list(map(_trial, batches))), strict=True):
            if result.kind is Kind.VALUE:
                tried += ast.literal_eval(result.value)
                continue
            for alone in sandbox.run([_trial([program]) for program in batch]):
                good = alone.kind is Kind.VALUE
                tried += ast.literal_eval(alone.value) if good else [[]]
    return tried


def _trial(programs: Sequence[Program]) -> Request:
    listed = [(program.code, program.style, program.calls()) for program in programs]
    return Request(HARNESS, "outcomes", repr((listed,)))


def _fit(program: Program, outcomes: list[str], max_output: int) -> bool:
    if len(set(outcomes)) < MIN_DIFFERENT or max(map(len, outcomes)) > max_output:
        return False
    # An adapter strips what it reads, so printed white space at the ends could not be answered.
    return program.style == "return" or all(printed(text) for text in outcomes)
