"""An invented, consistent world: entities, one short passage about each, and what is true of them.

Works and companies have makers, makers were born in towns, towns lie on rivers: facts whose value
is another entity are the links that claims follow. A passage never names what links *to* its
entity, so that the second passage of a chain cannot be found by the words of the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from random import Random
from types import MappingProxyType
from typing import Final

from programs.claims import names

WORK_KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "film": "film director",
        "novel": "novelist",
        "opera": "composer",
        "company": "engineer",
        "building": "architect",
    }
)
"""Kind of a work → the profession of who made it."""

MAKERS: Final = 22
"""People of each profession."""
WORKS: Final = 36
"""Works of each kind; some makers have one, some two."""
TOWNS: Final = 44


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that is true of an entity, and the only sentence of the corpus that says so.

    Attributes:
        value: as it is written; the title of another entity where the fact is a link.
    """

    value: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Entity:
    """A person, a place or a work: the subject of one passage.

    Attributes:
        kind: a key of :data:`SENTENCES`.
        title: unique in the world.
        facts: attribute → fact, in the order of the passage's sentences.
    """

    kind: str
    title: str
    facts: Mapping[str, Fact]

    @property
    def text(self) -> str:
        return " ".join(fact.sentence for fact in self.facts.values())


SENTENCES: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = MappingProxyType(
    {
        "river": {
            "source": ("The {title} rises in {value}.", "The {title} has its springs in {value}."),
            "mouth": ("It flows into {value}.", "The {title} empties into {value}."),
            "length": ("The {title} is {value} kilometres long.",),
        },
        "town": {
            "river": ("{title} is a town on the {value}.", "{title}, a town, lies on the {value}."),
            "year": ("The town charter dates from {value}.", "It was founded in {value}."),
            "craft": ("{title} is known for its {value}.", "Most families here lived by {value}."),
        },
        "person": {
            "profession": ("{title} is remembered as {value}.", "{title} worked as {value}."),
            "year": ("Born in {value}.", "The year of birth was {value}."),
            "birthplace": ("Home town, from birth, was {value}.", "The birthplace is {value}."),
            "job": ("The first post was that of {value}.", "At first {title} worked as {value}."),
            "award": ("A jury awarded {value}.", "The greatest honour of these years was {value}."),
            "instrument": ("Spare hours went into the {value}.",
                           "Friends remember evenings of music with the {value}."),
        },
        "film": {
            "maker": ("{title} is a film by {value}.", "{title} is a film that {value} directed."),
            "year": ("It reached cinemas in {value}.", "The premiere of {title} was in {value}."),
            "genre": ("Critics call {title} {value}.", "The film is {value}."),
            "place": ("The story takes place in {value}.", "Every scene of it is set in {value}."),
        },
        "novel": {
            "maker": ("{title} is a novel by {value}.", "{value} wrote the novel {title}."),
            "year": ("It was first printed in {value}.", "{title} came out in {value}."),
            "narrator": ("The story is told by {value}.", "Its narrator is {value}."),
            "place": ("The plot unfolds in {value}.", "{title} is set in {value}."),
        },
        "opera": {
            "maker": ("{title} is an opera by {value}.", "{value} wrote the opera {title}."),
            "year": ("It was first sung in {value}.", "The first night of {title} was in {value}."),
            "duration": ("A performance takes {value}.", "{title} lasts {value}."),
            "place": ("It was first staged in {value}.", "Its first audience sat in {value}."),
        },
        "company": {
            "maker": ("{value} set up the firm {title}.", "{title} was set up by {value}."),
            "year": ("The firm opened for business in {value}.", "It was established in {value}."),
            "product": ("{title} makes {value}.", "Its best-known goods are {value}."),
            "place": ("The head office is in {value}.", "{title} has its factory in {value}."),
        },
        "building": {
            "maker": ("{title} is a building by the architect {value}.",
                      "{value} drew the plans of {title}."),
            "year": ("It opened its doors in {value}.", "{title} was finished in {value}."),
            "use": ("It serves as {value}.", "Today {title} is {value}."),
            "place": ("It stands in {value}.", "{title} can be visited in {value}."),
        },
    }
)  # fmt: skip
"""Kind → attribute → ways to say it; ``{title}`` is the entity's, ``{value}`` the fact's."""

LINKS: Final[Mapping[str, str]] = MappingProxyType(
    {"river": "river", "birthplace": "town", "maker": "person", "place": "town"}
)
"""Attribute whose value is another entity → that entity's kind."""

