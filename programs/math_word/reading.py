"""Numbers in a text, read by one rule: the last one counts."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

MAX_DIGITS: Final = 25
"""Most characters of a number: longer ones are no answer to anything, nor exact in a Decimal."""

_NUMBER = re.compile(
    r"""
    (?P<sign> (?<![\w)\]}%]) -[$€£]? | [$€£]- )?  # behind a number a minus is a subtraction
    (?<![A-Za-z_])                                # x2 and A1 are names
    (?P<number>
        [0-9]{1,3} (?:,[0-9]{3})+ (?![0-9]) (?:\.[0-9]+)?
      | [0-9]+ (?:\.[0-9]+)?
      | \.[0-9]+
    )
    """,
    re.VERBOSE,
)


def read_numbers(text: str) -> list[Decimal]:
    """All numbers of a text, in order, but those that are too long."""
    found = ((m["sign"], m["number"]) for m in _NUMBER.finditer(text.replace("−", "-")))
    return [_value(sign, number) for sign, number in found if len(number) <= MAX_DIGITS]


def read_number(text: str) -> Decimal | None:
    """The last number of a text, ``None`` if it has none.

    ``"$1,234.00"``, ``"1234 apples"`` and ``"617 × 2 = 1,234"`` are all 1234. Commas group three
    digits; a minus belongs to a number that follows at once, unless a number stands before it.
    Units, percent signs and fractions are not understood: ``"3/4"`` is 4.
    """
    numbers = read_numbers(text)
    return numbers[-1] if numbers else None


def write(number: Decimal) -> str:
    """A number as it is shown, without needless zeros: ``"1234"``, ``"0.5"``."""
    text = f"{number:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def _value(sign: str | None, number: str) -> Decimal:
    value = Decimal(number.replace(",", ""))
    return -value if sign else value
