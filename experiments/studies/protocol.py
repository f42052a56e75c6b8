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

FEWEST_GROUPS = 5
"""Groups from which an interval says anything: a bootstrap resamples them first."""


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
        neutral: ... and its interval lies beyond this, the value of no effect; ``None`` where no
            effect is what another arm does, run by run: see :attr:`Answer.differences`. Where
            smaller is better, ``larger`` is false and all is meant the other way round.
    """

    finding: str
    question: str
    procedure: str
    paper: Mapping[str, Any]
    measure: str
    threshold: float
    neutral: float | None
    larger: bool = True


@dataclass(frozen=True)
class Answer:
    """What the records say.

    Attributes:
        groups: the values that the estimate is made of, those of one target (or as many as the
            protocol says are drawn together) in one group.
        words: one sentence of figures.
        differences: to the arm that stands for no effect, positive where FST is better; in groups
            as above.
        targets: how many targets the values are of, where that is not the number of groups.
        more: what else was measured.
    """

    groups: Sequence[Sequence[float]]
    words: str
    grid: Grid
    figures: tuple[Figure, ...] = ()
    statistic: Statistic | None = None
    differences: Sequence[Sequence[float]] = ()
    targets: int | None = None
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
    """An answer with its interval and what follows from it; ``difference`` is that to the arm that
    stands for no effect, where one does."""

    estimate: Estimate | None
    verdict: Verdict
    difference: Estimate | None = None


def judge(protocol: Protocol, answer: Answer, failed: int) -> Judgement:
    """The estimate, and whether the finding holds.

    It holds if the estimate reaches the threshold and the interval lies beyond no effect: that of
    the estimate, or of the differences to the arm that stands for it. It holds weakly if only one
    of the two is so, the second by the mean alone, or if there are fewer than
    :data:`FEWEST_GROUPS` groups, whose interval would be too narrow. With a failed cell among those
    that the study needs, or without a single value, it cannot be told.
    """
    groups = [group for group in answer.groups if group]
    if not groups:
        return Judgement(None, "cannot be told")
    estimate = bootstrap(groups, answer.statistic)
    pairs = [group for group in answer.differences if group]
    difference = bootstrap(pairs) if pairs else None
    if failed or (protocol.neutral is None and difference is None):
        return Judgement(estimate, "cannot be told", difference)
    sign = 1 if protocol.larger else -1
    if protocol.neutral is None and difference is not None:
        mean, worst = difference.mean, difference.low
    else:
        bound = estimate.low if protocol.larger else estimate.high
        mean, worst = (sign * (v - (protocol.neutral or 0.0)) for v in (estimate.mean, bound))
    reached = sign * estimate.mean >= sign * protocol.threshold
    if reached and worst > 0 and len(groups) >= FEWEST_GROUPS:
        return Judgement(estimate, "holds", difference)
    return Judgement(
        estimate, "holds weakly" if reached or mean > 0 else "does not hold", difference
    )
