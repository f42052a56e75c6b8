"""Labels and details of a purchase: how the help desk writes them, and how it reads them. Pure.

An answer may have the right value in another form (``$49.90`` for ``49.90``). The policy acts on
values, so it reads generously; the metric wants the form, too.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from decimal import Decimal
from typing import Final

FIELDS: Final = ("order", "product", "amount", "date")

NONE: Final = "none"
"""How a detail is written that the message does not state."""

_ABSENT: Final = {"", "none", "null", "n/a", "na", "nil", "unknown", "not given", "not stated", "-"}

_ORDER: Final = re.compile(r"(?:order)?(?:no|number)?(?:so)?([0-9]{5})")
_AMOUNT: Final = re.compile(
    r"(?:usd|us\$|\$)?\s*(\d{1,6}(?:\.\d{1,2})?)\s*(?:usd|dollars?|\$)?", re.ASCII | re.IGNORECASE
)
_DATES: Final = ("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%d %B %Y", "%B %d, %Y", "%B %d %Y")


def text(value: object) -> str:
    """What an output field holds, without white space around it; ``""`` where it is absent."""
    return "" if value is None else str(value).strip()


def label(value: object) -> str:
    """An answered category, urgency or action: in small letters, without quotes or a full stop."""
    return text(value).strip(" .\"'`*").casefold()


def stated(value: object) -> str:
    """An answered detail; ``"none"`` for all the ways to say that there is none."""
    got = text(value)
    return NONE if got.casefold().strip(".()") in _ABSENT else got


def read_order(value: object) -> str | None:
    """An order number as the help desk writes it, ``SO-48213``; ``None`` if there is none."""
    found = _ORDER.fullmatch(re.sub(r"[^0-9a-z]", "", text(value).casefold()))
    return f"SO-{found[1]}" if found else None


def read_amount(value: object) -> Decimal | None:
    """Dollars, below a million; ``None`` where no amount is stated or it cannot be read."""
    found = _AMOUNT.fullmatch(text(value))
    return Decimal(found[1]) if found else None


def read_date(value: object) -> date | None:
    """A day with its year, in one of a few usual forms; ``None`` where it cannot be read."""
    got = text(value)
    for form in _DATES:
        try:
            return datetime.strptime(got, form).date()
        except ValueError:
            continue
    return None


def same_value(field: str, expected: str, got: str) -> bool:
    """Whether a stated detail has the expected value, in whatever form."""
    if field == "order":
        return read_order(got) == expected
    if field == "amount":
        return read_amount(got) == Decimal(expected)
    if field == "date":
        return read_date(got) == date.fromisoformat(expected)
    return _name(got) == _name(expected)


def _name(got: str) -> str:
    return re.sub(r"^(?:the|a|an|my)\s+", "", " ".join(got.casefold().split()).strip(" .\"'"))
