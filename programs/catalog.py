"""The shipped tasks by name. Building one imports what it needs; listing them does not."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from programs.claims import ENTRY as CLAIMS
from programs.code_output import ENTRY as CODE_OUTPUT
from programs.digits.pipeline import ENTRY as DIGITS_PIPELINE
from programs.digits.task import ENTRY as DIGITS
from programs.math_word import ENTRY as MATH_WORD
from programs.star_graph import ENTRY as STAR_GRAPH
from programs.task import Entry
from programs.triage import ENTRY as TRIAGE

TASKS: Final[Mapping[str, Entry]] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            DIGITS,
            DIGITS_PIPELINE,
            STAR_GRAPH,
            CODE_OUTPUT,
            CLAIMS,
            MATH_WORD,
            TRIAGE,
        )
    }
)
"""Name → entry, in the order in which they are listed."""
