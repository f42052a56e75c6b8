"""What a run of the triage program earns: four objectives, and each predictor by its own work.

==========  ======  ==========================================================================
objective   weight  score
==========  ======  ==========================================================================
category    0.2     1 if right
urgency     0.1     1 if right
fields      0.3     F1 over the details that are stated; right in another form counts half
action      0.4     1 if it is what the policy does with the message
==========  ======  ==========================================================================

``classify`` is judged by the mean of category and urgency, ``extract`` by ``fields``, and
``decide`` by what the policy does with what it was *handed*: a right decision on a wrong category
is right, and a wrong one that happens to suit the message is not. A predictor that was not called
is not judged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

from programs.triage import fields
from programs.triage.fields import FIELDS, NONE, label, same_value, stated
from programs.triage.policy import Case, Rule, rule_for

WEIGHTS: Final[Mapping[str, float]] = MappingProxyType(
    {"category": 0.2, "urgency": 0.1, "fields": 0.3, "action": 0.4}
)
"""Objective → its share of the score; they sum to 1."""

OTHER_FORM: Final = 0.5
"""What a detail earns that has the right value but is not written as the help desk does."""


def is_spam(category: object) -> bool:
    """Whether an answered category ends the program: nothing is extracted or decided."""
    return label(category) == "spam"


def read_case(
    handed: Mapping[str, object], *, today: str, tier: str, past_refunds: int | str
) -> Case:
    """What the policy makes of classified and extracted text, read generously.

    Args:
        handed: category, urgency and the details, in any form.
        today: ISO date.
    """
    bought = fields.read_date(handed["date"])
    return Case(
        category=label(handed["category"]),
        urgency=label(handed["urgency"]),
        order=fields.read_order(handed["order"]),
        amount=fields.read_amount(handed["amount"]),
        days=None if bought is None else (date.fromisoformat(today) - bought).days,
        tier=tier,
        past_refunds=int(past_refunds),
    )


@dataclass(frozen=True)
class Run:
    """One run against its example's labels; whatever stands in the prediction can be graded.

    Attributes:
        gold: the example.
        pred: the prediction; a field that it lacks counts as empty.
    """

    gold: Any
    pred: Any

    def got(self, name: str) -> str:
        """An answered label, or an answered detail with all ways to say "none" made one."""
        value = getattr(self.pred, name, None)
        return stated(value) if name in FIELDS else label(value)

    def expected(self, name: str) -> str:
        return str(getattr(self.gold, name))

    @cached_property
    def skipped(self) -> bool:
        """Whether the program stopped after ``classify``."""
        return is_spam(self.got("category"))

    @cached_property
    def handed(self) -> dict[str, str]:
        """What ``classify`` and ``extract`` made of the message."""
        return {name: self.got(name) for name in ("category", "urgency", *FIELDS)}

    @cached_property
    def case(self) -> Case:
        """What ``decide`` was handed, as the policy reads it."""
        account = {name: getattr(self.gold, name) for name in ("today", "tier", "past_refunds")}
        return read_case(self.handed, **account)

    @cached_property
    def due(self) -> Rule:
        """The policy's rule for what ``decide`` was handed."""
        return rule_for(self.case)

    def credit(self, name: str) -> float:
        """What one detail earns: 1, :data:`OTHER_FORM` or 0."""
        expected, got = self.expected(name), self.got(name)
        if got == expected:
            return 1.0
        if NONE in (expected, got) or not same_value(name, expected, got):
            return 0.0
        return OTHER_FORM

    @cached_property
    def objectives(self) -> dict[str, float]:
        """Objective → score in [0, 1], in the order of :data:`WEIGHTS`."""
        return {
            "category": float(self.got("category") == self.expected("category")),
            "urgency": float(self.got("urgency") == self.expected("urgency")),
            "fields": self._f1(),
            "action": float(self.got("action") == self.expected("action")),
        }

    @cached_property
    def predictors(self) -> dict[str, float]:
        """Predictor → score in [0, 1], of those that were called, in the order of the calls."""
        judged = {"classify": (self.objectives["category"] + self.objectives["urgency"]) / 2}
        if not self.skipped:
            judged["extract"] = self.objectives["fields"]
            judged["decide"] = float(self.got("action") == self.due.action)
        return judged

    @property
    def score(self) -> float:
        """The weighted objectives, in [0, 1]."""
        return math.fsum(weight * self.objectives[name] for name, weight in WEIGHTS.items())

    @property
    def exact(self) -> bool:
        """Whether all labels are right and every detail has the right form."""
        return all(score == 1.0 for score in self.objectives.values())

    def _f1(self) -> float:
        """``2 · credit / (stated + answered)``; 1 where nothing is stated nor answered."""
        if self.skipped and not is_spam(self.expected("category")):
            return 0.0  # nothing was even looked for
        stated_ones = sum(self.expected(name) != NONE for name in FIELDS)
        answered = sum(self.got(name) != NONE for name in FIELDS)
        if stated_ones + answered == 0:
            return 1.0
        credit = sum(self.credit(name) for name in FIELDS if self.expected(name) != NONE)
        return 2 * credit / (stated_ones + answered)
