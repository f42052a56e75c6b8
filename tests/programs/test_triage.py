"""The triage task: tickets that are right by construction, a total policy, honest credit."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import date
from decimal import Decimal
from random import Random
from typing import Any

import dspy
import pytest
from dspy.utils.dummies import DummyLM
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fst_agents.scoring import Scorer
from programs.triage import (
    ACTIONS,
    CATEGORIES,
    ENTRY,
    URGENCIES,
    Case,
    Triage,
    TriageOptions,
    build,
    exact,
    metric,
    rule_for,
)
from programs.triage import fields as forms
from programs.triage.fields import FIELDS, NONE
from programs.triage.grading import WEIGHTS
from programs.triage.messages import MAX_TICKETS, Ticket, tickets, with_typo
from programs.triage.policy import RULES, TIERS

OUTPUTS = ("category", "urgency", *FIELDS, "action")
INPUTS = ["message", "today", "tier", "past_refunds"]
TASK = build(TriageOptions(train_size=300, val_size=40, test_size=60), seed=0)
EVERY = [*TASK.trainset, *TASK.valset, *TASK.testset]
TICKETS = tickets(400, Random("tickets"), typos=0.0)

GOLD = dspy.Example(
    id="g",
    message="Please refund the Alto kettle. Order: 48213. Invoice INV-77001. I paid $120. It was "
    "bought 12 days ago.",
    today="2025-06-13",
    tier="standard",
    past_refunds="0",
    category="refund",
    urgency="normal",
    order="SO-48213",
    product="Alto kettle",
    amount="120.00",
    date="2025-06-01",
    category_because="Please refund the Alto kettle.",
    urgency_because="",
    action="human",
).with_inputs(*INPUTS)
RIGHT = {name: GOLD[name] for name in OUTPUTS}
CASE = Case("refund", "normal", "SO-48213", Decimal(20), 12, "standard", 0)


def judge(pred_name: str | None = None, gold: dspy.Example = GOLD, **wrong: Any) -> dspy.Prediction:
    """Grade the right answers with some of them replaced."""
    right = {name: gold[name] for name in OUTPUTS}
    return metric(gold, dspy.Prediction(**(right | wrong)), None, pred_name, None)


# --- policy


@pytest.mark.parametrize(
    ("changes", "action"),
    [
        ({}, "refund"),
        ({"amount": Decimal(50)}, "refund"),
        ({"amount": Decimal("50.01")}, "human"),
        ({"amount": Decimal(200), "tier": "vip"}, "refund"),
        ({"amount": Decimal("200.01"), "tier": "vip"}, "human"),
        ({"amount": None}, "human"),
        ({"past_refunds": 2}, "refund"),
        ({"past_refunds": 3}, "human"),
        ({"days": 30}, "refund"),
        ({"days": 31}, "decline"),
        ({"days": 31, "tier": "plus"}, "decline"),
        ({"days": 60, "tier": "vip"}, "refund"),
        ({"days": 61, "tier": "vip"}, "decline"),
        ({"days": None}, "human"),
        ({"days": -3}, "refund"),
        ({"order": None}, "ask_order"),
        ({"category": "defect"}, "replace"),
        ({"category": "defect", "amount": Decimal(900), "past_refunds": 9}, "replace"),
        ({"category": "defect", "days": 31}, "decline"),
        ({"category": "defect", "days": None}, "human"),
        ({"category": "delivery"}, "track"),
        ({"category": "delivery", "urgency": "high", "days": 99}, "send_again"),
        ({"category": "delivery", "order": None}, "ask_order"),
        ({"category": "question", "order": None}, "send_guide"),
        ({"category": "legal", "order": None}, "legal_team"),
        ({"category": "safety", "order": None}, "safety_line"),
        ({"category": "spam"}, "close"),
        ({"category": "weather"}, "human"),
    ],
)
def test_the_policy_by_hand(changes: dict[str, Any], action: str) -> None:
    assert rule_for(replace(CASE, **changes)).action == action


CASES = st.builds(
    Case,
    category=st.sampled_from(CATEGORIES) | st.text(max_size=8),
    urgency=st.sampled_from(URGENCIES) | st.text(max_size=8),
    order=st.none() | st.just("SO-10000"),
    amount=st.none() | st.decimals(0, 999_999, places=2),
    days=st.none() | st.integers(-400, 800_000),
    tier=st.sampled_from(TIERS),
    past_refunds=st.integers(0, 50),
)


@given(CASES)
def test_the_policy_is_total_and_deterministic_and_has_words_for_every_case(case: Case) -> None:
    rule = rule_for(case)
    assert rule is rule_for(case)
    assert rule.action in ACTIONS
    assert case.category in rule.facts(case)


@given(CASES)
def test_only_messages_about_a_purchase_need_an_order_number(case: Case) -> None:
    action = rule_for(replace(case, order=None)).action
    assert (action == "ask_order") == (case.category not in ("safety", "legal", "spam", "question"))


@given(CASES, st.integers(0, 3))
def test_more_past_refunds_never_turn_into_money(case: Case, more: int) -> None:
    later = replace(case, past_refunds=case.past_refunds + more)
    if rule_for(later).action == "refund":
        assert rule_for(case).action == "refund"


def test_a_case_of_an_unknown_tier_is_refused() -> None:
    with pytest.raises(ValueError, match="tier: got 'gold', expected one of standard, plus, vip"):
        replace(CASE, tier="gold")


# --- fields


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("SO-48213", "SO-48213"),
        ("#48213", "SO-48213"),
        ("so 48213", "SO-48213"),
        ("Order no. SO-48213.", "SO-48213"),
        ("482131", None),
        ("INV-48213", None),
        ("none", None),
        ("-" * 5000 + "x", None),
    ],
)
def test_reading_an_order_number(text: str, read: str | None) -> None:
    assert forms.read_order(text) == read


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("49.90", Decimal("49.90")),
        ("$49.9", Decimal("49.9")),
        ("USD 120", Decimal(120)),
        ("120 dollars", Decimal(120)),
        ("about 120", None),
        ("-5", None),
        ("12345678", None),
        ("none", None),
    ],
)
def test_reading_an_amount(text: str, read: Decimal | None) -> None:
    assert forms.read_amount(text) == read


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("2025-06-01", date(2025, 6, 1)),
        ("1 June 2025", date(2025, 6, 1)),
        ("June 1, 2025", date(2025, 6, 1)),
        ("01.06.2025", date(2025, 6, 1)),
        ("2025-06-31", None),
        ("1 June", None),
        ("12 days ago", None),
    ],
)
def test_reading_a_date(text: str, read: date | None) -> None:
    assert forms.read_date(text) == read


# --- messages


def test_every_label_occurs() -> None:
    assert {t.category for t in TICKETS} == set(CATEGORIES)
    assert {t.urgency for t in TICKETS} == set(URGENCIES)
    assert {e.action for e in EVERY} == set(ACTIONS)


def test_what_a_ticket_states_stands_in_its_message() -> None:
    assert TICKETS
    for ticket in TICKETS:
        message = ticket.message
        assert ticket.category_because in message
        assert ticket.urgency_because in message
        assert ticket.product in (NONE,) or ticket.product in message
        if ticket.order != NONE:
            assert ticket.order.removeprefix("SO-") in message
        if ticket.amount != NONE:
            assert ticket.amount.removesuffix(".00") in message


def test_details_that_are_not_stated_are_not_in_the_message() -> None:
    unnamed = [t for t in TICKETS if t.product == NONE]
    assert {t.category for t in unnamed} >= {"refund", "spam", "question"}
    products = [t.product for t in TICKETS if t.product != NONE]
    assert not any(product in t.message for t in unnamed for product in products)


def test_dates_lie_in_the_past_and_clear_of_the_policy_s_windows() -> None:
    ages = [
        (date.fromisoformat(t.today) - date.fromisoformat(t.date)).days
        for t in TICKETS
        if t.date != NONE
    ]
    assert len(ages) > 100
    assert all(1 <= age <= 25 or 36 <= age <= 55 or 66 <= age <= 90 for age in ages)


def test_there_is_variety() -> None:
    stories = Counter(t.category_because.replace(t.product, "…") for t in TICKETS)
    assert len(stories) > 60
    earlier = [t for t in TICKETS if "earlier order" in t.message]
    assert any(t.order == NONE for t in earlier)
    assert any(t.order != NONE for t in earlier)
    both = [t for t in TICKETS if t.category == "safety" and ("court" in t.message)]
    assert both
    assert any("newsletter" in t.message and t.category == "refund" for t in TICKETS)


def test_typos_leave_labels_numbers_and_names_alone() -> None:
    noisy = tickets(400, Random("tickets"), typos=1.0)

    def labels(ticket: Ticket) -> list[str]:
        return [ticket.today, ticket.tier, *(getattr(ticket, n) for n in OUTPUTS[:-1])]

    assert [labels(t) for t in noisy] == [labels(t) for t in TICKETS]
    assert sum(a.message != b.message for a, b in zip(noisy, TICKETS, strict=True)) == 400
    assert all(t.product in t.message for t in noisy if t.product != NONE)
    for a, b in zip(noisy, TICKETS, strict=True):
        assert [c for c in a.message if c.isdigit()] == [c for c in b.message if c.isdigit()]


@given(st.text(max_size=20), st.integers())
def test_a_typo_is_small(word: str, seed: int) -> None:
    made = with_typo(word, Random(seed))
    if len(word) < 5 or not word.isalpha():
        assert made == word
    else:
        assert abs(len(made) - len(word)) <= 1
        assert (made[0], made[-1]) == (word[0], word[-1])
        if len(made) == len(word):
            assert sorted(made) == sorted(word)


# --- task


def test_splits_are_disjoint_and_ids_are_unique() -> None:
    assert [len(s) for s in (TASK.trainset, TASK.valset, TASK.testset)] == [300, 40, 60]
    assert len({e.message for e in EVERY}) == len({e.id for e in EVERY}) == 400
    assert all(set(e.inputs().keys()) == set(INPUTS) for e in EVERY)
    assert all(isinstance(e[name], str) for e in EVERY for name in [*INPUTS, *OUTPUTS])


def test_the_seed_decides_everything() -> None:
    options = TriageOptions(train_size=30, val_size=5, test_size=5)
    first, again, other = (build(options, seed) for seed in (3, 3, 4))
    assert [e.toDict() for e in first.trainset] == [e.toDict() for e in again.trainset]
    assert {e.id for e in first.trainset}.isdisjoint(e.id for e in other.trainset)


def test_a_larger_validation_set_leaves_the_training_set_as_it_is() -> None:
    small, large = (
        build(TriageOptions(train_size=20, val_size=size, test_size=0), 0) for size in (5, 9)
    )
    assert [e.id for e in small.trainset] == [e.id for e in large.trainset]
    assert [e.id for e in small.valset] == [e.id for e in large.valset][:5]


def test_more_examples_than_there_are_are_refused() -> None:
    with pytest.raises(
        ValueError, match=f"got 30130 examples in all, expected at most {MAX_TICKETS}"
    ):
        build(TriageOptions(train_size=30_000, val_size=100, test_size=30), 0)


@pytest.mark.parametrize("typos", [-0.1, 1.1, float("nan")])
def test_typos_is_a_share(typos: float) -> None:
    with pytest.raises(ValidationError):
        TriageOptions(typos=typos)


def test_the_entry_says_what_there_is() -> None:
    assert ENTRY.name == "triage"
    assert json.loads(json.dumps(ENTRY.facts()))["actions"] == list(ACTIONS)
    assert ENTRY.options is TriageOptions


# --- metric


def test_the_labels_themselves_earn_everything() -> None:
    for gold in EVERY:
        prediction = dspy.Prediction(**{name: gold[name] for name in OUTPUTS})
        result = metric(gold, prediction)
        assert result.score == 1.0
        assert set(result.objective_scores.values()) == {1.0}
        assert set(result.predictor_scores.values()) == {1.0}
        assert result.feedback.startswith("Everything is right.")
        assert exact(gold, prediction) == 1.0


def test_weights_sum_to_one() -> None:
    assert sum(WEIGHTS.values()) == pytest.approx(1.0)
    assert judge().score == 1.0  # not a bit above: the range of a score is checked


@pytest.mark.parametrize(
    ("wrong", "score", "predictors"),
    [
        ({}, 1.0, (1, 1, 1)),
        ({"category": "Refund."}, 1.0, (1, 1, 1)),
        # the policy asks for "human" for an unknown category, too: decide is right
        ({"category": "money"}, 0.8, (0.5, 1, 1)),
        ({"urgency": "high"}, 0.9, (0.5, 1, 1)),
        ({"action": "refund"}, 0.6, (1, 1, 0)),
        # right value, wrong form: F1 = 2 · 3.5 / (4 + 4)
        ({"amount": "$120"}, 0.7 + 0.3 * 0.875, (1, 0.875, 1)),
        # one missing: 2 · 3 / (4 + 3); without an amount the policy still asks for a human
        ({"amount": "none"}, 0.7 + 0.3 * 6 / 7, (1, 6 / 7, 1)),
        # a wrong order number: 2 · 3 / (4 + 4); the policy sees an order number all the same
        ({"order": "SO-77001"}, 0.7 + 0.3 * 0.75, (1, 0.75, 1)),
        # handed no order number, decide should have asked for it: "human" is luck
        ({"order": "N/A"}, 0.7 + 0.3 * 6 / 7, (1, 6 / 7, 0)),
        # and asking is right for what it saw, although it is wrong for the message
        ({"order": "", "action": "ask_order"}, 0.3 + 0.3 * 6 / 7, (1, 6 / 7, 1)),
        ({"category": "legal", "action": "legal_team"}, 0.4, (0.5, 1, 1)),
        (dict.fromkeys(FIELDS, NONE) | {"action": "ask_order"}, 0.3, (1, 0, 1)),
    ],
)
def test_scores_by_hand(
    wrong: dict[str, Any], score: float, predictors: tuple[float, float, float]
) -> None:
    result = judge(**wrong)
    assert result.score == pytest.approx(score)
    expected = dict(zip(("classify", "extract", "decide"), predictors, strict=True))
    assert result.predictor_scores == pytest.approx(expected)


def test_what_was_not_called_is_not_judged() -> None:
    result = judge(category="spam", action="close", **dict.fromkeys(FIELDS, NONE))
    assert result.score == pytest.approx(0.1)
    assert result.predictor_scores == {"classify": 0.5}
    assert result.objective_scores == {"category": 0, "urgency": 1, "fields": 0, "action": 0}
    spam = next(e for e in EVERY if e.category == "spam")
    assert judge(gold=spam).predictor_scores == {"classify": 1.0}
    kept = judge(gold=spam, category="question", action="send_guide")
    assert kept.predictor_scores == {"classify": 0.5, "extract": 1.0, "decide": 1.0}


def test_details_that_nobody_stated_cost_precision() -> None:
    question = next(e for e in EVERY if e.category == "question" and e.product != NONE)
    # 2 · 1 / (1 stated + 2 answered)
    assert judge(gold=question, order="SO-10000").objective_scores["fields"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("form", ["", "None", "n/a", " unknown ", "not stated"])
def test_there_are_many_ways_to_say_that_nothing_is_stated(form: str) -> None:
    question = next(e for e in EVERY if e.category == "question")
    assert judge(gold=question, order=form).score == pytest.approx(1.0)


def test_the_exact_metric_wants_the_form_too() -> None:
    assert exact(GOLD, dspy.Prediction(**RIGHT)) == 1.0
    assert exact(GOLD, dspy.Prediction(**(RIGHT | {"amount": "$120.00"}))) == 0.0
    assert exact(GOLD, dspy.Prediction(**(RIGHT | {"urgency": "low"}))) == 0.0


@pytest.mark.parametrize(
    ("predictor", "wrong", "text"),
    [
        (
            "classify",
            {"category": "delivery"},
            "Category was 'delivery'; expected 'refund', because of \"Please refund the Alto "
            "kettle.\" Urgency 'normal' is right.",
        ),
        (
            "classify",
            {"category": "money", "urgency": "high"},
            "Category was 'money', which is none of refund, defect, delivery, question, legal, "
            "safety, spam; expected 'refund', because of \"Please refund the Alto kettle.\" "
            "Urgency was 'high'; expected 'normal', because the customer names no deadline, no "
            "danger, and does not say that it can wait.",
        ),
        ("extract", {}, "All details are right."),
        (
            "extract",
            {"order": "SO-77001"},
            "Order was 'SO-77001', which is wrong: that stands in the message, but for something "
            "else; expected 'SO-48213'.",
        ),
        (
            "extract",
            {"order": "yes"},
            "Order was 'yes', which is wrong and is no order number; expected 'SO-48213'.",
        ),
        (
            "extract",
            {"amount": "$120"},
            "Amount was '$120', which is the right value in the wrong form; expected '120.00'.",
        ),
        (
            "extract",
            {"amount": "", "date": "2025-05-31"},
            "Amount was 'none', but the message states it; expected '120.00'. "
            "Date was '2025-05-31', which is wrong by 1 day; expected '2025-06-01'.",
        ),
        (
            "extract",
            {"date": "12 days ago"},
            "Date was '12 days ago', which is wrong and cannot be read as a day; expected "
            "'2025-06-01'.",
        ),
        ("decide", {}, "Action 'human' is right for what it was handed."),
        (
            "decide",
            {"action": "refund"},
            "Action was 'refund'; the policy asks for 'human' in such a case (category refund, 12 "
            "days after the purchase, tier standard, amount 120.00, 0 past refunds).",
        ),
        (
            "decide",
            {"action": "give money"},
            "Action was 'give money', which is none of safety_line, legal_team, close, send_guide, "
            "ask_order, send_again, track, decline, replace, refund, human; the policy asks for "
            "'human' in such a case (category refund, 12 days after the purchase, tier standard, "
            "amount 120.00, 0 past refunds).",
        ),
        (
            "decide",
            {"category": "legal", "action": "legal_team"},
            "Action 'legal_team' is right for what it was handed. For the message as it is it "
            "would be 'human', but an earlier step read it wrongly.",
        ),
        ("decide", {"category": "spam"}, "It was not called, since classify answered 'spam'."),
        ("extract", {"category": "spam"}, "It was not called, since classify answered 'spam'."),
    ],
)
def test_feedback_about_a_predictor(predictor: str, wrong: dict[str, Any], text: str) -> None:
    result = judge(predictor, **wrong)
    assert result.feedback == text
    assert result.score == judge(**wrong).score  # the program's, whoever is spoken of


def test_feedback_about_the_run_names_the_first_mistake() -> None:
    lines = judge(amount="none", action="refund").feedback.splitlines()
    assert lines[0] == "The first mistake is made by extract."
    assert [line.partition(":")[0] for line in lines[1:]] == ["classify", "extract", "decide"]


def test_an_item_that_nobody_named_is_said_to_be_none() -> None:
    question = next(e for e in EVERY if e.category == "question")
    said = judge("extract", gold=question, order="SO-10000").feedback
    assert "the message does not state the order of this purchase; expected 'none'" in said


def test_feedback_never_tells_the_thresholds() -> None:
    facts = [rule.facts(CASE) for rule in RULES]
    for number in ("30", "60", "50", "200", "3"):
        assert not any(number in words.replace("SO-48213", "").split() for words in facts)
    assert any("amount 20.00" in words for words in facts)


ANSWERS = st.text(max_size=40) | st.sampled_from(
    [*CATEGORIES, *URGENCIES, *ACTIONS, NONE, "SO-48213", "2025-06-01", "0001-01-01", "$120", "NaN"]
)


@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(OUTPUTS, st.none() | ANSWERS)),
    st.sampled_from([None, "classify", "extract", "decide", "somebody"]),
    st.sampled_from([GOLD, *EVERY[:20]]),
)
def test_whatever_is_answered_gets_a_score_and_feedback(
    answers: dict[str, Any], predictor: str | None, gold: dspy.Example
) -> None:
    prediction = dspy.Prediction(**answers)
    result = metric(gold, prediction, None, predictor, None)
    assert 0 <= result.score <= 1
    assert result.feedback
    assert set(result.objective_scores) == set(WEIGHTS)
    assert result.predictor_scores.keys() <= {"classify", "extract", "decide"}
    assert all(0 <= score <= 1 for score in result.predictor_scores.values())
    assert exact(gold, prediction) in (0.0, 1.0)


def test_the_metric_is_read_as_one_that_speaks_of_predictors() -> None:
    scorer = Scorer(metric)
    feedback = scorer(GOLD, dspy.Prediction(**RIGHT), [])
    assert scorer.per_predictor
    assert (feedback.score, set(feedback.objectives)) == (pytest.approx(1.0), set(WEIGHTS))
    assert set(feedback.predictor_scores) == {"classify", "extract", "decide"}


# --- program


def run(*answers: dict[str, str]) -> tuple[dspy.Prediction, list[dict[str, Any]]]:
    """The program on GOLD under a scripted LM: its prediction, and the requests it made."""
    lm = DummyLM(list(answers), adapter=dspy.ChatAdapter())
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter()):
        return Triage()(**GOLD.inputs()), lm.history


def part(*names: str) -> dict[str, str]:
    return {name: RIGHT[name] for name in names}


def test_the_program_has_three_predictors_with_plain_instructions() -> None:
    named: dict[str, Any] = dict(Triage().named_predictors())
    assert list(named) == ["classify", "extract", "decide"]
    outputs = [list(p.signature.output_fields) for p in named.values()]
    assert outputs == [["category", "urgency"], list(FIELDS), ["action"]]
    words = " ".join(p.signature.instructions for p in named.values()).split()
    assert not set(words) & {*ACTIONS, *CATEGORIES}


def test_the_program_runs_from_message_to_action() -> None:
    prediction, calls = run(part("category", "urgency"), part(*FIELDS), part("action"))
    assert len(calls) == 3
    assert metric(GOLD, prediction).score == pytest.approx(1.0)
    last = calls[-1]["messages"][-1]["content"]
    assert all(RIGHT[name] in last for name in FIELDS)
    assert GOLD.message not in last
    assert "2025-06-13" in last


def test_spam_ends_the_program_after_the_first_step() -> None:
    prediction, calls = run({"category": "Spam.", "urgency": "low"})
    assert len(calls) == 1
    assert prediction.action == "close"
    assert {prediction[name] for name in FIELDS} == {NONE}
    assert metric(GOLD, prediction).predictor_scores == {"classify": 0.0}
