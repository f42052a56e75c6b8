"""The fast optimizer: one ``gepa.optimize`` call per cycle evolves Φ under fixed θ.

Each phase starts from the whole population, re-scored under the current weights, and ends with
K diverse members (:func:`fst_agents.population.diverse_top_k`; arXiv 2605.12484, Algorithm 1).
gepa takes one seed, so :class:`Guard` adds the other members to its live state before the first
iteration; nothing is written for that, pickled or restored.

What differs from gepa: (1) the budget is exact, gepa's own overshoots by an iteration; (2) what
was paid for once in a phase is never paid for again, so a parent's minibatch is free and an
accepted child costs exactly the anchor set; (3) a problem whose rollout is masked for a candidate
is left out of the comparison instead of counting as 0; (4) a failing reflection model is an error.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gepa.api import optimize
from gepa.core.state import ValsetEvaluation
from gepa.proposer.reflective_mutation.base import ReflectionComponentSelector
from gepa.strategies.component_selector import RoundRobinReflectionComponentSelector

from fst_agents.config import FastConfig
from fst_agents.errors import ServingError
from fst_agents.population import diverse_top_k, shared_scores
from fst_agents.types import Candidate, Population, Problem, StepReport
from optimizers.acceptance import PairedAcceptance, State
from optimizers.fast_phase import Arena, check_request, score_anchor
from optimizers.fast_record import PhaseRecord, phase_metrics, phase_record
from optimizers.gepa_adapter import (
    ArenaAdapter,
    GuardedReflection,
    PhaseContext,
    gepa_score,
)
from optimizers.protocols import Evaluate

IDLE_LIMIT = 1000
"""Iterations in a row without a reflection (every minibatch was perfect) that end a phase."""


class Guard:
    """gepa's stop callback: it sees the live state at the top of every iteration.

    ``pool`` holds the accepted candidates by gepa's index, ``stopped`` why the phase ended.
    """

    def __init__(self, phase: PhaseContext, perfect: float) -> None:
        self.pool: list[Candidate] = []
        self.stopped = ""
        self._phase = phase
        self._perfect = perfect
        self._solved = False
        self._calls_seen, self._call_iteration = 0, 0

    def __call__(self, gepa_state: State) -> bool:
        if not self.pool:
            self._start(gepa_state)
        for index in range(len(self.pool), len(gepa_state.program_candidates)):
            self._adopt(gepa_state, index)
        self._phase.reflection.raise_if_broken()
        self.stopped = self._reason(gepa_state.i)
        return bool(self.stopped)

    def _start(self, state: State) -> None:
        """Put the other carried-over candidates beside the seed, which is the first of them."""
        phase = self._phase
        for candidate in phase.carried[1:]:
            scores = phase.anchor_scores(candidate)
            row = {i: gepa_score(scores[p.id]) for i, p in enumerate(phase.anchor)}
            texts = dict(candidate.instructions)
            state.update_state_with_new_program([], texts, ValsetEvaluation({}, row), None, 0)
        # Round robin goes on where the last cycle's would have: a phase may afford few proposals.
        state.list_of_named_predictors = list(phase.components)
        turns = [phase.cycle % len(phase.components)] * len(phase.carried)
        state.named_predictor_id_to_update_next_for_program_candidate = turns
        for candidate in phase.carried:
            self._enter(candidate)

    def _adopt(self, state: State, index: int) -> None:
        """A child was accepted; its masked problems leave its scores in gepa's state."""
        row = state.prog_candidate_val_subscores[index]
        for problem in [i for i, score in row.items() if math.isnan(score)]:
            del row[problem]
        parents = state.parent_program_for_candidate[index]
        ids = tuple(self.pool[p].id for p in parents if p is not None)
        self._enter(Candidate(state.program_candidates[index], ids))

    def _enter(self, candidate: Candidate) -> None:
        self.pool.append(candidate)
        self._phase.reflection.pool.add(candidate.id)
        scores = self._phase.anchor_scores(candidate).values()
        self._solved |= self._phase.judged(candidate) and min(scores) >= self._perfect

    def _reason(self, iteration: int) -> str:
        """Why no further iteration may start, empty if one may."""
        phase = self._phase
        if phase.reflection.calls > self._calls_seen:
            self._calls_seen, self._call_iteration = phase.reflection.calls, iteration
        if self._solved:
            return "solved"
        if phase.arena.left < len(phase.anchor):
            return "budget"
        if phase.reflection.exhausted:
            return "no usable proposal"
        return "idle" if iteration - self._call_iteration >= IDLE_LIMIT else ""


