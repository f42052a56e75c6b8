"""The rollouts of one fast phase: asked for once, counted, checked. No gepa here."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fst_agents.bridge_report import FLAT_SPREAD
from fst_agents.errors import ConfigError, ProgramError, ServingError
from fst_agents.types import Candidate, Population, Problem, Rollout
from optimizers.protocols import Evaluate


class Arena:
    """All rollouts of one phase, one per (candidate, problem), and what they cost."""

    def __init__(self, evaluate: Evaluate, budget: int, best: float) -> None:
        """``budget`` counts rollouts that ``evaluate`` may charge from now on. ``best``: the
        score of a problem that is solved; by it a phase knows where there is nothing to mend."""
        self._evaluate = evaluate
        self._best = best
        self._budget = budget
        self._before = evaluate.spent()
        self.candidates: dict[str, Candidate] = {}
        """Every candidate that has run in this phase, in order of appearance."""
        self._rollouts: dict[str, dict[str, Rollout]] = {}

    def ask(self, candidate: Candidate, problems: Sequence[Problem]) -> list[Rollout]:
        """One rollout per problem, in order; each is asked of ``evaluate`` once.

        Raises:
            ProgramError: the answer is not one finite or absent score for each problem.
            ConfigError: a score lies above the best one.
        """
        self.candidates.setdefault(candidate.id, candidate)
        known = self._rollouts.setdefault(candidate.id, {})
        missing = list({p.id: p for p in problems if p.id not in known}.values())
        if missing:
            rollouts = self._evaluate(candidate, missing)
            _check(candidate, missing, rollouts)
            refuse_above(self._best, [r.score for r in rollouts if r.score is not None])
            known.update({r.problem_id: r for r in rollouts})
        return [known[p.id] for p in problems]

    def rollouts(self, candidate_id: str) -> list[Rollout]:
        return list(self._rollouts[candidate_id].values())

    def scores(self, candidate_id: str) -> dict[str, float]:
        """Problem id → score, masked rollouts left out."""
        return {r.problem_id: r.score for r in self.rollouts(candidate_id) if r.score is not None}

    @property
    def asked(self) -> int:
        """Distinct rollouts used in this phase, paid for or reused."""
        return sum(len(known) for known in self._rollouts.values())

    @property
    def spent(self) -> int:
        return self._evaluate.spent() - self._before

    @property
    def left(self) -> int:
        return self._budget - self.spent


def refuse_above(best: float, scores: Sequence[float]) -> None:
    """Refuse scores above that of a solved problem: nobody could say what is left to learn."""
    if scores and max(scores) > best + FLAT_SPREAD:
        raise ConfigError(
            f"task.score_range: a score of {max(scores):g} is above that of a solved problem, "
            f"{best:g}; set it to [least, most] of the metric"
        )


def _check(candidate: Candidate, problems: Sequence[Problem], rollouts: Sequence[Rollout]) -> None:
    asked = [(p.id, candidate.id) for p in problems]
    got = [(r.problem_id, r.candidate_id) for r in rollouts]
    if got != asked:
        raise ProgramError(
            f"evaluate was asked for {len(asked)} rollouts (problem, candidate) {asked[:3]}…, "
            f"answered {len(got)}: {got[:3]}…; one per problem, in order, is expected"
        )
    wrong = [r.problem_id for r in rollouts if r.score is not None and not math.isfinite(r.score)]
    if wrong:
        raise ProgramError(
            f"candidate {candidate.id}: the score of problem(s) {wrong} is not a finite number; "
            "a metric returns a finite score, or none where it cannot tell"
        )


def check_request(
    population: Population,
    problems: Sequence[Problem],
    rollouts: int,
    components: Sequence[str] | None,
) -> None:
    """Refuse, before a rollout is paid for, what cannot work; all faults at once.

    The price of re-scoring is the full one, whatever a ledger may turn out to know.
    """
    faults: list[str] = []
    names = list(population.candidates[0].instructions)
    unknown = sorted(set(components or ()) - set(names))
    if unknown or (components is not None and not components):
        faults.append(f"components: expected some of {names}, got {list(components or ())}")
    if not problems:
        faults.append("the fast phase needs at least one problem, got none")
    if len({p.id for p in problems}) < len(problems):
        faults.append("the fast phase needs problems with distinct ids")
    members, needed = len(population.candidates), len(population.candidates) * len(problems)
    if rollouts < needed:
        faults.append(
            f"fast.rollouts: re-scoring {members} candidate(s) on {len(problems)} problems takes "
            f"{needed} rollouts, got {rollouts}; raise it, or lower fast.population, "
            "slow.batch_size or slow.steps_per_cycle"
        )
    if faults:
        raise ConfigError(faults)


def score_anchor(
    carried: Sequence[Candidate], problems: Sequence[Problem], arena: Arena
) -> tuple[Problem, ...]:
    """Re-score the population; what is left are the problems scored for every member."""
    for candidate in carried:
        arena.ask(candidate, problems)
    scored = set[str]({p.id for p in problems}).intersection(
        *(arena.scores(candidate.id) for candidate in carried)
    )
    if not scored:
        raise ServingError(
            f"no problem of {len(problems)} could be scored for all {len(carried)} candidate(s): "
            "too many rollouts were masked (time-outs, a dead host, a failing metric)"
        )
    return tuple(p for p in problems if p.id in scored)
