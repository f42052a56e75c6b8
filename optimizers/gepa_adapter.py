"""The seam to gepa 0.1: problems and rollouts in, gepa's batches and reflective datasets out.

gepa owns the loop, the choice of parents and minibatches, and the reflection prompt; the
:class:`~optimizers.fast_phase.Arena` owns the rollouts and the budget. Scores reach gepa as
floats; a rollout without a score is :data:`UNSCORED` there, and each place that compares leaves
that problem out.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gepa.core.adapter import EvaluationBatch, ProposalFn
from gepa.proposer.reflective_mutation.reflection_lm import (
    ReflectionProposal,
    StatelessReflectionLM,
)

from fst_agents.errors import ReflectionError, RunDirError
from fst_agents.outcomes import fields_read
from fst_agents.types import Call, Candidate, Outcome, Problem, Rollout
from optimizers.acceptance import PairedAcceptance
from optimizers.fast_phase import Arena
from optimizers.reflection import answer_fault

Batch = EvaluationBatch[Rollout, Rollout]
Record = dict[str, Any]

UNSCORED = math.nan
"""What gepa gets for a masked rollout: it wins no comparison and enters no front."""

LIFT = 2.0**-30
"""Added to every score gepa sees: its merge draws a common ancestor with the mean scores as
weights and fails where all are 0. A power of two, so that sums of scores keep their order."""

CALLS_SHOWN = 3
"""The reflection model sees at most this many calls of a predictor per rollout, the last ones."""


def gepa_score(score: float | None) -> float:
    return UNSCORED if score is None else score + LIFT


class ArenaAdapter:
    """gepa's ``GEPAAdapter`` over an :class:`Arena`. Rollouts are outputs and trajectories."""

    propose_new_texts: ProposalFn | None = None

    def __init__(self, arena: Arena) -> None:
        self._arena = arena

    def evaluate(
        self, batch: list[Problem], candidate: dict[str, str], capture_traces: bool = False
    ) -> Batch:
        rollouts = self._arena.ask(Candidate(candidate), batch)
        scores = [gepa_score(r.score) for r in rollouts]
        return EvaluationBatch(rollouts, scores, rollouts if capture_traces else None)

    def batch_evaluate(self, items: list[tuple[dict[str, str], list[Problem]]]) -> list[Batch]:
        return [self.evaluate(batch, candidate, True) for candidate, batch in items]

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: Batch, components_to_update: list[str]
    ) -> dict[str, list[Record]]:
        rollouts = eval_batch.trajectories or []
        return {name: reflective_records(name, rollouts) for name in components_to_update}


def reflective_records(predictor: str, rollouts: Sequence[Rollout]) -> list[Record]:
    """What the reflection model is shown of one predictor, in gepa's recommended shape.

    One record per call of that predictor, the last :data:`CALLS_SHOWN` calls of each rollout.
    Rollouts without a score are left out: their fault is not the instruction's.
    """
    return [
        _record(rollout, call)
        for rollout in rollouts
        if rollout.score is not None
        for call in [c for c in rollout.calls if c.predictor == predictor][-CALLS_SHOWN:]
    ]


def _record(rollout: Rollout, call: Call) -> Record:
    outputs = call.text if call.outputs is None else _texts(call.outputs)
    return {
        "Inputs": _texts(call.inputs),
        "Generated Outputs": outputs,
        "Feedback": feedback_text(rollout, call),
    }


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items()}


def feedback_text(rollout: Rollout, call: Call) -> str:
    """The metric's words on this predictor, else on the program, and how the call failed."""
    feedback = rollout.feedback
    words = [feedback.predictor_text.get(call.predictor, feedback.text)]
    if not call.parsed:
        words.append("The output could not be parsed into the fields that were asked for.")
        fields = fields_read(call)
        if fields not in words[0]:  # the feedback of a failed rollout says it already
            words[-1] += fields
    if call.truncated:
        words.append(f"The output was cut off after {len(call.completion_ids)} tokens.")
    if rollout.outcome is Outcome.PROGRAM_ERROR:
        words.append(f"The program failed: {rollout.error}")
    said = [w for w in words if w.strip()]
    return "\n".join(said) if said else f"The score of this output is {rollout.score}."


