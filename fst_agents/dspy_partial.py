"""What can be read of an answer that cannot be read whole."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import dspy
from dspy.adapters.utils import annotation_allows_none
from dspy.utils.exceptions import AdapterParseError


def read_partially(
    adapter: dspy.Adapter, error: AdapterParseError
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields of a refused answer that could be read, and the names of those that could not.

    Only fields that an answer must have count: DSPy fills in the others by itself. A blank text
    counts as missing, so that bare headers earn nothing.
    """
    signature: Any = error.signature
    asked = [
        name
        for name, field in signature.output_fields.items()
        if field.is_required() and not annotation_allows_none(field.annotation)
    ]
    found = _found(adapter, error, asked)
    read = {name: found[name] for name in asked if name in found and not _blank(found[name])}
    return read, tuple(name for name in asked if name not in read)


def _found(adapter: dspy.Adapter, error: AdapterParseError, asked: list[str]) -> Mapping[str, Any]:
    """ChatAdapter (JSON's and XML's parent) stops at the first field it cannot read, and may name
    that one among those it has read. Each of them finds a field by its name, so each is tried
    alone. What other adapters say is taken as they say it.
    """
    if isinstance(adapter, dspy.ChatAdapter):
        return {name: value for name in asked for value in _alone(adapter, error, name)}
    said: Any = error.parsed_result
    return said if isinstance(said, Mapping) else {}


def _alone(adapter: dspy.Adapter, error: AdapterParseError, name: str) -> list[Any]:
    signature: Any = error.signature
    for other in [other for other in signature.output_fields if other != name]:
        signature = signature.delete(other)
    # Unwrapped: callbacks (this project's recorder, the user's traces) have seen the answer once.
    parse: Any = inspect.unwrap(type(adapter).parse)
    try:
        return [parse(adapter, signature, error.lm_response)[name]]
    except (AdapterParseError, ValueError):
        return []


def _blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())
