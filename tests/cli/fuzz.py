"""Wrong values for every key of the run file, drawn from its own JSON schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from fst_agents.config import RunConfig

Place = tuple[str, ...]
"""``("slow", "group_size")`` or ``("seed",)``."""

SCHEMA: dict[str, Any] = RunConfig.model_json_schema()

ODD_TEXTS = (
    "", " ", "\t", "a\nb", "a\r\nb", "\x1b[31mred", "\x00", "\x7f", "\ufeff", "\u202e", "é", "🙂",
    "../..", "~", "~nobody-of-this-name/x", "/dev/null/x", "*", "%s", "{}", "[x]", "nan", "-1",
    "x" * 300, "x" * 5000, "a/" * 2500, "https://", "sqlite:///", "a:b:c", "--host",
)  # fmt: skip
"""Texts that are no option, no existing file, no module and no model."""

HUGE = (2**31, 2**63, 2**64, -(2**63), 10**30, 10**400)
texts = st.sampled_from(ODD_TEXTS) | st.text(
    st.characters(exclude_categories=("Cs",)), max_size=12
).filter(lambda text: ":" not in text)
numbers = st.sampled_from([0, -1, 1, 2, 3, 1.5, -0.0, 1e-300, 1e300, float("nan"), float("inf")])
scalars = st.none() | st.booleans() | numbers | st.sampled_from(HUGE) | texts | st.dates()
junk = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
"""Whatever TOML can say, and some that it cannot."""


@dataclass(frozen=True)
class Key:
    """A key of the run file and what its schema says of it."""

    place: Place
    kinds: frozenset[str]
    least: float | None
    most: float | None

    @property
    def name(self) -> str:
        return ".".join(self.place)


def keys() -> list[Key]:
    """Every key of the run file that is no section, as its schema has it."""
    found: list[Key] = []
    for name, entry in SCHEMA["properties"].items():
        own = _resolve(entry)
        if "properties" in own:
            found += [_key((name, key), value) for key, value in own["properties"].items()]
        else:
            found.append(_key((name,), entry))
    return found


def _resolve(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return SCHEMA["$defs"][entry["$ref"].rpartition("/")[2]] if "$ref" in entry else entry


def _key(place: Place, entry: Mapping[str, Any]) -> Key:
    ways: Sequence[Mapping[str, Any]] = [_resolve(way) for way in entry.get("anyOf", [entry])]
    kinds = {str(way.get("type", "string")) for way in ways}

    def limit(*names: str) -> float | None:
        return next((way[name] for way in ways for name in names if name in way), None)

    return Key(
        place,
        frozenset(kinds),
        limit("minimum", "exclusiveMinimum"),
        limit("maximum", "exclusiveMaximum"),
    )


def wrong(key: Key) -> st.SearchStrategy[Any]:
    """Values that the schema of a key refuses: another type, or beyond its bounds."""
    of_kind: dict[str, st.SearchStrategy[Any]] = {
        "boolean": st.booleans(),
        "string": texts,
        "array": st.lists(st.integers(-3, 3), max_size=2),
        "object": st.dictionaries(texts, st.integers(), max_size=2),
        "number": st.just(1.5),
    }
    if "array" in key.kinds:
        of_kind["array"] = st.just([{"a": 1}])
    if "string" in key.kinds:
        del of_kind["string"]
    if "number" in key.kinds:
        of_kind["number"] = st.sampled_from([float("nan"), float("inf"), -float("inf")])
    for kind in ("boolean", "object"):
        if kind in key.kinds:
            del of_kind[kind]
    beyond = [] if key.least is None else [key.least - 1, -(10**30)]
    beyond += [] if key.most is None else [key.most + 1, 10**30, 1e300]
    if "integer" in key.kinds:
        beyond = [int(value) if abs(value) < 1e200 else value for value in beyond]
    return st.one_of(*of_kind.values(), *([st.sampled_from(beyond)] if beyond else []))


def placed(values: Mapping[Place, Any]) -> dict[str, Any]:
    """A run file's content with these values in their places."""
    data: dict[str, Any] = {}
    for place, value in values.items():
        node = data
        for name in place[:-1]:
            node = node.setdefault(name, {})
        node[place[-1]] = value
    return data
