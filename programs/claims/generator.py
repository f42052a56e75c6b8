"""Claims about the invented world, drawn from a seed: half are true, the others off by a fact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from programs.claims.outlines import KINDS, Outline, outlines, share_out, year_of
from programs.claims.phrases import JOINED, LINKED, MADE_BY, ORDERED, STATED
from programs.claims.world import Entity, world

Verdict = Literal["supported", "refuted"]

_WEIGHTS: Final = {"single": 4, "bridge": 10, "comparison": 3, "bridge_comparison": 3}
"""Kind → how often it is drawn, among the kinds that are allowed and not used up."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A sentence of a gold passage that the verdict depends on."""

    title: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim with all that is known of it.

    Attributes:
        text: what is claimed.
        kind: a key of :data:`~programs.claims.outlines.KINDS`.
        verdict: what the corpus says of it.
        hops: titles of the gold passages: those that the claim names, then those that they lead to.
        evidence: in the order of the hops.
        wrong_hop: number of the hop (from 1) whose passage refutes the claim, 0 if none does.
        explanation: why the verdict is what it is, in words.
    """

    text: str
    kind: str
    verdict: Verdict
    hops: tuple[tuple[str, ...], ...]
    evidence: tuple[Evidence, ...]
    wrong_hop: int
    explanation: str


def claims(split: str, size: int, hops: Sequence[int], seed: int) -> list[Claim]:
    """Draw the different claims of a split; of ``size`` the half are supported, rounded up.

    Args:
        split: ``train``, ``val`` or ``test``.
        hops: allowed numbers of gold passages, of 1 to 3.

    Raises:
        ValueError: more claims than there are, or a number of hops that no kind has.
    """
    strange = sorted(set(hops) - set(KINDS.values()))
    if strange:
        raise ValueError(
            f"hops: got {strange[0]}, expected numbers from 1 to 3, which generated claims have; "
            'leave it out, or set source = "hover"'
        )
    rng = Random(f"claims/{seed}/{split}")
    subjects = share_out(seed)[split]
    pools = {kind: outlines(kind, subjects) for kind, count in KINDS.items() if count in hops}
    available = sum(map(len, pools.values()))
    if size > available:
        raise ValueError(
            f"{split}_size: got {size}, but there are only {available} different claims for this "
            f"split with hops = {sorted(set(hops))}; ask for fewer, or allow other hops"
        )
    for pool in pools.values():
        rng.shuffle(pool)
    supported = [number % 2 == 0 for number in range(size)]
    rng.shuffle(supported)
    drawn: list[Claim] = []
    for true in supported:
        left = [kind for kind, pool in pools.items() if pool]
        (kind,) = rng.choices(left, [_WEIGHTS[kind] for kind in left])
        drawn.append(write(pools[kind].pop(), true, rng))
    return drawn


def write(outline: Outline, true: bool, rng: Random) -> Claim:
    """Put an outline into words that are true or, in one fact, false."""
    if outline.kind in ("single", "bridge"):
        return _statement(outline, true, rng)
    return _order(outline, true, rng)


@dataclass(frozen=True, slots=True)
class _Stated:
    """A fact in a claim, with what the claim says in its place."""

    entity: Entity
    attribute: str
    claimed: str

    def phrase(self, rng: Random) -> str:
        return rng.choice(STATED[self.entity.kind][self.attribute]).format(value=self.claimed)

    @property
    def evidence(self) -> Evidence:
        return Evidence(self.entity.title, self.entity.facts[self.attribute].sentence)


def _statement(outline: Outline, true: bool, rng: Random) -> Claim:
    subject = world()[outline.titles[0]]
    bridge = outline.kind == "bridge"
    link = outline.attributes[1] if bridge else None
    other = world()[subject.facts[link].value] if link is not None else subject
    places = ((subject, outline.attributes[0]), (other, outline.attributes[-1]))
    wrong = None if true else rng.randrange(2)
    parts = [
        _Stated(
            entity, name, false_value(entity, name, rng) if i == wrong else entity.facts[name].value
        )
        for i, (entity, name) in enumerate(places)
    ]
    first, second = (part.phrase(rng) for part in parts)
    evidence = [part.evidence for part in parts]
    if link is not None:
        second = f"{rng.choice(LINKED[subject.kind][link])} {second}"
        evidence.insert(1, Evidence(subject.title, subject.facts[link].sentence))
    pronoun = "who" if subject.kind == "person" else "which"
    text = rng.choice(JOINED).format(
        subject=subject.title, pronoun=pronoun, first=first, second=second
    )
    return Claim(
        text=text,
        kind=outline.kind,
        verdict="supported" if true else "refuted",
        hops=((subject.title,), (other.title,)) if bridge else ((subject.title,),),
        evidence=tuple(evidence),
        wrong_hop=0 if wrong is None else wrong + 1 if bridge else 1,
        explanation=_reason(None if wrong is None else parts[wrong]),
    )


def _reason(wrong: _Stated | None) -> str:
    if wrong is None:
        return "Both things that are claimed stand in the passages."
    fact = wrong.entity.facts[wrong.attribute]
    return (
        f"The claim says {wrong.claimed!r} where the passage on {wrong.entity.title!r} has "
        f"{fact.value!r}."
    )


def _order(outline: Outline, true: bool, rng: Random) -> Claim:
    a, b = (world()[title] for title in outline.titles)
    linked = outline.kind == "bridge_comparison"
    maker = world()[a.facts["maker"].value] if linked else a
    lesser = year_of(maker) < year_of(b)
    before, after = ORDERED[b.kind]
    words = [MADE_BY[a.kind].format(title=a.title) if linked else a.title, b.title]
    said = before if lesser == true else after
    if rng.random() < 0.5:
        words.reverse()
        said = after if said == before else before
    evidence = [Evidence(e.title, e.facts["year"].sentence) for e in (b, maker)]
    if linked:
        evidence.insert(0, Evidence(a.title, a.facts["maker"].sentence))
    text = f"{words[0]} {said} {words[1]}."
    return Claim(
        text=text[0].upper() + text[1:],
        kind=outline.kind,
        verdict="supported" if true else "refuted",
        hops=((a.title, b.title), (maker.title,)) if linked else ((a.title, b.title),),
        evidence=tuple(evidence),
        wrong_hop=0 if true else 2 if linked else 1,
        explanation=f"The years are {year_of(maker)} ({maker.title}) and {year_of(b)} ({b.title}).",
    )


def false_value(entity: Entity, attribute: str, rng: Random) -> str:
    """Something else that the attribute could be: a year near by, or what it is of another one."""
    value = entity.facts[attribute].value
    if attribute == "year":
        return str(int(value) + rng.choice((-1, 1)) * rng.randrange(2, 13))
    values = {e.facts[attribute].value for e in world().values() if e.kind == entity.kind}
    return rng.choice(sorted(values - {value}))
