"""What a run of the claims program earns: the verdict, and the evidence that it rests on.

=========  ======  =================================================
objective  weight  score
=========  ======  =================================================
verdict    0.5     1 if right
recall     0.5     share of the gold passages found by either query
=========  ======  =================================================

``first_query`` is judged by the share of the first hop's titles that it found. ``second_query`` is
judged by what was still missing *and could be known*: titles of the first hop, and titles that a
passage which it was given leads to. Where nothing was missing any more it is not judged.
``verdict`` is judged by being right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

VERDICTS: Final = ("supported", "refuted")
WEIGHTS: Final[Mapping[str, float]] = MappingProxyType({"verdict": 0.5, "recall": 0.5})
"""Objective → its share of the score; they sum to 1."""


def label(value: object) -> str:
    """An answered verdict without case, outer white space and punctuation."""
    return str("" if value is None else value).strip(" \t\r\n.!*\"'`").casefold()


@dataclass(frozen=True)
class Run:
    """One run against its example's labels; whatever stands in the prediction can be graded.

    Attributes:
        gold: the example.
        pred: the prediction; a field that it lacks counts as empty.
    """

    gold: Any
    pred: Any

    @cached_property
    def hops(self) -> list[list[str]]:
        """Gold titles by hop."""
        return [list(titles) for titles in self.gold.hops]

    @cached_property
    def titles(self) -> list[str]:
        """All gold titles."""
        return [title for hop in self.hops for title in hop]

    def found(self, which: str) -> list[str]:
        """Titles of the passages that ``first`` or ``second`` found, best first."""
        titles = getattr(self.pred, f"{which}_titles", None)
        return [str(title) for title in titles] if isinstance(titles, Sequence) else []

    def query(self, which: str) -> str:
        """The text of the ``first`` or ``second`` query."""
        query = getattr(self.pred, f"{which}_query", None)
        return query if isinstance(query, str) else ""

    @cached_property
    def verdict(self) -> str:
        return label(getattr(self.pred, "verdict", None))

    @property
    def right(self) -> bool:
        return self.verdict == self.gold.verdict

    @cached_property
    def missing(self) -> list[str]:
        """Gold titles that neither query found."""
        found = {*self.found("first"), *self.found("second")}
        return [title for title in self.titles if title not in found]

    @cached_property
    def due(self) -> list[str]:
        """Gold titles that the second query had to look for: missing, and possible to know."""
        found = set(self.found("first"))
        missing = [title for title in self.titles if title not in found]
        return [title for title in missing if title in self.hops[0] or self.lead(title)]

    def lead(self, title: str) -> tuple[str, str] | None:
        """Title and sentence of a gold passage, found by the first query, that leads to a title."""
        found = set(self.found("first"))
        for evidence in self.gold.evidence:
            source, sentence = evidence["title"], evidence["sentence"]
            if source in found and source != title and title in sentence:
                return source, sentence
        return None

    @cached_property
    def objectives(self) -> dict[str, float]:
        """Objective → score in [0, 1], in the order of :data:`WEIGHTS`."""
        recall = 1 - len(self.missing) / len(self.titles)
        return {"verdict": float(self.right), "recall": recall}

    @cached_property
    def predictors(self) -> dict[str, float]:
        """Predictor → score in [0, 1], of those that can be judged, in the order of the calls."""
        judged = {"first_query": _share(self.hops[0], self.found("first"))}
        if self.due:
            judged["second_query"] = _share(self.due, self.found("second"))
        judged["verdict"] = float(self.right)
        return judged

    @property
    def score(self) -> float:
        """The weighted objectives, in [0, 1]."""
        return math.fsum(weight * self.objectives[name] for name, weight in WEIGHTS.items())

    @property
    def exact(self) -> bool:
        """Whether the verdict is right and all gold passages were found: HoVer's own score."""
        return self.right and not self.missing


def _share(wanted: Sequence[str], found: Sequence[str]) -> float:
    return sum(title in found for title in wanted) / len(wanted)
