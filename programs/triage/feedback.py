"""What the metric says of a run, predictor by predictor: expected, got, and the kind of mistake.

It quotes the customer and names the facts of the case, never a rule of the policy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from programs.triage import fields
from programs.triage.fields import FIELDS, NONE, same_value
from programs.triage.grading import Run
from programs.triage.policy import ACTIONS, CATEGORIES, URGENCIES

_NOT_CALLED: Final = "It was not called, since classify answered 'spam'."


def comment(run: Run, predictor: str | None = None) -> str:
    """Feedback on one predictor, or on the run: the first mistake, then each predictor."""
    if predictor in _COMMENTS:
        return _COMMENTS[predictor](run)
    wrong = [name for name, score in run.predictors.items() if score < 1.0]
    first = f"The first mistake is made by {wrong[0]}." if wrong else "Everything is right."
    return "\n".join([first, *(f"{name}: {say(run)}" for name, say in _COMMENTS.items())])


def on_classify(run: Run) -> str:
    """Category and urgency, each with the sentence that decides it."""
    said: list[str] = []
    if run.objectives["category"] < 1.0:
        said.append(
            _label(run, "category", CATEGORIES) + f', because of "{run.gold.category_because}"'
        )
    if run.objectives["urgency"] < 1.0:
        said.append(_label(run, "urgency", URGENCIES) + f", because {_tempo(run)}")
    right = [name for name in ("category", "urgency") if run.objectives[name] == 1.0]
    said += [f"{name} {run.expected(name)!r} is right" for name in right]
    return _sentences(said)


def on_extract(run: Run) -> str:
    """Every detail that is not as it should be; otherwise that all are."""
    if run.skipped:
        return _NOT_CALLED
    wrong = [_detail(run, name) for name in FIELDS if run.credit(name) < 1.0]
    return _sentences(wrong) if wrong else "All details are right."


def on_decide(run: Run) -> str:
    """Whether the action is right for what was handed over, and whether that was right."""
    if run.skipped:
        return _NOT_CALLED
    got, due, wanted = run.got("action"), run.due.action, run.expected("action")
    if got == due:
        said = [f"action {got!r} is right for what it was handed"]
    else:
        facts = run.due.facts(run.case)
        said = [
            f"action was {_quoted(got)}{_stranger(got, ACTIONS)}; the policy asks for {due!r} in "
            f"such a case ({facts})"
        ]
    if due != wanted:
        said.append(
            f"For the message as it is it would be {wanted!r}, but an earlier step read it wrongly"
        )
    return _sentences(said)


_COMMENTS: Final[dict[str | None, Callable[[Run], str]]] = {
    "classify": on_classify,
    "extract": on_extract,
    "decide": on_decide,
}


def _label(run: Run, name: str, known: tuple[str, ...]) -> str:
    got = run.got(name)
    return f"{name} was {_quoted(got)}{_stranger(got, known)}; expected {run.expected(name)!r}"


def _stranger(got: str, known: tuple[str, ...]) -> str:
    return "" if got in known else f", which is none of {', '.join(known)}"


def _tempo(run: Run) -> str:
    """Why the urgency is what it is, in terms of the message."""
    if run.gold.urgency_because:
        return f'of "{run.gold.urgency_because}"'
    if run.expected("urgency") == "low":
        return f"a message of category {run.expected('category')} can wait"
    return "the customer names no deadline, no danger, and does not say that it can wait"


def _detail(run: Run, name: str) -> str:
    expected, got = run.expected(name), run.got(name)
    what = f"{name} was {_quoted(got)}"
    if got == NONE:
        return f"{what}, but the message states it; expected {expected!r}"
    if expected == NONE:
        return (
            f"{what}, but the message does not state the {name} of this purchase; expected 'none'"
        )
    if same_value(name, expected, got):
        return f"{what}, which is the right value in the wrong form; expected {expected!r}"
    return f"{what}, which is wrong{_kind(run, name)}; expected {expected!r}"


def _kind(run: Run, name: str) -> str:
    """What kind of wrong value it is, where that can be said."""
    got = run.got(name)
    read = fields.read_date(got)
    right = fields.read_date(run.expected(name))
    if name == "date" and read is None:
        return " and cannot be read as a day"
    if name == "date" and read is not None and right is not None:
        off = abs((read - right).days)
        return f" by {off} day{'s' if off != 1 else ''}"
    if name == "order" and fields.read_order(got) is None:
        return " and is no order number"
    if name == "amount" and fields.read_amount(got) is None:
        return " and cannot be read as an amount"
    if got.casefold().removeprefix("so-") in run.gold.message.casefold():
        return ": that stands in the message, but for something else"
    return ""


def _quoted(got: str) -> str:
    return repr(got if len(got) <= 80 else got[:77] + "...")


def _sentences(parts: list[str]) -> str:
    stopped = (part if part.endswith(('."', '!"', '?"')) else f"{part}." for part in parts)
    return " ".join(part[:1].upper() + part[1:] for part in stopped)
