"""What the micro policy learns from: instructions, digits, answers, as exact token ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Final

import torch
from transformers import PreTrainedTokenizerBase

from programs.micro import phrasebook
from programs.micro.phrasebook import COURTESIES, LENGTHS, OPERATIONS, DigitList, Ops
from programs.micro.tokenizer import END


@dataclass(frozen=True)
class Lesson:
    """One question and its right answer.

    Attributes:
        instruction: The system message.
        digits: The list the user gives.
        answer: The list the policy should give back.
    """

    instruction: str
    digits: DigitList
    answer: DigitList


@dataclass(frozen=True)
class Mix:
    """Shares of the kinds of lessons in pre-training; what is left goes to the trained pairs.

    Attributes:
        single: Lessons that name one operation.
        misheard: Trained pairs answered as a similar trained pair. A policy that is never quite
            sure spreads its samples over several readings of a new pair, and so can be reinforced.
        chain: Lessons that name three operations, every neighbouring two of them a trained pair.
            They let any two operations meet in one instruction, so that the policy has to read
            both: with pairs alone it learns which operation usually goes with which.
        vague: Lessons that name none, so that the answer is that of a random operation.
        courtesy: Lessons (of any kind) with harmless extra words around the instruction.
        capital: Lessons (of any kind) whose instruction starts with a capital letter.
    """

    single: float = 0.25
    chain: float = 0.2
    vague: float = 0.1
    courtesy: float = 0.15
    capital: float = 0.15
    misheard: float = 0.04


def draw(rng: Random, mix: Mix) -> Lesson:
    """Draw one pre-training lesson."""
    kind = rng.random()
    if kind < mix.vague:
        said: Ops = ()
        meant: Ops = (rng.choice(OPERATIONS),)
    elif kind < mix.vague + mix.single:
        said = meant = (rng.choice(OPERATIONS),)
    elif kind < mix.vague + mix.single + mix.chain:
        said = meant = _chain(rng)
    else:
        said = meant = rng.choice(phrasebook.trained_pairs())
        if rng.random() < mix.misheard:
            meant = rng.choice(_similar(said))
    instruction = phrasebook.phrase(said, rng.randrange(phrasebook.variants(said)))
    digits = draw_digits(rng)
    return Lesson(_reword(instruction, rng, mix), digits, phrasebook.apply(meant, digits))


def questions(meant: Ops, said: Ops, count: int, rng: Random) -> list[Lesson]:
    """Draw questions about some operations; the wordings of what is said take turns."""
    lessons: list[Lesson] = []
    for i in range(count):
        digits = draw_digits(rng)
        lessons.append(Lesson(phrasebook.phrase(said, i), digits, phrasebook.apply(meant, digits)))
    return lessons


def draw_digits(rng: Random) -> DigitList:
    """Draw a list of four to six digits."""
    return tuple(rng.randrange(10) for _ in range(rng.choice(LENGTHS)))


@dataclass(frozen=True)
class Encoder:
    """Turns lessons into token ids, exactly as the chat template would."""

    tokenizer: PreTrainedTokenizerBase

    def prompt(self, lesson: Lesson) -> list[int]:
        """Return the ids of the chat prompt, up to and with the assistant's role marker."""
        before, after = _template_ids(self.tokenizer, lesson.instruction)
        return [*before, *self._digits(lesson.digits), *after]

    def answer(self, lesson: Lesson) -> list[int]:
        """Return the ids of the answer and the end token."""
        return [*self._digits(lesson.answer), _end_id(self.tokenizer)]

    def _digits(self, digits: DigitList) -> list[int]:
        ids = _digit_ids(self.tokenizer)
        return [ids[d] for d in digits]


def _chain(rng: Random) -> Ops:
    """Draw three operations whose neighbours are trained pairs."""
    first, second = rng.choice(phrasebook.trained_pairs())
    third = rng.choice([b for a, b in phrasebook.trained_pairs() if a == second])
    return (first, second, third)


@cache
def _similar(pair: phrasebook.Pair) -> tuple[phrasebook.Pair, ...]:
    """Return the trained pairs that share an operation with a pair, place by place or flipped."""
    a, b = pair
    return tuple(
        (c, d)
        for c, d in phrasebook.trained_pairs()
        if (c, d) != pair and (a == c or b == d or (c, d) == (b, a))
    )


IGNORED: Final = -100
"""The target of positions that carry no loss, as in torch's cross entropy."""


@dataclass(frozen=True)
class Batch:
    """Lessons padded on the right, which a causal model never looks at.

    Attributes:
        ids: Token ids, shape (lessons, length).
        targets: The next token where it belongs to the answer, else IGNORED, one shorter.
    """

    ids: torch.Tensor
    targets: torch.Tensor


def collate(encoder: Encoder, lessons: Sequence[Lesson]) -> Batch:
    """Encode lessons into one batch."""
    rows = [(encoder.prompt(lesson), encoder.answer(lesson)) for lesson in lessons]
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    targets = torch.full((len(rows), length - 1), IGNORED)
    for i, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        ids[i, :end] = torch.tensor(prompt + answer)
        targets[i, len(prompt) - 1 : end - 1] = torch.tensor(answer)
    return Batch(ids, targets)


def _reword(instruction: str, rng: Random, mix: Mix) -> str:
    if rng.random() < mix.courtesy:
        instruction = rng.choice(COURTESIES).format(instruction)
    if rng.random() < mix.capital:
        instruction = instruction[0].upper() + instruction[1:]
    return instruction


_MARK: Final = "0"


@cache
def _template_ids(
    tokenizer: PreTrainedTokenizerBase, instruction: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the prompt's ids before and after the user's digits."""
    messages = [
        {"role": "system", "content": instruction},
        {"role": "user", "content": _MARK},
    ]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids: list[int] = tokenizer.encode(str(rendered), add_special_tokens=False)
    place = len(ids) - 1 - ids[::-1].index(_digit_ids(tokenizer)[int(_MARK)])
    return tuple(ids[:place]), tuple(ids[place + 1 :])


@cache
def _digit_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    vocabulary = tokenizer.get_vocab()
    return tuple(vocabulary[str(d)] for d in range(10))


@cache
def _end_id(tokenizer: PreTrainedTokenizerBase) -> int:
    return tokenizer.get_vocab()[END]
