"""The rollouts of a fast phase: run, written down, and read back where the phase runs again."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from fst_agents.bridge_report import count_predictors
from fst_agents.config import RunConfig
from fst_agents.errors import ConfigError, FstError, ServingError
from fst_agents.replay import LogReplay
from fst_agents.rollouts import Runner
from fst_agents.run_dir import RunDir, as_written, from_json
from fst_agents.types import Candidate, Outcome, Problem, Rollout, Sampling, Spend
from optimizers.books import Books


class FastRollouts:
    """What :class:`fst_agents.ledger.LedgerEvaluate` runs; build one for each phase.

    A phase that was stopped is run again from its start. It asks for the same rollouts in the same
    order, so what it had paid for stands in its file and is read back, counted as if it were paid.
    """

    def __init__(
        self,
        cycle: int,
        problems: int,
        *,
        runner: Runner,
        sampling: Sampling,
        run_dir: RunDir,
        books: Books,
        config: RunConfig,
    ) -> None:
        """``problems``: how many the anchor set has."""
        self._label = f"fast-{cycle}"
        self._file = file_name(cycle)
        self._runner, self._sampling = runner, sampling
        self._run_dir, self._books, self._config = run_dir, books, config
        self._paid = LogReplay(run_dir.rollout_file(self._file))
        # A proposal may be tried on a handful of problems, where one lost rollout is a large share.
        self._recent = deque[Rollout](maxlen=problems)

    def __call__(self, candidate: Candidate, problems: Sequence[Problem]) -> list[Rollout]:
        """One rollout per problem, in order; they carry feedback per predictor.

        Raises:
            ServingError, ConfigError: nothing can be learnt from them (:func:`useless`).
        """
        rollouts = self._read_back(candidate, problems)
        if rollouts is None:
            jobs = [(p, candidate) for p in problems]
            fresh = self._runner.collect(jobs, self._sampling, reflect=True, label=self._label)
            rollouts = write_down(self._run_dir, self._file, fresh)
        self._books.pay(Spend(tokens=tokens(rollouts)))
        self._books.count(count_predictors(rollouts))
        self._recent.extend(rollouts)
        refuse_useless([*self._recent], self._config)
        return rollouts

    def close(self) -> None:
        """The phase is over: what it has not asked for is not part of it."""
        self._paid.cut()

    def _read_back(self, candidate: Candidate, problems: Sequence[Problem]) -> list[Rollout] | None:
        """What was run for this request before the stop, unless it was the reason to stop."""
        version = self._runner.host.policy.version
        asked = [(p.id, candidate.id, version) for p in problems]
        found: list[Rollout] = []

        def same(lines: list[Any]) -> bool:
            found[:] = [from_json(Rollout, line) for line in lines]
            keys = [(r.problem_id, r.candidate_id, r.policy_version) for r in found]
            return keys == asked and useless([*self._recent, *found], self._config) is None

        return None if self._paid.take(len(asked), same) is None else found


def file_name(cycle: int) -> str:
    """Under which name :meth:`fst_agents.run_dir.RunDir.rollout_file` has a phase's rollouts."""
    return f"fast-{cycle:03d}"


def write_down(run_dir: RunDir, where: int | str, rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Returns them as they can be read back: what a fast phase sees must not depend on a stop."""
    run_dir.add_rollouts(where, rollouts)
    return [as_written(rollout) for rollout in rollouts]


def useless(rollouts: Sequence[Rollout], config: RunConfig) -> FstError | None:
    """Why nothing can be learnt from rollouts: the server fails, or the metric does not score."""
    masked = [r for r in rollouts if r.outcome.masked]
    limit = config.sampling.max_infra_share
    if len(masked) > limit * len(rollouts):
        example = masked[0]
        error = ConfigError if example.outcome is Outcome.METRIC_ERROR else ServingError
        return error(
            f"{len(masked)} of {len(rollouts)} rollouts failed outside the policy (limit "
            f"sampling.max_infra_share = {limit:g}); problem {example.problem_id!r}: "
            f"{example.outcome}: {example.error}"
        )
    if all(r.score is None for r in rollouts):
        return ConfigError(
            f"the metric returned no score for any of {len(rollouts)} rollouts; it must return "
            "a number, or a dspy.Prediction with `score`"
        )
    return None


def refuse_useless(rollouts: Sequence[Rollout], config: RunConfig) -> None:
    """Raise what :func:`useless` finds."""
    error = useless(rollouts, config)
    if error is not None:
        raise error


def tokens(rollouts: Sequence[Rollout]) -> int:
    """Prompt and completion tokens together."""
    return sum(r.prompt_tokens + r.completion_tokens for r in rollouts)