class GepaFast:
    """``FastOptimizer`` on gepa. One object serves a whole run; of its phases it keeps the last."""

    def __init__(
        self,
        config: FastConfig,
        reflection: Callable[[str], str],
        seed: int = 0,
        log_folder: Path | None = None,
        *,
        components: Sequence[str] | None = None,
        perfect_score: float = 1.0,
        proven: bool = False,
    ) -> None:
        """``components``: predictors that may be rewritten, all by default.

        ``perfect_score``: a phase is over once a candidate reaches it on every problem.
        ``log_folder`` receives one JSON file per phase.
        ``proven``: the reflection model has answered before, so that one failure is no reason to
        stop.
        """
        self._config = config
        self._reflect = reflection
        self._seed = seed
        self._log_folder = log_folder
        self._components = components
        self._perfect = perfect_score
        self._proven = proven
        self._last: PhaseRecord | None = None

    @property
    def record(self) -> PhaseRecord:
        """What happened in the last phase.

        Raises:
            RuntimeError: there has been none.
        """
        if self._last is None:
            raise RuntimeError("no fast phase has been run yet; call evolve first")
        return self._last

    def evolve(
        self,
        population: Population,
        problems: Sequence[Problem],
        evaluate: Evaluate,
        *,
        rollouts: int,
        policy_version: int,
        cycle: int,
    ) -> tuple[Population, StepReport]:
        """One phase. Never pays for more than ``rollouts``; what is left over is reported.

        An iteration starts only while its dearest outcome (an accepted child: one rollout per
        problem) can still be paid for. Members of the returned population are scored on the
        problems that all candidates of the phase were scored on.

        Raises:
            ConfigError: the budget cannot re-score the population, or names do not match.
            ReflectionError: the reflection model failed (at once, or several times in a row).
            ServingError: masked rollouts leave no problem to compare candidates on.
        """
        started = time.monotonic()
        check_request(population, problems, rollouts, self._components)
        arena = Arena(evaluate, rollouts, self._perfect)
        phase = PhaseContext(
            cycle=cycle,
            policy_version=policy_version,
            carried=population.candidates,
            anchor=score_anchor(population.candidates, problems, arena),
            components=self._may_evolve(population),
            arena=arena,
            reflection=GuardedReflection(self._reflect, proven=self._proven),
            acceptance=PairedAcceptance(self._config.acceptance),
        )
        guard = Guard(phase, self._perfect)
        self._run_gepa(phase, guard)
        self._proven = phase.reflection.proven
        pool = _comparable(phase, guard.pool)
        members = diverse_top_k(pool, self._config.population)
        evolved = Population(members, {c.id: pool.scores[c.id] for c in members}, policy_version)
        metrics = phase_metrics(phase, pool, evolved)
        metrics["fast/seconds"] = time.monotonic() - started
        self._record(phase_record(phase, guard.pool, evolved, metrics, stopped=guard.stopped))
        return evolved, StepReport(cycle, metrics)

    def _run_gepa(self, phase: PhaseContext, guard: Guard) -> None:
        optimize(
            seed_candidate=dict(phase.carried[0].instructions),
            trainset=list(phase.anchor),
            adapter=ArenaAdapter(phase.arena),
            reflection_strategy=phase.reflection,
            reflection_minibatch_size=min(self._config.minibatch, len(phase.anchor)),
            perfect_score=self._perfect,
            module_selector=_selector(self._config.components, phase.components),
            use_merge=self._config.merge,
            acceptance_criterion=phase.acceptance,
            stop_callbacks=guard,
            logger=_Log(),
            track_best_outputs=False,
            seed=random.Random(f"{self._seed}/{phase.cycle}").getrandbits(32),
        )

    def _may_evolve(self, population: Population) -> tuple[str, ...]:
        names = population.candidates[0].instructions
        return tuple(names if self._components is None else self._components)

    def _record(self, record: PhaseRecord) -> None:
        self._last = record
        if self._log_folder is not None:
            record.write(self._log_folder)


def _selector(kind: str, components: Sequence[str]) -> ReflectionComponentSelector:
    """gepa's round robin goes over ``state.list_of_named_predictors``, which the guard sets."""
    if kind == "round_robin":
        return RoundRobinReflectionComponentSelector()

    def every(
        state: State,
        trajectories: list[Any],
        subsample_scores: list[float],
        candidate_idx: int,
        candidate: dict[str, str],
    ) -> list[str]:
        return list(components)

    return every


class _Log:
    """gepa's logger. Without one gepa prints, or even replaces ``sys.stdout``."""

    def log(self, message: str) -> None:
        logging.getLogger(__name__).debug(message)


def _comparable(phase: PhaseContext, pool: Sequence[Candidate]) -> Population:
    """The judged candidates under the scores of the problems they all share."""
    # A merge may rebuild what is there: Candidates are equal by content, the first one stays.
    judged = tuple(c for c in dict.fromkeys(pool) if phase.judged(c))
    scores = shared_scores({c.id: phase.anchor_scores(c) for c in judged})
    if not scores[judged[0].id]:
        raise ServingError(
            f"no problem of {len(phase.anchor)} could be scored for all {len(judged)} candidates "
            "of the phase: too many rollouts were masked"
        )
    return Population(judged, scores, phase.policy_version)
