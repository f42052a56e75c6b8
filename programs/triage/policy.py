"""The company's policy: what the help desk does with a message. Pure.

A decision table: the first rule that applies decides. No instruction of the program names it; a
learner meets it one case at a time, in the feedback.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

CATEGORIES: Final = ("refund", "defect", "delivery", "question", "legal", "safety", "spam")
URGENCIES: Final = ("low", "normal", "high")
TIERS: Final = ("standard", "plus", "vip")

WINDOW: Final = {"standard": 30, "plus": 30, "vip": 60}
"""Days after the purchase in which something can be returned or exchanged."""

LIMIT: Final = {"standard": Decimal(50), "plus": Decimal(50), "vip": Decimal(200)}
"""What is paid back without asking anybody, in dollars."""

MANY_REFUNDS: Final = 3
"""From so many refunds in a year on, a person looks at the next one."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is known of a message when something has to be done.

    Attributes:
        category: one of :data:`CATEGORIES`; anything else is a category without rules of its own.
        urgency: one of :data:`URGENCIES`, or anything else, which is no reason to hurry.
        order: the order number, ``None`` where none is known.
        amount: what was paid, in dollars.
        days: since the purchase; negative where the date lies ahead.
        tier: one of :data:`TIERS`.
        past_refunds: refunds of the last twelve months.
    """

    category: str
    urgency: str
    order: str | None
    amount: Decimal | None
    days: int | None
    tier: str
    past_refunds: int

    def __post_init__(self) -> None:
        if self.tier not in TIERS:
            raise ValueError(f"tier: got {self.tier!r}, expected one of {', '.join(TIERS)}")


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table.

    Attributes:
        action: what is done.
        applies: whether the row speaks of a case, given that no row above does.
        facts: what in such a case matters, as words about the case; never the rule's thresholds.
    """

    action: str
    applies: Callable[[Case], bool]
    facts: Callable[[Case], str]


def rule_for(case: Case) -> Rule:
    """The first rule that applies; there always is one."""
    return next(rule for rule in RULES if rule.applies(case))


def _too_late(case: Case) -> bool:
    return case.days is not None and case.days > WINDOW[case.tier]


def _small_refund(case: Case) -> bool:
    return (
        case.category == "refund"
        and case.days is not None
        and case.amount is not None
        and case.amount <= LIMIT[case.tier]
        and case.past_refunds < MANY_REFUNDS
    )


def _category(case: Case) -> str:
    return f"category {case.category}"


def _delivery(case: Case) -> str:
    return f"category delivery, urgency {case.urgency}, with an order number"


def _purchase(case: Case) -> str:
    return f"category {case.category}, {_age(case)}, tier {case.tier}"


def _money(case: Case) -> str:
    paid = "amount unknown" if case.amount is None else f"amount {case.amount:.2f}"
    return f"{_purchase(case)}, {paid}, {case.past_refunds} past refunds"


def _age(case: Case) -> str:
    return "date unknown" if case.days is None else f"{case.days} days after the purchase"


RULES: Final = (
    Rule("safety_line", lambda c: c.category == "safety", _category),
    Rule("legal_team", lambda c: c.category == "legal", _category),
    Rule("close", lambda c: c.category == "spam", _category),
    Rule("send_guide", lambda c: c.category == "question", _category),
    Rule("ask_order", lambda c: c.order is None, lambda c: f"{_category(c)}, no order number"),
    Rule("send_again", lambda c: c.category == "delivery" and c.urgency == "high", _delivery),
    Rule("track", lambda c: c.category == "delivery", _delivery),
    Rule("decline", _too_late, _purchase),
    Rule("replace", lambda c: c.category == "defect" and c.days is not None, _purchase),
    Rule("refund", _small_refund, _money),
    Rule("human", lambda _: True, _money),
)
"""The table, first match wins. The last row is for everything else."""

ACTIONS: Final = tuple(rule.action for rule in RULES)
