"""What a value of a run file can be at all, whatever its key: what TOML and JSON can both say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

MOST_LEVELS = 16
"""Tables and lists within one another; nothing in a run file needs half of it."""

BITS = 64
"""Of an integer, its sign included: as many as TOML promises."""

_LONGEST_KEY = 80
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


def plain(data: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """A copy of ``data`` in dicts, lists, strings, numbers and booleans.

    Other objects (dates, paths) are their text. What cannot be said is left out, with a line among
    the ``faults``: nesting beyond :data:`MOST_LEVELS`, integers beyond :data:`BITS`, null
    characters and lone surrogates.
    """
    return _table(data, faults, ())


def _table(data: Mapping[str, Any], faults: list[str], place: tuple[str, ...]) -> dict[str, Any]:
    copied: dict[str, Any] = {}
    for key, value in data.items():
        inside = (*place, str(key))
        try:
            copied[_text(str(key))] = _value(value, faults, inside)
        except ValueError as error:
            faults.append(f"{dotted(inside)}: {error}")
    return copied


def _value(value: Any, faults: list[str], place: tuple[str, ...], lists: int = 0) -> Any:
    """A copy of one value; ``lists`` is how many it stands in. ValueError in words otherwise."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        if value.bit_length() >= BITS:
            raise ValueError(
                f"got an integer of {value.bit_length()} bits; expected {BITS - 1} at most"
            )
        return value
    if not isinstance(value, Mapping | list | tuple):
        return _text(str(value))
    if len(place) + lists > MOST_LEVELS:
        raise ValueError(f"nested more than {MOST_LEVELS} levels deep; no key needs that")
    if isinstance(value, Mapping):
        return _table(value, faults, place)
    return [_value(item, faults, place, lists + 1) for item in value]


def _text(text: str) -> str:
    bad = _NO_TEXT.search(text)
    if bad is not None:
        raise ValueError(
            f"has {bad[0]!a} at position {bad.start() + 1}, which is no text; leave it out"
        )
    return text


def dotted(place: Sequence[str]) -> str:
    """The name of a key for a message: one printable line, not too long."""
    name = ".".join(part if part and part.isprintable() else ascii(part) for part in place)
    return name if len(name) <= _LONGEST_KEY else f"{name[:_LONGEST_KEY]}…"
