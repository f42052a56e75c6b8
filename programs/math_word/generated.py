"""Word problems from templates; nothing is downloaded."""

from __future__ import annotations

from random import Random
from typing import Final

from programs.math_word.templates import TEMPLATES
from programs.math_word.working import WordProblem, Working

MAX_PROBLEMS: Final = 100_000
"""Most problems of one task, well below what the templates can give: drawing never stalls."""


def generate(number: int, rng: Random, *, min_steps: int, max_steps: int) -> list[WordProblem]:
    """Draw problems with different questions; every number of steps is as frequent.

    Raises:
        ValueError: more than :data:`MAX_PROBLEMS` are asked for.
    """
    if number > MAX_PROBLEMS:
        raise ValueError(
            f"sizes: got {number} examples in all, expected at most {MAX_PROBLEMS} generated "
            "ones; ask for fewer"
        )
    problems: dict[str, WordProblem] = {}
    while len(problems) < number:
        template = rng.choice(TEMPLATES[rng.randint(min_steps, max_steps)])
        work = Working()
        question = template(rng, work)
        problems.setdefault(question, work.problem(question))
    return list(problems.values())
