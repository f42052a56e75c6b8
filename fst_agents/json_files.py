"""JSON and JSON lines on disk: strict, whole, and for any of the nouns.

Numbers that JSON lacks are the strings "NaN", "Infinity" and "-Infinity"; objects that are no
data are written as their text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pydantic_core

from fst_agents.errors import RunDirError


def to_json(value: Any) -> Any:
    """Plain JSON values (dict, list, str, number, bool, None) of any of the nouns."""
    return json.loads(dumps(value))


def dumps(value: Any) -> bytes:
    """:func:`to_json` as UTF-8 text on one line."""
    try:
        return pydantic_core.to_json(
            value, fallback=_plain, inf_nan_mode="strings", bytes_mode="base64"
        )
    except pydantic_core.PydanticSerializationError:
        # Lone surrogates, which UTF-8 does not have and \u escapes do.
        plain = pydantic_core.to_jsonable_python(value, fallback=_plain, bytes_mode="base64")
        return json.dumps(json.loads(json.dumps(plain), parse_constant=str)).encode()


def append_lines(file: Path, values: Iterable[Any]) -> None:
    """One write of whole lines, so that a crash tears at most the last."""
    with file.open("ab") as stream:
        stream.write(b"".join(dumps(value) + b"\n" for value in values))


def write_json(file: Path, value: Any) -> None:
    """Replace a file: after a crash it holds the old value or the new, whole."""
    temporary = file.with_name(f".{file.name}.tmp")
    with temporary.open("wb") as stream:
        stream.write(dumps(value) + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)


def read_json(file: Path) -> Any:
    """The value of a file.

    Raises:
        RunDirError: the file is missing or no JSON.
    """
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise RunDirError(f"{file}: cannot be read: {error}") from error


def read_lines(file: Path) -> Iterator[Any]:
    """The values of a JSON lines file, none where there is no file.

    A last line without its end was torn by a crash and is left out.

    Raises:
        RunDirError: a line is no JSON.
    """
    if not file.exists():
        return
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)
            except ValueError as error:
                raise RunDirError(f"{file}, line {number}: no JSON: {error}") from error


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)
