"""The rollout ledger: what has been paid for is asked for once.

The slow phase adds its rollouts, the fast phase looks here before it runs anything (an open
direction named by arXiv 2605.12484). A rollout belongs to a candidate, a problem and the policy
version that sampled it; one from too old a version is never an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from fst_agents.errors import ProgramError, StalePolicyError
from fst_agents.types import Candidate, Problem, Rollout

Key = tuple[str, str]


class RolloutLedger:
    """Remembers one scored rollout per (problem, candidate): the newest, the first of a version.

    Memory is bounded: a newer policy version drops what ``max_staleness`` no longer allows, and
    beyond ``capacity`` rollouts, or ``most_tokens`` in all of them, the oldest go. Masked and
    unscored rollouts say nothing about a candidate and are not remembered.
    """

    def __init__(
        self, max_staleness: int = 0, capacity: int = 100_000, most_tokens: int = 10_000_000
    ) -> None:
        """``max_staleness`` counts policy versions, ``capacity`` rollouts.

        ``most_tokens`` counts prompts and completions; each takes some 70 bytes of memory.
        """
        if max_staleness < 0 or capacity < 1 or most_tokens < 1:
            raise ValueError(
                "need max_staleness >= 0, capacity >= 1 and most_tokens >= 1, got "
                f"{max_staleness}, {capacity} and {most_tokens}"
            )
        self._max_staleness = max_staleness
        self._capacity = capacity
        self._most_tokens = most_tokens
        self._tokens = 0
        self._rollouts: dict[Key, Rollout] = {}
        self._newest = -1
        self.paid = 0
        """Rollouts that were added, remembered or not: each has been paid for."""
        self.reused = 0
        """Answers given: rollouts that did not have to be run again."""

    def __len__(self) -> int:
        return len(self._rollouts)

    def add(self, rollouts: Iterable[Rollout]) -> None:
        """Take note of rollouts that have just been run."""
        for rollout in rollouts:
            self.paid += 1
            self._see(rollout.policy_version)
            if rollout.score is not None:
                self._remember(rollout)

    def find(self, problem_id: str, candidate_id: str, policy_version: int) -> Rollout | None:
        """The remembered rollout, if its version is at most ``max_staleness`` older."""
        rollout = self._rollouts.get((problem_id, candidate_id))
        if rollout is None:
            return None
        if not 0 <= policy_version - rollout.policy_version <= self._max_staleness:
            return None
        self.reused += 1
        return rollout

    def _see(self, version: int) -> None:
        """Drop what has become too old when a version newer than all before appears."""
        if version <= self._newest:
            return
        self._newest = version
        oldest = version - self._max_staleness
        for key in [k for k, r in self._rollouts.items() if r.policy_version < oldest]:
            self._forget(key)

    def _remember(self, rollout: Rollout) -> None:
        if rollout.policy_version < self._newest - self._max_staleness:
            return
        key = (rollout.problem_id, rollout.candidate_id)
        known = self._rollouts.get(key)
        if known is not None and known.policy_version >= rollout.policy_version:
            return
        if known is not None:
            self._forget(key)
        self._rollouts[key] = rollout
        self._tokens += _tokens(rollout)
        while len(self._rollouts) > self._capacity or self._tokens > self._most_tokens:
            self._forget(next(iter(self._rollouts)))

    def _forget(self, key: Key) -> None:
        self._tokens -= _tokens(self._rollouts.pop(key))


def _tokens(rollout: Rollout) -> int:
    return rollout.prompt_tokens + rollout.completion_tokens


class LedgerEvaluate:
    """One fast phase's ``Evaluate`` (optimizers/protocols.py): ledger first, then ``run``.

    ``run`` gets the candidate and the distinct problems without an answer, and returns one
    rollout for each, in order. Every rollout it returns counts as spent. Build one per phase:
    what was answered once in a phase, a masked rollout included, is answered alike ever after.
    """

    def __init__(
        self,
        run: Callable[[Candidate, Sequence[Problem]], Sequence[Rollout]],
        ledger: RolloutLedger,
        *,
        policy_version: int,
    ) -> None:
        self._run = run
        self._ledger = ledger
        self._version = policy_version
        self._answers: dict[Key, Rollout] = {}
        self._spent = 0

    def __call__(self, candidate: Candidate, problems: Sequence[Problem]) -> list[Rollout]:
        """One rollout per problem, in order; what is known costs nothing.

        Raises:
            ProgramError: ``run`` returned something else than it was asked for.
            StalePolicyError: ``run`` sampled from another policy version.
        """
        missing = {p.id: p for p in problems if not self._known(p.id, candidate.id)}
        if missing:
            self._pay(candidate, list(missing.values()))
        return [self._answers[p.id, candidate.id] for p in problems]

    def spent(self) -> int:
        """Rollouts run in this phase."""
        return self._spent

    def _known(self, problem_id: str, candidate_id: str) -> bool:
        key = (problem_id, candidate_id)
        if key not in self._answers:
            rollout = self._ledger.find(problem_id, candidate_id, self._version)
            if rollout is not None:
                self._answers[key] = rollout
        return key in self._answers

    def _pay(self, candidate: Candidate, problems: Sequence[Problem]) -> None:
        rollouts = list(self._run(candidate, problems))
        self._spent += len(rollouts)
        asked = [(p.id, candidate.id) for p in problems]
        got = [(r.problem_id, r.candidate_id) for r in rollouts]
        if got != asked:
            raise ProgramError(
                f"asked for {len(asked)} rollouts (problem, candidate) {asked[:3]}…, got "
                f"{len(got)}: {got[:3]}…; one per problem, in order, is expected"
            )
        versions = {r.policy_version for r in rollouts} - {self._version}
        if versions:
            raise StalePolicyError(
                f"rollouts of policy version(s) {sorted(versions)} while version {self._version} "
                "is being scored; update the host before the fast phase starts"
            )
        self._ledger.add(rollouts)
        self._answers.update(zip(got, rollouts, strict=True))
