"""Small Python functions drawn from a typed grammar.

Every draw is well typed, and it ends: loops run over short values, ``while`` counts down, and what
grows in a loop grows by a piece of bounded size. It may still raise; the sandbox finds out.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from programs.code_output.grammar import (
    BRIDGES,
    CONSTANTS,
    EXPRESSIONS,
    GROWTH,
    KINDS,
    LOOPS,
    READ_ONLY,
    WORDS,
    Scope,
)

Value = int | str | list[int] | list[str] | dict[str, int]
Style = Literal["return", "print"]

HOLE: Final = re.compile(r"<(\w+)>")


@dataclass(frozen=True, slots=True)
class Program:
    """A drawn program: its source, and calls of its function ``f`` to try it with.

    ``style`` says whether the function returns its result or prints it. ``arguments`` holds one
    tuple of argument values a call.
    """

    code: str
    style: Style
    arguments: tuple[tuple[Value, ...], ...]

    def calls(self) -> list[str]:
        """The calls as they would be written: ``"f(3, 'ab')"``."""
        return [f"f({', '.join(map(repr, values))})" for values in self.arguments]


def draw(rng: Random, difficulty: int, style: Style, calls: int) -> Program:
    """Draw a program of a difficulty from 1 to 3, and arguments for some calls of it."""
    kinds = [rng.choice(KINDS) for _ in range(rng.randint(1, min(difficulty + 1, 3)))]
    names = ("g", "h")[: (0, rng.randint(0, 1), rng.randint(1, 2))[difficulty - 1]]
    writer = _Writer(rng, difficulty)
    helpers = {name: writer.helper(name) for name in names}
    code = writer.function(dict(zip("rst", kinds, strict=False)), style)
    for name in reversed(names):  # a later helper may call an earlier one
        if re.search(rf"\b{name}\(", code):
            code = f"{helpers[name]}\n\n\n{code}"
    arguments = tuple(tuple(_value(rng, kind) for kind in kinds) for _ in range(calls))
    return Program(code, style, arguments)


class _Writer:
    """Writes one program; knows the helpers that it may call."""

    def __init__(self, rng: Random, difficulty: int) -> None:
        self._rng = rng
        self._difficulty = difficulty
        self._helpers: dict[str, list[tuple[str, str]]] = {}
        self._names = 0

    def helper(self, name: str) -> str:
        """A function of one parameter with a short body; later expressions may call it."""
        kind, result = self._kind(), self._kind()
        scope = {"p": kind}
        lines = self._statement(scope, 1) if self._difficulty == 3 else []
        lines.append(f"return {self._expression(result, scope, 2)}")
        self._helpers.setdefault(result, []).append((name, kind))
        return "\n".join([f"def {name}(p):", *_indent(lines)])

    def function(self, scope: dict[str, str], style: Style) -> str:
        """The function ``f`` of the variables in scope; its first statement is never an assignment
        but a loop or a branch."""
        head, result = f"def f({', '.join(scope)}):", self._kind()
        lines = [f"out = {self._expression(result, scope, 1)}"]
        scope["out"] = result
        lines += self._block(scope, 1)
        for _ in range(self._rng.randint(self._difficulty - 1, self._difficulty)):
            lines += self._statement(scope, 1)
        extra = self._expression(self._kind(), scope, 1) if self._rng.random() < 0.3 else ""
        if style == "print":
            lines += [f"print({extra})"] if extra else []
            lines.append("print(out)")
        else:
            lines.append(f"return out, {extra}" if extra else "return out")
        return "\n".join([head, *_indent(lines)])

    def _statement(self, scope: dict[str, str], depth: int) -> list[str]:
        """A block, or an assignment, which may bring a new variable into the scope."""
        if self._rng.random() < 0.5:
            return self._block(scope, depth)
        kind = self._kind()
        same = [name for name, other in scope.items() if other == kind]
        new = not same or self._rng.random() < 0.5
        name = self._fresh("v") if new else self._rng.choice(same)
        line = f"{name} = {self._fill(self._rng.choice(EXPRESSIONS[kind]), scope, 1)}"
        scope[name] = kind
        return [line]

    def _block(self, scope: Scope, depth: int) -> list[str]:
        """A branch, a ``while`` or a ``for``."""
        choice = self._rng.random()
        if choice < 0.35:
            return self._branch(scope, depth, 2)
        if choice < 0.5:
            count, start = self._fresh("n"), self._expression("int", scope, 1)
            shrink = self._rng.choice((f"{count} //= 2", f"{count} -= 3"))
            body = self._body({**scope, count: "tick"}, depth)
            return [f"{count} = abs({start}) % 20", f"while {count} > 1:", *body, f"    {shrink}"]
        head, bound = self._rng.choice(LOOPS)
        names = {hole: self._fresh(hole) for hole in bound}
        head = self._fill(head.format(**names), scope, 1)
        inner = {**scope, **{names[hole]: kind for hole, kind in bound.items()}}
        return [head, *self._body(inner, depth)]

    def _body(self, scope: Scope, depth: int) -> list[str]:
        """Of a loop: growth, perhaps more of it under a condition, a loop inside, an exit."""
        lines = self._growth(scope)
        if self._rng.random() < 0.5:
            lines += self._branch(scope, depth + 1, 1)
        if depth < self._difficulty - 1 and self._rng.random() < 0.5:
            lines += self._block(scope, depth + 1)
        if self._difficulty > 1 and self._rng.random() < 0.3:
            lines += [f"if {self._expression('bool', scope, 1)}:", "    break"]
        return _indent(lines)

    def _branch(self, scope: Scope, depth: int, detail: int) -> list[str]:
        lines = [f"if {self._expression('bool', scope, detail)}:", *self._arm(scope, depth)]
        if self._difficulty > 1 and self._rng.random() < 0.3:
            lines += [f"elif {self._expression('bool', scope, 1)}:", *self._arm(scope, depth)]
        if self._rng.random() < 0.5:
            lines += ["else:", *self._arm(scope, depth)]
        return lines

    def _arm(self, scope: Scope, depth: int) -> list[str]:
        """Of a branch. Inside of loops only growth, since anything else could explode there."""
        if depth > 1 or self._rng.random() < 0.6:
            return _indent(self._growth(scope))
        name = self._rng.choice([name for name, kind in scope.items() if kind in GROWTH])
        return [f"    {name} = {self._fill(self._rng.choice(EXPRESSIONS[scope[name]]), scope, 1)}"]

    def _growth(self, scope: Scope) -> list[str]:
        """One bounded change of a variable, of the result most of the time."""
        names = [name for name, kind in scope.items() if kind in GROWTH]
        result = "out" in names and self._rng.random() < 0.6
        name = "out" if result else self._rng.choice(names)
        return [self._fill(self._rng.choice(GROWTH[scope[name]]).format(v=name), scope, 1)]

    def _expression(self, kind: str, scope: Scope, depth: int) -> str:
        if depth <= 0 or (kind in scope.values() and self._rng.random() < 0.2):
            return self._atom(kind, scope)
        if kind in self._helpers and self._rng.random() < 0.5:
            name, parameter = self._rng.choice(self._helpers[kind])
            return f"{name}({self._expression(parameter, scope, depth - 1)})"
        return self._fill(self._rng.choice(EXPRESSIONS[kind]), scope, depth - 1)

    def _fill(self, production: str, scope: Scope, depth: int) -> str:
        """Fill every hole of a production."""
        return HOLE.sub(lambda hole: self._hole(hole[1], scope, depth), production)

    def _hole(self, hole: str, scope: Scope, depth: int) -> str:
        ticks = [name for name, kind in scope.items() if kind == "tick"]
        chars = [name for name, kind in scope.items() if kind == "char"]
        texts = chars + [name for name, kind in scope.items() if kind == "word"]
        if hole == "near":  # a number near zero
            choices = [*ticks, *ticks, *(f"len({name})" for name in texts), self._constant("small")]
        elif hole == "piece":  # a short text
            choices = [*texts, *texts, *(f"str({name})" for name in ticks), self._constant("char")]
        elif hole == "char":
            choices = [*chars, self._constant("char")]
        elif hole in CONSTANTS:
            return self._constant(hole)
        elif hole.startswith("atom_"):
            return self._atom(hole.removeprefix("atom_"), scope)
        elif hole.startswith("unit_"):
            return _unit(self._expression(hole.removeprefix("unit_"), scope, depth))
        else:
            return self._expression(hole, scope, depth)
        return self._rng.choice(choices)

    def _atom(self, kind: str, scope: Scope) -> str:
        """A variable, one of another type made to fit, or a constant."""
        if kind == "bool":
            return self._fill("<atom_int> > <small>", scope, 0)
        usable = [name for name, other in scope.items() if READ_ONLY.get(other, other) == kind]
        if usable and self._rng.random() < 0.95:
            return self._rng.choice(usable)
        others = [name for name, other in scope.items() if other in BRIDGES[kind]]
        if others and self._rng.random() < 0.95:
            name = self._rng.choice(others)
            return BRIDGES[kind][scope[name]].format(name)
        return repr(_value(self._rng, kind))

    def _constant(self, kind: str) -> str:
        return self._rng.choice(CONSTANTS[kind])

    def _kind(self) -> str:
        return self._rng.choice(KINDS)

    def _fresh(self, stem: str) -> str:
        self._names += 1
        return f"{stem}{self._names}"


def _unit(expression: str) -> str:
    """In brackets where an operator next to the expression would tear it apart."""
    loose = (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare)
    body = ast.parse(expression, mode="eval").body
    return f"({expression})" if isinstance(body, loose) else expression


def _indent(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _value(rng: Random, kind: str) -> Value:
    """A value to call with, or a constant: short, so that results stay short."""
    match kind:
        case "int":
            return rng.randint(-9, 20)
        case "str":
            return rng.choice(WORDS)
        case "ints":
            return [rng.randint(-9, 12) for _ in range(rng.randint(2, 6))]
        case "strs":
            return rng.sample(WORDS, rng.randint(2, 4))
        case _:
            return {word: rng.randint(0, 9) for word in rng.sample(WORDS, rng.randint(1, 3))}
