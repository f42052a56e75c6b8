"""The seams of the loop: what learns slowly, what learns fast, and how rollouts are had."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from fst_agents.types import (
    Candidate,
    Policy,
    Population,
    Problem,
    Rollout,
    StepReport,
    TrainingSample,
)


class Evaluate(Protocol):
    """One rollout per problem under one candidate and the policy now served, in order.

    Every call is paid for and counted by the implementation; asking twice for the same
    (problem, candidate, policy version) gives the same rollout and costs nothing.
    """

    def __call__(self, candidate: Candidate, problems: Sequence[Problem]) -> list[Rollout]: ...

    def spent(self) -> int:
        """Rollouts paid for in this fast phase so far."""
        ...


class PhaseAccount(Protocol):
    """One fast phase as plain data for tracker and run directory."""

    def to_dict(self) -> dict[str, Any]: ...


class FastOptimizer(Protocol):
    """Evolves Φ under fixed θ."""

    @property
    def record(self) -> PhaseAccount:
        """What happened in the last phase; there has been one."""
        ...

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
        """Return the next population and what the phase has to say.

        ``rollouts`` is the exact number of evaluations that may be paid for, re-scoring the
        carried-over candidates included.
        """
        ...


class SlowOptimizer(Protocol):
    """Updates θ from samples that θ itself has drawn."""

    @property
    def policy(self) -> Policy:
        """The policy as trained so far (weights on disk only after :meth:`publish`)."""
        ...

    def update(self, samples: Sequence[TrainingSample]) -> StepReport:
        """One optimizer step; the policy's version rises by one."""
        ...

    def publish(self, folder: Path) -> Policy:
        """Write what a host needs to serve the current weights into a new folder."""
        ...

    def logprobs(
        self,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        *,
        temperature: float,
        base: bool = False,
    ) -> list[list[float]]:
        """Per-token log-probabilities of completions under the current (or the base) weights."""
        ...

    def kl_to_base(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> float:
        """Mean over tokens of the exact KL(π_train ‖ π_base) in nats, full vocabulary."""
        ...

    def close(self) -> None: ...
