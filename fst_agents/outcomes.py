"""Score or mask: what a finished run of a program counts as (docs/outcomes.md). Pure.

A failure is attributed once, to the boundary it crossed: the policy's own fault, the program's, or
the infrastructure's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from dspy.utils.exceptions import AdapterParseError

from fst_agents.dspy_recorder import RolloutTimeout
from fst_agents.errors import ProgramError, ServingError
from fst_agents.types import Call, Feedback, Outcome


@dataclass(frozen=True)
class FailureScores:
    """What a rollout scores that failed by the policy's fault.

    ``failure`` in any case; on top, where some fields of the answer could be read, ``partial``
    times their share of the fields that were asked for.
    """

    failure: float = 0.0
    partial: float = 0.0

    def of(self, call: Call | None) -> float:
        """The score, ``call`` being the one whose answer could not be read, if there is one."""
        if call is None or not call.partial:
            return self.failure
        share = len(call.partial) / (len(call.partial) + len(call.missing))
        return self.failure + self.partial * share


def judge(
    error: Exception | None,
    calls: Sequence[Call],
    failures: Sequence[Exception],
    unanswered: int,
) -> tuple[Outcome, Exception | None]:
    """How a run ended, and the error that says so.

    Args:
        error: what the program raised, if anything.
        failures: what requests to the policy's host or to a fixed model failed with; they count
            even where the program has swallowed their exception.
        unanswered: requests to the policy that did not come back before the program returned.

    Raises:
        ProgramError: the fault is the set-up's, not this rollout's.
    """
    raised = [] if error is None else _causes(error)
    for cause in [c for failure in failures for c in _causes(failure)] + raised:
        if isinstance(cause, ProgramError):
            raise cause
        if isinstance(cause, RolloutTimeout):
            return Outcome.TIMEOUT, cause
        if isinstance(cause, ServingError):
            return Outcome.INFRA_ERROR, cause
    if error is None:
        if unanswered:
            raise ProgramError(
                f"{unanswered} request(s) to the policy came back outside the rollout: "
                "the program returned while its own threads were still calling"
            )
        return Outcome.OK, None
    if calls and any(isinstance(cause, AdapterParseError) for cause in raised):
        cut = last_unread(calls).truncated
        return (Outcome.TRUNCATED if cut else Outcome.PARSE_FAILURE), error
    return Outcome.PROGRAM_ERROR, error


def failure_feedback(
    outcome: Outcome, error: Exception | None, calls: Sequence[Call], scores: FailureScores
) -> Feedback:
    """The score of a failure, and words about it: the reflection model can mend a format."""
    failed = last_unread(calls) if calls else None
    score = scores.failure if outcome is Outcome.PROGRAM_ERROR else scores.of(failed)
    said = failed.text if failed else ""
    read = fields_read(failed) if failed else ""
    texts = {
        Outcome.PARSE_FAILURE: "The answer could not be read in the expected format: "
        f"{said!r}.{read}",
        Outcome.TRUNCATED: f"The answer was cut off at the token limit: {said!r}.{read}",
        Outcome.PROGRAM_ERROR: f"The program failed: {error}",
    }
    text = texts[outcome]
    return Feedback(score, text, predictor_text={failed.predictor: text} if failed else {})


def fields_read(call: Call) -> str:
    """A sentence, with a space before it, on the fields of an unreadable answer; or nothing."""
    if not call.missing:
        return ""
    lost = ", ".join(map(repr, call.missing))
    if not call.partial:
        return f" Missing or unreadable: {lost}."
    return f" Could be read: {', '.join(map(repr, call.partial))}; missing or unreadable: {lost}."


def last_unread(calls: Sequence[Call]) -> Call:
    """The call whose completion the adapter could not read; others may have been made since."""
    return next((call for call in reversed(calls) if not call.parsed), calls[-1])


def _causes(error: BaseException) -> list[BaseException]:
    """An error, what it groups (asyncio.TaskGroup raises so), and what they come from."""
    found: list[BaseException] = []
    ahead: list[BaseException | None] = [error]
    while ahead:
        current = ahead.pop()
        if current is None or any(current is other for other in found):
            continue
        found.append(current)
        ahead.append(current.__cause__ or current.__context__)
        if isinstance(current, BaseExceptionGroup):
            group = cast("BaseExceptionGroup[BaseException]", current)
            ahead += reversed(group.exceptions)
    return found
