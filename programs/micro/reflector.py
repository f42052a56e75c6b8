"""A reflection LM that needs no network: it reads GEPA's reflection prompt and reasons by search.

It knows the phrase book of the micro policy and never a task's rule: all it learns about the task
is what the prompt shows, inputs and expected answers in the feedback. Like a careful person it
makes one edit to the current instruction per reflection, so a rule of two steps takes several.
Where no answer could be read, so that no feedback says what was expected, the edit is a guess.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from statistics import fmean
from typing import Any, Final

from programs.micro import phrasebook
from programs.micro.phrasebook import OPERATIONS, DigitList, Ops

Prompt = str | list[dict[str, Any]]


class UnknownTask(ValueError):
    """The prompt shows no digits task, which is all that the offline reflector knows."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"{problem}; expected GEPA's reflection prompt with examples of a digits task, which "
            "is all that the offline reflector knows; for your own task name a reflection LM: "
            '[fast] reflection_lm = "openai/gpt-5-mini"'
        )


@dataclass(frozen=True)
class Shown:
    """One example that a reflection prompt shows.

    Attributes:
        digits: The list that was given.
        expected: The list that was expected back.
    """

    digits: DigitList
    expected: DigitList


class OfflineReflector:
    """A drop-in for a reflection LM: `(prompt) -> text` with a new instruction between fences.

    Attributes:
        temperature: How far from the best an edit's worth may be and still be tried; worth is
            measured in partial credit, so it lies between 0 and about 1.5.
        calls: Answers given so far. The next one depends on the seed, this number and the prompt
            alone: a reflector that goes on for another one is given that one's number.
    """

    def __init__(self, seed: int = 0, temperature: float = 0.05) -> None:
        self.temperature = temperature
        self.calls = 0
        self._seed = seed

    def __call__(self, prompt: Prompt) -> str:
        """Answer a reflection prompt.

        Raises:
            UnknownTask: The prompt has no instruction, or is about another task.
        """
        text = prompt if isinstance(prompt, str) else _join(prompt)
        instruction, examples = read_instruction(text), read_examples(text)
        ops = known_ops(instruction)
        credit = _Credit(examples)
        rng = Random(f"reflector {self._seed}, call {self.calls}")
        self.calls += 1
        meant = ops if examples and credit.own(ops) == 1.0 else self._choose(ops, credit, rng)
        return f"```\n{_word(meant, instruction, rng)}\n```"

    def _choose(self, ops: Ops, credit: "_Credit", rng: Random) -> Ops:
        """Draw one edit, the likelier the better it or its best sequel explains the examples."""
        options = sorted(edits(ops))
        if not credit.informed:
            return rng.choice(options)
        worth = [credit.worth(option, ops) for option in options]
        best = max(worth)
        weights = [math.exp((w - best) / self.temperature) for w in worth]
        return rng.choices(options, weights)[0]


def read_instruction(prompt: str) -> str:
    """Return the current instruction: the first fenced block of GEPA's reflection prompt."""
    match = re.search(r"```\w*\n(.*?)\n```", prompt, re.DOTALL)
    if match is None:
        raise UnknownTask("got a prompt without an instruction between ``` fences")
    return match[1].strip()


def read_examples(prompt: str) -> tuple[Shown, ...]:
    """Return the inputs and expected answers that the feedback of a digits task spells out.

    There are none where the policy wrote nothing that could be read as an answer.
    """
    found = re.findall(r"input (\d+), expected (\d+)", prompt, re.IGNORECASE)
    if not found and not re.search(r"^#+ (?:digits|middle)$", prompt, re.MULTILINE):
        raise UnknownTask("got a prompt without digits examples")
    return tuple(Shown(_digits(given), _digits(expected)) for given, expected in found)


def known_ops(instruction: str) -> Ops:
    """Return the operations an instruction names; none when it is vague or not understood."""
    ops = phrasebook.parse(instruction) or ()
    return ops if len(ops) <= MAX_OPS else ()


