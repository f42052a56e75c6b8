"""What a study is: a question, a protocol fixed beforehand, and how its answer is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from experiments.studies.cells import Cell, Record
from experiments.studies.grid import Records
from experiments.studies.inference import Estimate, Statistic, bootstrap
from experiments.studies.page import Figure, Grid
from experiments.studies.scope import Scope

Verdict = Literal["holds", "holds weakly", "does not hold", "cannot be told"]


@dataclass(frozen=True)
class Protocol:
    """Fixed before any cell is run.

    Attributes:
        finding: the paper's number of it, ``F1`` to ``F10``.
        question: what is asked, in one sentence.
        procedure: what is run and what is measured.
        paper: the paper's figures, as they are printed.
        measure: what the estimate is, with its unit.
        threshold: the finding holds if the estimate is at least this ...
        neutral: ... and weakly if it is better than this: the value of no effect. Where smaller is
            better, ``larger`` is false and both are meant the other way round.
    """

    finding: str
    question: str
    procedure: str
    paper: Mapping[str, Any]
    measure: str
    threshold: float
    neutral: float
    larger: bool = True


@dataclass(frozen=True)
class Answer:
    """What the records say.

    ``groups`` has the values that the estimate is made of, those of one target together.
    ``words`` is one sentence of figures, ``cost`` what else it took or brought.
    """

    groups: Sequence[Sequence[float]]
    words: str
    grid: Grid
    figures: tuple[Figure, ...] = ()
    statistic: Statistic | None = None
    neutral: float | None = None
    more: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Study:
    """One question. ``cells`` says what must be run for a scope, ``answer`` reads the records."""

    name: str
    protocol: Protocol
    cells: Callable[[Scope], Sequence[Cell]]
    answer: Callable[[Scope, Lookup], Answer]


@dataclass(frozen=True)
class Lookup:
    """Records by cell; a failed one is ``None``, so that nothing can average it away unseen."""

    records: Records

    def __call__(self, cell: Cell) -> Record | None:
        record = self.records[cell.key]
        return record if record.ok else None


@dataclass(frozen=True)
class Judgement:
    """An answer with its interval and what follows from it."""

    estimate: Estimate | None
    verdict: Verdict


def judge(protocol: Protocol, answer: Answer, failed: int) -> Judgement:
    """The estimate, and whether the finding holds.

    It holds if the estimate reaches the threshold and its interval lies on the right side of no
    effect; weakly if only the estimate does. One value alone has no interval, so it can at most
    hold weakly. With a failed cell among those that the study needs, or without a single value, it
    cannot be told.
    """
    groups = [group for group in answer.groups if group]
    if not groups:
        return Judgement(None, "cannot be told")
    estimate = bootstrap(groups, answer.statistic)
    if failed:
        return Judgement(estimate, "cannot be told")
    neutral = protocol.neutral if answer.neutral is None else answer.neutral
    sign = 1 if protocol.larger else -1
    worst = estimate.low if protocol.larger else estimate.high
    reached = sign * estimate.mean >= sign * protocol.threshold
    # A threshold may lie on the near side of no effect ("at most 2 points lost").
    beyond = min(sign * neutral, sign * protocol.threshold)
    if reached and sign * worst >= beyond and sum(map(len, groups)) > 1:
        return Judgement(estimate, "holds")
    if reached or sign * estimate.mean > sign * neutral:
        return Judgement(estimate, "holds weakly")
    return Judgement(estimate, "does not hold")
