"""What generated claims are about, before they are put into words, and how splits are kept apart.

====================  ====================  =======================================================
kind                  gold passages         what is claimed
====================  ====================  =======================================================
``single``            1                     two facts of a subject
``bridge``            2, one after another  a fact of a subject, and one of what it links to, which
                                            the claim does not name
``comparison``        2, both named         which of two subjects has the earlier year
``bridge_comparison`` 3                     whether who made a work was born before somebody named
====================  ====================  =======================================================

Splits share the corpus but not their subjects: every person with all their works, and every town,
is what claims of one split only are about. What splits do share is what a claim may arrive at in
its second hop: towns and rivers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from random import Random
from types import MappingProxyType
from typing import Final

from programs.claims.phrases import LINKED, STATED
from programs.claims.world import LINKS, WORK_KINDS, Entity, world

KINDS: Final[Mapping[str, int]] = MappingProxyType(
    {"single": 1, "bridge": 2, "comparison": 2, "bridge_comparison": 3}
)
"""Kind of a claim → how many gold passages it has."""

_SHARES: Final = {"train": 0.6, "val": 0.2, "test": 0.2}
"""Split → its share of the subjects, whatever the sizes: no split depends on another's size."""


@dataclass(frozen=True, slots=True)
class Outline:
    """What a claim is about. Every outline is used once, so no claim has its opposite beside it.

    Attributes:
        titles: the subject, or the two that are compared.
        attributes: of a single claim the two that are stated; of a bridge the subject's, the link,
            and the other entity's.
    """

    kind: str
    titles: tuple[str, ...]
    attributes: tuple[str, ...] = ()


def share_out(seed: int) -> dict[str, list[Entity]]:
    """Split → the subjects of its claims: people, their works, and towns."""
    rng = Random(f"claims/{seed}/subjects")
    entities = list(world().values())
    groups: dict[str, list[Entity]] = {}
    for entity in entities:
        # People are shared out by profession, so that no split lacks one.
        if entity.kind == "person":
            groups.setdefault(entity.facts["profession"].value, []).append(entity)
        elif entity.kind == "town":
            groups.setdefault("town", []).append(entity)
    shared: dict[str, list[Entity]] = {split: [] for split in _SHARES}
    for group in groups.values():
        rng.shuffle(group)
        train = round(_SHARES["train"] * len(group))
        val = train + round(_SHARES["val"] * len(group))
        for split, part in zip(shared, (group[:train], group[train:val], group[val:]), strict=True):
            shared[split] += part
    for part in shared.values():
        makers = {entity.title for entity in part}
        part += [e for e in entities if e.kind in WORK_KINDS and e.facts["maker"].value in makers]
    return shared


def outlines(kind: str, subjects: Sequence[Entity]) -> list[Outline]:
    """All outlines of a kind about some subjects, always in the same order."""
    if kind == "single":
        return [
            Outline(kind, (s.title,), pair)
            for s in subjects
            for pair in combinations(STATED[s.kind], 2)
        ]
    if kind == "bridge":
        return [
            Outline(kind, (s.title,), (stated, link, other))
            for s in subjects
            for link, stated in product(LINKED[s.kind], STATED[s.kind])
            for other in STATED[LINKS[link]]
            if stated != link
        ]
    if kind == "comparison":
        pairs = [pair for pair in combinations(subjects, 2) if pair[0].kind == pair[1].kind]
    else:
        makers = [(s, s.facts["maker"].value) for s in subjects if s.kind in WORK_KINDS]
        people = [s for s in subjects if s.kind == "person"]
        pairs = [(work, p) for (work, maker), p in product(makers, people) if p.title != maker]
    return [Outline(kind, (a.title, b.title)) for a, b in pairs if year_of(a, kind) != year_of(b)]


def year_of(entity: Entity, kind: str = "comparison") -> int:
    """The year that a comparison goes by: of a bridge, the year of who made the work."""
    who = world()[entity.facts["maker"].value] if kind == "bridge_comparison" else entity
    return int(who.facts["year"].value)