@cache
def edits(ops: Ops) -> frozenset[Ops]:
    """Return all that one edit can make of a sequence of operations.

    An edit inserts an operation anywhere, replaces one, drops one, or swaps two neighbours. The
    result names one or two operations and is never the sequence itself.
    """
    return frozenset(e for e in _all_edits(ops) if 0 < len(e) <= MAX_OPS and e != ops)


MAX_OPS: Final = 2
_LOOKAHEAD: Final = 2
_DELAY: Final = 0.9
"""What credit that is one edit further away counts for."""
_HINT: Final = 0.5
"""What an edit's own credit counts beside that of its best sequel."""
_SETBACK: Final = 0.5
"""What an edit loses that explains no more than the instruction before it: GEPA would drop it."""


def _all_edits(ops: Ops) -> Iterator[Ops]:
    for i in range(len(ops) + 1):
        yield from ((*ops[:i], new, *ops[i:]) for new in OPERATIONS)
    for i in range(len(ops)):
        yield ops[:i] + ops[i + 1 :]
        yield from ((*ops[:i], new, *ops[i + 1 :]) for new in OPERATIONS)
    for i in range(len(ops) - 1):
        yield (*ops[:i], ops[i + 1], ops[i], *ops[i + 2 :])


class _Credit:
    """How well operations explain some examples: mean partial credit, from 0 to 1."""

    def __init__(self, examples: Sequence[Shown]) -> None:
        self._examples = examples
        self._own: dict[Ops, float] = {}
        self._best: dict[tuple[Ops, int], float] = {}

    @property
    def informed(self) -> bool:
        return bool(self._examples)

    def own(self, ops: Ops) -> float:
        """Credit of the operations themselves; none at all explain nothing."""
        if not ops:
            return 0.0
        if ops not in self._own:
            self._own[ops] = fmean(
                _overlap(phrasebook.apply(ops, e.digits), e.expected) for e in self._examples
            )
        return self._own[ops]

    def worth(self, ops: Ops, before: Ops) -> float:
        """Worth of an edit: what it can lead to, a part of its own credit, less for a setback."""
        standing = self.own(before) if before else fmean(self.own((op,)) for op in OPERATIONS)
        setback = _SETBACK if self.own(ops) <= standing else 0.0
        return self._ahead(ops, _LOOKAHEAD) + _HINT * self.own(ops) - setback

    def _ahead(self, ops: Ops, depth: int) -> float:
        """Best credit within some more edits, each of which delays it."""
        if depth == 0:
            return self.own(ops)
        if (ops, depth) not in self._best:
            sequels = (_DELAY * self._ahead(sequel, depth - 1) for sequel in edits(ops))
            self._best[ops, depth] = max(self.own(ops), *sequels)
        return self._best[ops, depth]


def _overlap(got: DigitList, expected: DigitList) -> float:
    right = sum(a == b for a, b in zip(got, expected, strict=False))
    return right / max(len(got), len(expected))


def _word(ops: Ops, instruction: str, rng: Random) -> str:
    """Put operations into words not used yet, keeping what can be kept of the old ones."""
    wordings = [phrasebook.phrase(ops, i) for i in range(phrasebook.variants(ops))]
    fresh = [w for w in wordings if w != instruction] or wordings
    if ops == known_ops(instruction):
        return rng.choice(fresh)
    kept = [_shared_clauses(w, instruction) for w in fresh]
    return rng.choice([w for w, k in zip(fresh, kept, strict=True) if k == max(kept)])


def _shared_clauses(wording: str, instruction: str) -> int:
    """Count the phrases of the phrase book that stand in both texts."""
    old = instruction.lower()
    phrases = [p for group in phrasebook.PHRASINGS.values() for p in group]
    return sum(p in wording and p in old for p in phrases)


def _join(messages: Sequence[Mapping[str, Any]]) -> str:
    """Join the texts of chat messages, whose content is a string or a list of parts."""
    texts: list[str] = []
    for message in messages:
        content = message["content"]
        parts = [{"text": content}] if isinstance(content, str) else content
        texts += [str(part["text"]) for part in parts if "text" in part]
    return "\n".join(texts)


def _digits(text: str) -> DigitList:
    return tuple(int(c) for c in text)
