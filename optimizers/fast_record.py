"""What a fast phase leaves for the tracker and the run directory: plain data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fst_agents.population import pruned_front
from fst_agents.types import Candidate, Population, Rollout
from optimizers.gepa_adapter import PhaseContext

FEEDBACK_SHOWN = 3
"""Feedback texts kept of each candidate, those of its lowest scores."""


@dataclass(frozen=True)
class CandidateRecord:
    """What became of one candidate in one phase.

    ``scores`` maps problem id → score as far as the candidate was run: a rejected proposal has
    those of its minibatch only. ``selected`` members are the next population.
    """

    id: str
    instructions: dict[str, str]
    parents: tuple[str, ...]
    carried_over: bool
    accepted: bool
    selected: bool
    scores: dict[str, float]
    feedback: tuple[str, ...]


@dataclass(frozen=True)
class PhaseRecord:
    """One fast phase. ``faults`` say why answers of the reflection model were dropped."""

    cycle: int
    policy_version: int
    stopped: str
    candidates: tuple[CandidateRecord, ...]
    faults: tuple[str, ...]
    metrics: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: strings, numbers, lists and dicts."""
        return json.loads(json.dumps(asdict(self)))

    def write(self, folder: Path) -> Path:
        """Write ``fast-<cycle>.json``, whole or not at all; returns its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"fast-{self.cycle:03d}.json"
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False), encoding="utf-8")
        return draft.replace(path)


def worst_feedback(rollouts: Iterable[Rollout]) -> tuple[str, ...]:
    """The feedback of the lowest scores, each text once."""
    scored = [(r.score, r.feedback.text) for r in rollouts if r.score is not None]
    texts = [text for _, text in sorted(scored, key=lambda pair: pair[0]) if text]
    return tuple(dict.fromkeys(texts))[:FEEDBACK_SHOWN]


def phase_metrics(phase: PhaseContext, pool: Population, evolved: Population) -> dict[str, float]:
    """Means are over the problems that all candidates of the pool share."""
    arena, reflection = phase.arena, phase.reflection
    proposals = len(arena.candidates) - len(phase.carried)
    accepted = len(reflection.pool) - len(phase.carried)
    return {
        "fast/rollouts": arena.spent,
        "fast/reused": arena.asked - arena.spent,
        "fast/unused_budget": arena.left,
        "fast/masked": arena.asked - sum(len(arena.scores(c)) for c in arena.candidates),
        "fast/proposals": proposals,
        "fast/accepted": accepted,
        "fast/rejected": proposals - accepted,
        "fast/reflection_calls": reflection.calls,
        "fast/invalid_proposals": reflection.invalid,
        "fast/duplicate_proposals": reflection.duplicates,
        "fast/front_size": len(pruned_front(pool.scores)),
        "fast/population": len(evolved.candidates),
        "fast/seed_mean": max(_mean(pool, c) for c in phase.carried),
        "fast/best_mean": _mean(evolved, evolved.best),
    }


def _mean(population: Population, candidate: Candidate) -> float:
    scores = population.scores[candidate.id]
    return sum(scores.values()) / len(scores)


def phase_record(
    phase: PhaseContext,
    pool: Sequence[Candidate],
    evolved: Population,
    metrics: Mapping[str, float],
    *,
    stopped: str,
) -> PhaseRecord:
    accepted = {c.id: c for c in dict.fromkeys(pool)}
    carried = {c.id for c in phase.carried}
    selected = {c.id for c in evolved.candidates}

    def record(candidate: Candidate) -> CandidateRecord:
        parent = phase.acceptance.parents.get(candidate.id)
        rejected_from = () if parent is None else (pool[parent].id,)
        known = accepted.get(candidate.id)
        return CandidateRecord(
            id=candidate.id,
            instructions=dict(candidate.instructions),
            parents=rejected_from if known is None else known.parents,
            carried_over=candidate.id in carried,
            accepted=known is not None,
            selected=candidate.id in selected,
            scores=phase.arena.scores(candidate.id),
            feedback=worst_feedback(phase.arena.rollouts(candidate.id)),
        )

    return PhaseRecord(
        cycle=phase.cycle,
        policy_version=phase.policy_version,
        stopped=stopped,
        candidates=tuple(record(c) for c in phase.arena.candidates.values()),
        faults=tuple(phase.reflection.faults),
        metrics=metrics,
    )
