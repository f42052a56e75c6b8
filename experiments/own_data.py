"""Examples from JSONL files, strictly: an object a line, every fault with its line.

Blank lines and a byte order mark are allowed. Data are read, never run.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dspy

from fst_agents.errors import ConfigError
from fst_agents.preflight import capped


@dataclass(frozen=True)
class Fields:
    """The fields of an example that are inputs: all ``required``, ``optional`` where it has them.

    ``why`` says in an error message who wants them.
    """

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    why: str = ""


def read_examples(files: Sequence[Path], fields: Fields) -> list[list[dspy.Example]]:
    """The examples of each file, in its order, with their inputs declared.

    An example may have an ``id``, a string or an integer. No id may occur twice over all files,
    nor may the same content: it could stand in training and in validation.

    Raises:
        ConfigError: everything that is wrong with the files, as ``file:line: …``; at most
            :data:`~fst_agents.preflight.MOST_LINES` lines for each file, then a count.
    """
    seen = _Seen()
    made: list[list[dspy.Example]] = []
    faults: list[str] = []
    for file in files:
        examples, own = _read(file, fields, seen)
        made.append(examples)
        faults += capped(own, f"faults in {file}")
    if faults:
        raise ConfigError(faults)
    return made


@dataclass
class _Seen:
    """Where ids and contents were met first, as ``file:line``."""

    ids: dict[str, str] = field(default_factory=dict[str, str])
    contents: dict[str, str] = field(default_factory=dict[str, str])


def _read(file: Path, fields: Fields, seen: _Seen) -> tuple[list[dspy.Example], list[str]]:
    try:
        content = file.read_bytes().removeprefix(codecs.BOM_UTF8)
    except FileNotFoundError:
        return [], [f"{file}: no such file; expected JSONL, one example a line"]
    except (OSError, ValueError) as error:  # a name with a null character is a ValueError
        return [], [f"{file}: cannot be read: {error}"]
    if content.lstrip().startswith(b"["):
        return [], [f"{file}: starts with a list; expected one JSON object a line, without commas"]
    examples: list[dspy.Example] = []
    faults: list[str] = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        try:
            row = _parse(line)
        except ValueError as error:
            faults.append(f"{where}: {error}")
            continue
        found = [*_field_faults(row, fields), *_repeats(row, where, seen)]
        faults += [f"{where}: {text}" for text in found]
        names = [name for name in (*fields.required, *fields.optional) if name in row]
        examples.append(dspy.Example(row).with_inputs(*names))
    if not examples and not faults:
        faults.append(f"{file}: no examples in it; expected one JSON object a line")
    return examples, faults


def _parse(line: bytes) -> dict[str, Any]:
    """One line's object; ValueError in words otherwise."""
    try:
        row = json.loads(
            line.decode(),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"byte {line[error.start]:#04x} at position {error.start + 1} is not UTF-8; save the "
            "file as UTF-8"
        ) from error
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{error.object[error.start]!a} is half a character (a lone surrogate), which is no "
            "text; write the whole character"
        ) from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} (column {error.colno})") from error
    except RecursionError as error:
        raise ValueError("nested too deeply to be read") from error
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, the fields of an example; got {row!r:.40}")
    return row


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise ValueError(f"key {name!r} occurs twice in one object; keep one of them")
        fields[name] = value
    return fields


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number; leave the field out, or write it as a string")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text:.40} is too large; write it as a string")
    return number


def _field_faults(row: dict[str, Any], fields: Fields) -> list[str]:
    faults: list[str] = []
    name = row.get("id")
    if "id" in row and (isinstance(name, bool) or not isinstance(name, str | int)):
        faults.append(f"id is {name!r:.40}; expected a string or an integer, or no id at all")
    start = f"example {name!r:.60}: field" if "id" in row else "field"
    faults += [
        f"{start} {want!r} is missing; {fields.why}" for want in fields.required if want not in row
    ]
    for want in (*fields.required, *fields.optional):
        if want in row and row[want] is None:
            mend = "give it a value" + ("" if want in fields.required else ", or leave it out")
            faults.append(f"{start} {want!r} is null, but it is an input; {mend}")
    return faults


def _repeats(row: dict[str, Any], where: str, seen: _Seen) -> list[str]:
    faults: list[str] = []
    if "id" in row:
        first = seen.ids.setdefault(str(row["id"]), where)
        if first != where:
            faults.append(f"id {row['id']!r:.60} is that of {first} too; give each its own")
    content = {name: value for name, value in row.items() if name != "id"}
    first = seen.contents.setdefault(json.dumps(content, sort_keys=True), where)
    if first != where:
        faults.append(f"the same example as {first}, apart from ids; drop one of them")
    return faults
