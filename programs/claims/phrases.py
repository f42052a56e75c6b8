"""How claims say what passages say: in words of their own, so that only names lead to a passage."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

Ways = Mapping[str, tuple[str, ...]]

STATED: Final[Mapping[str, Ways]] = MappingProxyType(
    {
        "river": {
            "source": ("starts in {value}",),
            "mouth": ("ends in {value}",),
            "length": ("measures {value} kilometres",),
        },
        "town": {
            "river": ("is situated on the {value}", "is crossed by the {value}"),
            "year": ("goes back to {value}", "has existed since {value}"),
            "craft": ("is famous for {value}", "once lived off {value}"),
        },
        "person": {
            "year": ("was born in {value}", "came into the world in {value}"),
            "birthplace": ("came from {value}", "was a native of {value}"),
            "job": ("started out as {value}", "had once been {value}"),
            "award": ("won {value}", "was decorated with {value}"),
            "instrument": ("played the {value} as a hobby", "knew how to play the {value}"),
        },
        "film": {
            "maker": ("was directed by {value}",),
            "year": ("was released in {value}", "was first shown in {value}"),
            "genre": ("is {value}", "counts as {value}"),
            "place": ("is set in {value}", "plays in {value}"),
        },
        "novel": {
            "maker": ("was written by {value}",),
            "year": ("was published in {value}", "appeared in {value}"),
            "narrator": ("is narrated by {value}", "is told in the voice of {value}"),
            "place": ("takes the reader to {value}", "has {value} for its scene"),
        },
        "opera": {
            "maker": ("was composed by {value}",),
            "year": ("had its premiere in {value}", "was first performed in {value}"),
            "duration": ("is {value} long", "runs for {value}"),
            "place": ("had its first performance in {value}", "was first given in {value}"),
        },
        "company": {
            "maker": ("was started by {value}",),
            "year": ("was founded in {value}", "has been trading since {value}"),
            "product": ("produces {value}", "manufactures {value}"),
            "place": ("is based in {value}", "has its seat in {value}"),
        },
        "building": {
            "maker": ("was designed by {value}",),
            "year": ("was completed in {value}", "has been in use since {value}"),
            "use": ("is used as {value}", "houses {value}"),
            "place": ("is found in {value}", "is one of the sights of {value}"),
        },
    }
)
"""Kind → attribute → ways to state it after the entity's name."""

LINKED: Final[Mapping[str, Ways]] = MappingProxyType(
    {
        "town": {"river": ("is situated on a river that", "is crossed by a river that")},
        "person": {"birthplace": ("came from a town that", "was a native of a town that")},
        "film": {
            "maker": ("was directed by someone who",),
            "place": ("is set in a town that", "plays in a town that"),
        },
        "novel": {
            "maker": ("was written by someone who",),
            "place": ("takes the reader to a town that",),
        },
        "opera": {
            "maker": ("was composed by someone who",),
            "place": ("had its first performance in a town that",),
        },
        "company": {
            "maker": ("was started by someone who",),
            "place": ("is based in a town that", "has its seat in a town that"),
        },
        "building": {
            "maker": ("was designed by someone who",),
            "place": ("is found in a town that", "is one of the sights of a town that"),
        },
    }
)
"""Kind → attribute that is a link → ways to go on with what is stated of the other entity."""

MADE_BY: Final[Mapping[str, str]] = MappingProxyType(
    {
        "film": "the director of {title}",
        "novel": "the author of {title}",
        "opera": "the composer of {title}",
        "company": "the founder of {title}",
        "building": "the architect of {title}",
    }
)
"""Kind of a work → its maker, without a name."""

ORDERED: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "town": ("is older than", "is younger than"),
        "person": ("was born before", "was born after"),
        "film": ("was released before", "was released after"),
        "novel": ("was published before", "was published after"),
        "opera": ("was first performed before", "was first performed after"),
        "company": ("was founded before", "was founded after"),
        "building": ("was completed before", "was completed after"),
    }
)
"""Kind → what the lesser and what the greater year of two is called."""

JOINED: Final = (
    "{subject} {first} and {second}.",
    "{subject}, {pronoun} {first}, {second}.",
)
"""Ways to state two things of one subject."""
