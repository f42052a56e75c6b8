"""The 2×2: {base, trained} weights × {seed, evolved} instructions, with intervals, and retention.

The protocol is the paper's (arXiv 2605.12484, F4 and F8): mean@n on held-out problems; other
skills under their own instruction before and after.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from fst_agents.errors import ServingError
from fst_agents.rollouts import Runner
from fst_agents.types import Candidate, Policy, Problem, Rollout, Sampling, Skill
from optimizers.protocols import SlowOptimizer

CELLS = ("base_seed", "base_evolved", "trained_seed", "trained_evolved")
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Score:
    """A mean and its 95 % interval, by bootstrap over problems."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an arm reached. Cells and retentions that an arm does not have are ``None``."""

    cells: Mapping[str, Score | None]
    retention: Mapping[str, Score | None]
    rollouts: int
    sequences: Sequence[Rollout]
    """Rollouts of the cell that ships: what the KL to the base is measured on."""


class Evaluator:
    """Runs cells on one host, switching its weights as asked."""

    def __init__(
        self, runner: Runner, problems: Sequence[Problem], samples: int, sampling: Sampling
    ) -> None:
        self._runner = runner
        self._problems = problems
        self._samples = samples
        self._sampling = sampling
        self.rollouts = 0

    def cell(self, candidate: Candidate) -> tuple[Score, list[Rollout]]:
        """Mean@n of one candidate under the weights now served."""
        rollouts = self._collect([(p, candidate) for p in self._problems for _ in self._each])
        return interval(by_problem(rollouts)), rollouts

    def retention(self, skills: Sequence[Skill]) -> Score | None:
        """Mean over all skills' problems, each under its own instruction."""
        if not skills:
            return None
        rollouts = self._collect([(p, s.candidate) for s in skills for p in s.problems])
        return interval(by_problem(rollouts))

    @property
    def _each(self) -> range:
        return range(self._samples)

    def _collect(self, jobs: list[tuple[Problem, Candidate]]) -> list[Rollout]:
        self.rollouts += len(jobs)
        return self._runner.collect(jobs, self._sampling, label="evaluation")


def evaluate_run(
    evaluator: Evaluator,
    runner: Runner,
    *,
    seed: Candidate,
    champion: Candidate | None,
    base: Policy,
    trained: Policy | None,
    skills: Sequence[Skill] = (),
    ships: str,
) -> Evaluation:
    """Evaluate what an arm has: no evolved cells without a champion, no trained without weights.

    ``ships`` is the cell whose rollouts are kept. The host serves the trained weights again when
    this returns.
    """
    cells: dict[str, Score | None] = dict.fromkeys(CELLS)
    kept: dict[str, Score | None] = {"base": None, "final": None}
    drawn: dict[str, list[Rollout]] = {}
    for name, policy in (("base", base), ("trained", trained)):
        if policy is None:
            continue
        if runner.host.policy != policy:
            runner.host.update(policy)
        cell = f"{name}_seed"
        cells[cell], drawn[cell] = evaluator.cell(seed)
        if champion is not None:
            cell = f"{name}_evolved"
            cells[cell], drawn[cell] = evaluator.cell(champion)
        kept["base" if name == "base" else "final"] = evaluator.retention(skills)
    if trained is None:
        kept["final"] = kept["base"]
    return Evaluation(cells, kept, evaluator.rollouts, drawn[ships])


@dataclass(frozen=True, slots=True)
class Validation:
    """Asks held-out problems on the way, which neither learns nor chooses by the answers.

    Every validation asks the same problems and draws its own answers.
    """

    runner: Runner
    problems: Sequence[Problem]
    samples: int
    sampling: Sampling
    every: int

    def due(self, cycle: int) -> bool:
        """Whether it is asked at the ends of this cycle's phases."""
        return (cycle + 1) % self.every == 0

    def __call__(self, candidate: Candidate, when: str) -> dict[str, float]:
        """Mean@n of a candidate under the weights now served.

        Args:
            when: tells one validation of a run from the others.
        """
        jobs = [(problem, candidate) for problem in self.problems for _ in range(self.samples)]
        rollouts = self.runner.collect(jobs, self.sampling, label=f"validation-{when}")
        return {"eval/score": fmean(by_problem(rollouts)), "eval/rollouts": float(len(rollouts))}


def kl_of(slow: SlowOptimizer, rollouts: Sequence[Rollout]) -> float | None:
    """KL(π_train ‖ π_base) per token in nats, each completion under the instruction that drew it.

    ``None`` where the rollouts have no token: each failed before, or said nothing.
    """
    calls = [call for rollout in rollouts for call in rollout.calls]
    if not any(call.completion_ids for call in calls):
        return None
    return slow.kl_to_base([c.prompt_ids for c in calls], [c.completion_ids for c in calls])


def by_problem(rollouts: Sequence[Rollout]) -> list[float]:
    """Mean score of each problem over its scored rollouts.

    Raises:
        ServingError: a problem has no scored rollout; leaving it out would flatter the result.
    """
    scores: dict[str, list[float]] = {}
    for rollout in rollouts:
        own = scores.setdefault(f"{rollout.problem_id}/{rollout.candidate_id}", [])
        if rollout.score is not None:
            own.append(rollout.score)
    unscored = [name for name, own in scores.items() if not own]
    if unscored:
        raise ServingError(
            f"{len(unscored)} problem(s) could not be evaluated, {unscored[0]!r} first: every "
            "rollout failed outside the policy; evaluate the run again with 'fst eval'"
        )
    return [sum(own) / len(own) for own in scores.values()]


def interval(values: Sequence[float], seed: int = 0) -> Score:
    """Mean and 95 % percentile bootstrap over ``values``."""
    rng = random.Random(seed)
    n = len(values)
    means = sorted(sum(rng.choices(values, k=n)) / n for _ in range(RESAMPLES))
    low, high = means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1]
    return Score(sum(values) / n, low, high)