class GuardedReflection:
    """gepa's own reflection (its prompt, its parsing), counted, checked and never silent.

    gepa swallows what a reflection model raises and pays for whatever text comes back. Here a
    failure is kept for :meth:`raise_if_broken`, and a text that cannot help (no fenced block,
    empty, unchanged, too long, or already in the pool) is dropped before it costs a rollout.
    """

    FAILURES = 3
    """Failures in a row that end the phase; until the model has answered once, the first does."""
    FRUITLESS = 8
    """Reflections in a row without a usable new text that end the phase."""
    TRIES = 3
    """Times the same new candidate may be tried on a minibatch."""

    def __init__(self, call: Callable[[str], str], *, proven: bool = False) -> None:
        """``proven``: the model has answered in an earlier phase."""
        self._call = call
        self._gepa = StatelessReflectionLM(self._ask)
        self.proven = proven
        self.pool: set[str] = set()
        """Ids of the candidates there are; the owner of the phase adds to it."""
        self.calls = 0
        self.invalid = 0
        self.duplicates = 0
        self.faults: list[str] = []
        """Why answers were dropped, in order."""
        self._tries: Counter[str] = Counter()
        self._failures: list[Exception] = []
        self._fruitless = 0

    @property
    def exhausted(self) -> bool:
        return self._fruitless >= self.FRUITLESS

    def raise_if_broken(self) -> None:
        """Raises :class:`ReflectionError` from the last failure once there are too many; a
        :class:`RunDirError`, which is not the model's fault, at once."""
        if self._failures and isinstance(self._failures[-1], RunDirError):
            raise self._failures[-1]
        allowed = self.FAILURES if self.proven else 1
        if len(self._failures) >= allowed:
            error = self._failures[-1]
            if isinstance(error, ReflectionError):
                raise error
            raise ReflectionError(
                f"the reflection model failed {len(self._failures)} time(s) in a row, last with "
                f"{type(error).__name__}: {error}; check its name, key and address"
            ) from error

    def reflect(
        self,
        candidate: dict[str, str],
        reflective_dataset: Mapping[str, Sequence[Mapping[str, Any]]],
        components_to_update: list[str],
    ) -> tuple[ReflectionProposal, GuardedReflection]:
        """gepa's ``ReflectionLM``: new texts for the components, the useless ones left out."""
        try:
            proposal, _ = self._gepa.reflect(candidate, reflective_dataset, components_to_update)
        except Exception as error:  # noqa: BLE001 - foreign code; raise_if_broken decides
            self._failures.append(error)
            return ReflectionProposal({}), self
        self._failures.clear()
        texts = self._usable(candidate, proposal)
        asked = bool(proposal.new_texts)
        self._fruitless = 0 if texts else self._fruitless + asked
        return dataclasses.replace(proposal, new_texts=texts), self

    def _ask(self, prompt: str | list[dict[str, Any]]) -> str:
        self.calls += 1
        answer: Any = self._call(str(prompt))
        if not isinstance(answer, str):
            raise ReflectionError(
                f"the reflection model must return a str, got {type(answer).__name__}"
            )
        self.proven = True
        return answer

    def _usable(self, candidate: dict[str, str], proposal: ReflectionProposal) -> dict[str, str]:
        texts: dict[str, str] = {}
        for name, text in proposal.new_texts.items():
            fault = answer_fault(proposal.raw_lm_outputs[name], text, candidate[name])
            if fault is None:
                texts[name] = text
            else:
                self.invalid += 1
                self.faults.append(f"{name}: {fault}")
        return texts if texts and self._new(Candidate({**candidate, **texts}).id) else {}

    def _new(self, candidate_id: str) -> bool:
        self._tries[candidate_id] += 1
        if candidate_id not in self.pool and self._tries[candidate_id] <= self.TRIES:
            return True
        self.duplicates += 1
        self.faults.append(f"candidate {candidate_id} is in the pool or was tried before")
        return False


@dataclasses.dataclass(frozen=True)
class PhaseContext:
    """What one phase works on. ``anchor``: the problems scored for every carried-over member."""

    cycle: int
    policy_version: int
    carried: tuple[Candidate, ...]
    anchor: tuple[Problem, ...]
    components: tuple[str, ...]
    arena: Arena
    reflection: GuardedReflection
    acceptance: PairedAcceptance

    def anchor_scores(self, candidate: Candidate) -> dict[str, float]:
        """Problem id → score on the anchor set, masked problems left out."""
        scores = self.arena.scores(candidate.id)
        return {p.id: scores[p.id] for p in self.anchor if p.id in scores}

    def judged(self, candidate: Candidate) -> bool:
        """Whether at least half of the anchor set could be scored for a candidate."""
        return 2 * len(self.anchor_scores(candidate)) >= len(self.anchor)
