"""The triage task: a support message comes in, the right thing has to happen.

Three predictors: one sorts, one reads, one decides. What they should do is the house's own business
(labels, forms, a policy) and stands in no instruction; the metric shows it case by case.
"""

from __future__ import annotations

import hashlib
from random import Random
from typing import Any, Final

import dspy
from pydantic import Field

from programs.task import Entry, Options, Task
from programs.triage.feedback import comment
from programs.triage.fields import FIELDS, NONE
from programs.triage.grading import WEIGHTS, Run, is_spam, read_case
from programs.triage.messages import Ticket, tickets
from programs.triage.policy import ACTIONS, CATEGORIES, URGENCIES, rule_for

SEEDS: Final = {
    "classify": "Say what the customer's message is about and how urgent it is.",
    "extract": "Find the details of the purchase in the customer's message.",
    "decide": "Choose what the help desk does next.",
}
"""Predictor → its instruction at the start."""

ENOUGH: Final = 0.96
"""Mean reward at which the house's ways count as learnt; one wrong action in ten costs 0.04."""


def _predict(name: str, shape: str) -> dspy.Predict:
    return dspy.Predict(dspy.make_signature(shape, SEEDS[name]))


class Triage(dspy.Module):
    """Sorts a message, reads it, decides; stops after the first step where that says spam."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = _predict("classify", "message -> category, urgency")
        self.extract = _predict(
            "extract", "message, category, today -> order, product, amount, date"
        )
        self.decide = _predict(
            "decide",
            "category, urgency, order, product, amount, date, today, tier, past_refunds -> action",
        )

    def forward(self, message: str, today: str, tier: str, past_refunds: str) -> dspy.Prediction:
        """Triage a message.

        Args:
            message: what the customer wrote.
            today: ISO date, by which "two weeks ago" can be read.
            tier: of the customer's account.
            past_refunds: refunds of the last twelve months, a number.

        Returns:
            ``category``, ``urgency``, the details, and ``action``, all strings.
        """
        kind: Any = self.classify(message=message)
        labels = {"category": kind.category, "urgency": kind.urgency}
        if is_spam(kind.category):
            return dspy.Prediction(**labels, **dict.fromkeys(FIELDS, NONE), action="close")
        read: Any = self.extract(message=message, category=kind.category, today=today)
        details = {name: getattr(read, name) for name in FIELDS}
        account = {"today": today, "tier": tier, "past_refunds": past_refunds}
        decision: Any = self.decide(**labels, **details, **account)
        return dspy.Prediction(**labels, **details, action=decision.action)


def metric(
    gold: dspy.Example,
    pred: dspy.Prediction,
    trace: object = None,
    pred_name: str | None = None,
    pred_trace: object = None,
) -> dspy.Prediction:
    """Score a run in [0, 1], with feedback on it or on one predictor.

    What earns what is in :mod:`programs.triage.grading`.
    """
    run = Run(gold, pred)
    return dspy.Prediction(
        score=run.score,
        feedback=comment(run, pred_name),
        objective_scores=run.objectives,
        predictor_scores=run.predictors,
    )


def exact(gold: dspy.Example, pred: dspy.Prediction, trace: object = None) -> float:
    """1 if all labels are right and every detail has the right form, else 0."""
    return float(Run(gold, pred).exact)


def example(ticket: Ticket) -> dspy.Example:
    """A ticket with the policy's action; its id is a hash of the message."""
    labels = {
        name: getattr(ticket, name)
        for name in ("category", "urgency", *FIELDS, "category_because", "urgency_because")
    }
    account = {
        "today": ticket.today,
        "tier": ticket.tier,
        "past_refunds": str(ticket.past_refunds),
    }
    return dspy.Example(
        id="triage-" + hashlib.sha256(ticket.message.encode()).hexdigest()[:12],
        message=ticket.message,
        **account,
        **labels,
        action=rule_for(read_case(labels, **account)).action,
    ).with_inputs("message", *account)


class TriageOptions(Options):
    """Keys of ``[task]`` for ``triage``."""

    typos: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="Chance of a typo in a longer word; names, numbers and dates have none.",
    )


def build(options: TriageOptions, seed: int) -> Task:
    """The task; the 2×2 counts the messages with which everything went right.

    Raises:
        ValueError: more examples than can be drawn.
    """
    sizes = (options.train_size, options.val_size, options.test_size)
    drawn = iter(tickets(sum(sizes), Random(f"triage/{seed}"), typos=options.typos))
    train, val, test = ([example(next(drawn)) for _ in range(size)] for size in sizes)
    return Task(
        program=Triage(),
        trainset=train,
        valset=val,
        testset=test,
        metric=metric,
        eval_metric=exact,
        enough=ENOUGH,
    )


def facts() -> dict[str, object]:
    """The predictors, the labels there are, and what the score is made of."""
    return {
        "predictors": list(SEEDS),
        "categories": list(CATEGORIES),
        "urgencies": list(URGENCIES),
        "fields": list(FIELDS),
        "actions": list(ACTIONS),
        "weights": dict(WEIGHTS),
    }


ENTRY: Final = Entry(
    name="triage",
    summary="support messages are sorted, read and decided on under a hidden company policy",
    options=TriageOptions,
    build=build,
    facts=facts,
)
