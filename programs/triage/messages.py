"""Support messages with labels that are right by construction: every sentence is chosen for one.

A ticket is drawn label first, text second. Numbers, names and dates never get a typo.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from random import Random
from typing import Final

from programs.triage import phrases
from programs.triage.fields import NONE
from programs.triage.policy import TIERS

MAX_TICKETS: Final = 20_000
"""Most tickets of one seed: far below what the phrases give, so that drawing stays quick."""

_SHARES: Final = {
    "refund": 30, "defect": 17, "delivery": 19, "question": 9, "legal": 8, "safety": 7, "spam": 10,
}  # fmt: skip
"""Percent of the tickets per category."""

# Well away from the policy's windows, so that a day more or less in reading decides nothing.
_AGES: Final = (range(1, 26), range(36, 56), range(66, 91))


@dataclass(frozen=True, slots=True)
class Ticket:
    """A message, what is known of its sender, and its labels.

    Attributes:
        today: the day the message is answered, ISO.
        tier: of the customer's account.
        past_refunds: refunds of the last twelve months.
        order, product, amount, date: what the message states, in the help desk's form, or "none".
        category_because: the sentence that decides the category.
        urgency_because: the sentence that decides the urgency, ``""`` if there is none.
    """

    message: str
    today: str
    tier: str
    past_refunds: int
    category: str
    urgency: str
    order: str
    product: str
    amount: str
    date: str
    category_because: str
    urgency_because: str


def tickets(count: int, rng: Random, *, typos: float) -> list[Ticket]:
    """Draw tickets whose messages are all different.

    Args:
        typos: chance that a longer word has a typo; labels do not depend on it.

    Raises:
        ValueError: more than :data:`MAX_TICKETS`.
    """
    if count > MAX_TICKETS:
        raise ValueError(
            f"sizes: got {count} examples in all, expected at most {MAX_TICKETS}; ask for fewer"
        )
    drawn: dict[str, Ticket] = {}
    while len(drawn) < count:
        ticket = _Writer(rng, typos).ticket()
        drawn.setdefault(ticket.message, ticket)
    return list(drawn.values())


def with_typo(word: str, rng: Random) -> str:
    """A word with two neighbouring letters swapped, one left out or one doubled.

    First and last letter stay where they are; words of less than five letters are returned as
    they are, and so are those that hold anything but letters.
    """
    if len(word) < 5 or not word.isalpha():
        return word
    at = rng.randrange(1, len(word) - 2)
    kind = rng.randrange(3)
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    return word[:at] + word[at] + word[at:]


class _Writer:
    """Writes one ticket."""

    def __init__(self, rng: Random, typos: float) -> None:
        self._rng = rng
        self._typos = typos
        # A source of its own: the labels of a seed are the same with and without typos.
        self._noise = Random(rng.getrandbits(64))
        self._today = date(2025, 4, 1) + timedelta(days=rng.randrange(260))
        self._order, self._other_order = (f"SO-{n}" for n in rng.sample(range(10_000, 100_000), 2))

    def ticket(self) -> Ticket:
        rng = self._rng
        category = rng.choices(list(_SHARES), list(_SHARES.values()))[0]
        tier = rng.choices(TIERS, (60, 20, 20))[0]
        past_refunds = rng.choices(range(6), (40, 25, 15, 10, 6, 4))[0]
        facts, details = self._details(category)
        main = self._main(category, facts["product"])
        urgency, tempo = self._urgency(category)
        extras = [*details, *self._extras(category, tempo)]
        rng.shuffle(extras)
        greeting = self._say(rng.choice(phrases.GREETINGS))
        farewell = self._say(rng.choice(phrases.SIGN_OFFS), name=rng.choice(phrases.NAMES))
        parts = (greeting, " ".join([*main, *extras]), farewell)
        return Ticket(
            message="\n".join(part for part in parts if part),
            today=self._today.isoformat(),
            tier=tier,
            past_refunds=past_refunds,
            category=category,
            urgency=urgency,
            category_because=main[-1],
            urgency_because=main[-1] if category in ("legal", "safety") else " ".join(tempo),
            **facts,
        )

    def _details(self, category: str) -> tuple[dict[str, str], list[str]]:
        """The details in the help desk's form, and the sentences that state them."""
        chances = {"order": 0.8, "product": 0.85, "amount": 0.85, "date": 0.85}
        if category == "spam":
            chances = dict.fromkeys(chances, 0.0)
        elif category == "question":
            chances = {"order": 0.0, "product": 0.85, "amount": 0.0, "date": 0.0}
        elif category == "delivery":
            chances = chances | {"amount": 0.3, "date": 0.6}
        cents = self._rng.choice((0, 50, 90, 95, 99))
        dollars = self._rng.choice((self._rng.randrange(5, 49), self._rng.randrange(51, 320)))
        age = self._rng.choice(self._rng.choices(_AGES, (60, 20, 20))[0])
        bought = self._today - timedelta(days=age)
        facts = {
            "order": self._order,
            "product": self._rng.choice(phrases.PRODUCTS),
            "amount": f"{dollars}.{cents:02}",
            "date": bought.isoformat(),
        }
        facts = {
            name: value if self._rng.random() < chances[name] else NONE
            for name, value in facts.items()
        }
        written = {
            "order": self._write_order(facts["order"]),
            "amount": self._write_amount(facts["amount"]),
            "date": self._write_date(bought),
        }
        sentences = [
            self._say(self._rng.choice(phrases.DETAILS[name]), **{name: words})
            for name, words in written.items()
            if facts[name] != NONE
        ]
        return facts, sentences

    def _main(self, category: str, product: str) -> list[str]:
        """The sentences that carry the intent; the last one decides the category."""
        rng = self._rng
        if category == "spam":
            return [self._filled(rng.choice(phrases.SPAM))]
        if category == "question":
            item = rng.choice(phrases.UNNAMED_YET) if product == NONE else f"the {product}"
            return [self._say(rng.choice(phrases.QUESTIONS), item=item)]
        item = rng.choice(phrases.UNNAMED)
        if product != NONE:
            item = f"{rng.choice(('the', 'my', 'your'))} {product}"
        kinds = {"legal": ("refund", "defect", "delivery"), "safety": ("defect",)}
        kind = rng.choice(kinds.get(category, (category,)))
        main = [self._say(rng.choice(phrases.STORIES[kind]), item=item)]
        if category == "legal" or (category == "safety" and rng.random() < 0.3):
            main.append(self._say(rng.choice(phrases.LEGAL)))
        if category == "safety":
            main.append(self._say(rng.choice(phrases.SAFETY)))
        return main

    def _urgency(self, category: str) -> tuple[str, list[str]]:
        """The urgency, and the sentence that says so, if one does."""
        if category in ("legal", "safety"):
            return "high", []
        if category in ("question", "spam"):
            return "low", []
        urgency = self._rng.choices(("normal", "high", "low"), (50, 30, 20))[0]
        said = {"normal": (), "high": phrases.DEADLINES, "low": phrases.NO_HURRY}[urgency]
        return urgency, [self._say(self._rng.choice(said))] if said else []

    def _extras(self, category: str, tempo: list[str]) -> list[str]:
        """Whatever else people write: no label depends on it, but for the tempo's sentence."""
        if category == "spam":
            return []
        extras = list(tempo)
        if category != "question" and self._rng.random() < 0.5:
            extras.append(self._filled(self._rng.choice(phrases.DISTRACTORS)))
        if self._rng.random() < 0.35:
            extras.append(self._say(self._rng.choice(phrases.ASIDES)))
        if category != "question" and self._rng.random() < 0.25:
            extras.append(self._say(self._rng.choice(phrases.ANGER)))
        return extras

    def _filled(self, template: str) -> str:
        return self._say(
            template,
            digits=str(self._rng.randrange(1_000, 100_000)),
            other_order=self._write_order(self._other_order),
            other_amount=self._write_amount(f"{self._rng.randrange(4, 60)}.99"),
        )

    def _say(self, template: str, **slots: str) -> str:
        """Fill a template in; its own words get the typos, what is filled in does not."""
        words = [
            with_typo(word, self._noise) if self._noise.random() < self._typos else word
            for word in template.split(" ")
        ]
        said = " ".join(words).format(**slots)
        return said[:1].upper() + said[1:]

    def _write_order(self, order: str) -> str:
        number = order.removeprefix("SO-")
        forms = (order, f"#{number}", f"so{number}", f"SO {number}", number)
        return self._rng.choice(forms)

    def _write_amount(self, amount: str) -> str:
        short = amount.removesuffix(".00")
        return self._rng.choice((f"${short}", f"{short} dollars", f"USD {amount}", f"$ {amount}"))

    def _write_date(self, day: date) -> str:
        age, month = (self._today - day).days, phrases.MONTHS[day.month - 1]
        if age == 1:
            return "yesterday"
        if age % 7 == 0 and age < 56 and self._rng.random() < 0.5:
            return "a week ago" if age == 7 else f"{age // 7} weeks ago"
        forms = (
            f"on {day.day} {month}",
            f"on {month} {day.day}, {day.year}",
            f"on {day.isoformat()}",
            f"on {day.day} {month} {day.year}",
            f"{age} days ago",
        )
        return self._rng.choice(forms)