_OWN: Final = {
    "film": ("genre", names.FILM_GENRES),
    "novel": ("narrator", names.NARRATORS),
    "opera": ("duration", names.LENGTHS),
    "company": ("product", names.PRODUCTS),
    "building": ("use", names.USES),
}
"""Kind of a work → the attribute that only this kind has, and its values."""


@cache
def world() -> Mapping[str, Entity]:
    """Title → entity, always the same, in the order of the corpus."""
    rng = Random("claims/world")
    entities = [*_rivers(rng)]
    rivers = [river.title for river in entities]
    towns = [_town(title, rng.choice(rivers), rng) for title in _pairs(*_TOWN, TOWNS, rng)]
    people = _people([town.title for town in towns], rng)
    works = _works(people, [town.title for town in towns], rng)
    entities += [*towns, *people, *works]
    return MappingProxyType({entity.title: entity for entity in entities})


_TOWN: Final = (names.TOWN_STARTS, names.TOWN_ENDS, "{}{}")
_PERSON: Final = (names.FIRST_NAMES, names.SURNAMES, "{} {}")
_STORY: Final = (names.ADJECTIVES, names.NOUNS, "The {} {}")
_COMPANY: Final = (names.COMPANY_STARTS, names.COMPANY_ENDS, "{} {}")
_BUILDING: Final = (names.BUILDING_STARTS, names.BUILDING_ENDS, "{} {}")


def _pairs(
    starts: tuple[str, ...], ends: tuple[str, ...], form: str, count: int, rng: Random
) -> list[str]:
    """Different names of two parts each, which many of them share: they are easily confused."""
    return [form.format(*parts) for parts in rng.sample(list(product(starts, ends)), count)]


def _entity(kind: str, title: str, values: Mapping[str, str], rng: Random) -> Entity:
    facts = {
        attribute: Fact(
            value, rng.choice(SENTENCES[kind][attribute]).format(title=title, value=value)
        )
        for attribute, value in values.items()
    }
    return Entity(kind, title, MappingProxyType(facts))


def _rivers(rng: Random) -> list[Entity]:
    return [
        _entity(
            "river",
            f"River {name}",
            {
                "source": rng.choice(names.RANGES),
                "mouth": rng.choice(names.LAKES),
                "length": str(rng.randrange(60, 900)),
            },
            rng,
        )
        for name in names.RIVERS
    ]


def _town(title: str, river: str, rng: Random) -> Entity:
    values = {
        "river": river,
        "year": str(rng.randrange(1100, 1700)),
        "craft": rng.choice(names.CRAFTS),
    }
    return _entity("town", title, values, rng)


def _people(towns: list[str], rng: Random) -> list[Entity]:
    professions = [profession for profession in WORK_KINDS.values() for _ in range(MAKERS)]
    titles = _pairs(*_PERSON, len(professions), rng)
    return [
        _entity(
            "person",
            title,
            {
                "profession": f"{'an' if profession[0] in 'ae' else 'a'} {profession}",
                "year": str(rng.randrange(1890, 1960)),
                "birthplace": rng.choice(towns),
                "job": rng.choice(names.FIRST_JOBS),
                "award": rng.choice(names.AWARDS),
                "instrument": rng.choice(names.INSTRUMENTS),
            },
            rng,
        )
        for title, profession in zip(titles, professions, strict=True)
    ]


def _works(people: list[Entity], towns: list[str], rng: Random) -> list[Entity]:
    stories = iter(_pairs(*_STORY, 3 * WORKS, rng))
    titles = {
        **{kind: [next(stories) for _ in range(WORKS)] for kind in ("film", "novel", "opera")},
        "company": _pairs(*_COMPANY, WORKS, rng),
        "building": _pairs(*_BUILDING, WORKS, rng),
    }
    works: list[Entity] = []
    for index, kind in enumerate(WORK_KINDS):
        makers = people[index * MAKERS : (index + 1) * MAKERS]
        busy = rng.sample(makers, WORKS - MAKERS)
        attribute, values = _OWN[kind]
        for title, maker in zip(titles[kind], [*makers, *busy], strict=True):
            facts = {
                "maker": maker.title,
                "year": str(int(maker.facts["year"].value) + rng.randrange(25, 56)),
                attribute: rng.choice(values),
                "place": rng.choice(towns),
            }
            works.append(_entity(kind, title, facts, rng))
    return works
