"""The nouns of fast-slow training; read this file first.

Frozen dataclasses without behaviour beyond derived properties. Shapes: suffix ``_P`` ranges over
problems, ``_G`` over the rollouts of one group, ``_T`` over the tokens of one sequence.
The method is "Learning, Fast and Slow" (arXiv 2605.12484).
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

Scalar = float | int | str | bool


class Outcome(StrEnum):
    """How a rollout ended: decides whether it scores or is masked (docs/outcomes.md)."""

    OK = "ok"
    PARSE_FAILURE = "parse_failure"
    TRUNCATED = "truncated"
    PROGRAM_ERROR = "program_error"
    METRIC_ERROR = "metric_error"
    TIMEOUT = "timeout"
    INFRA_ERROR = "infra_error"

    @property
    def masked(self) -> bool:
        """True where the fault is not the policy's: no score, no advantage, no gradient."""
        return self in (Outcome.METRIC_ERROR, Outcome.TIMEOUT, Outcome.INFRA_ERROR)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one completion is drawn. ``max_tokens`` counts completion tokens only."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 64
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """What a policy host sampled: ids and the log-probabilities they were sampled with.

    ``token_ids`` and ``logprobs`` have the same length; the end-of-sequence token is included
    when ``finish_reason`` is ``"stop"``.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str
    policy_version: int

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.logprobs):
            raise ValueError(
                f"a completion has {len(self.token_ids)} token ids but {len(self.logprobs)} "
                "log-probabilities; the host must report one for every token"
            )


@dataclass(frozen=True, slots=True)
class Call:
    """One LM call inside a rollout. Token ids are the truth; text is derived from them.

    ``outputs`` are the fields of an answer that could be read whole. Of one that could not,
    ``partial`` has the fields that could be read, and ``missing`` names those that could not.
    """

    predictor: str
    messages: tuple[Mapping[str, Any], ...]
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str
    policy_version: int
    temperature: float
    text: str
    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    outputs: Mapping[str, Any] | None = None
    partial: Mapping[str, Any] = field(default_factory=dict[str, Any])
    missing: tuple[str, ...] = ()

    @property
    def parsed(self) -> bool:
        """Whether the adapter could read the completion."""
        return self.outputs is not None

    @property
    def truncated(self) -> bool:
        """Whether the completion was cut off at the token limit, readable or not."""
        return self.finish_reason == "length"


@dataclass(frozen=True, slots=True)
class Feedback:
    """What the metric says of one rollout.

    ``score`` is ``None`` when the rollout is unscored, which is never the same as 0. ``text`` is
    for the reflection model. ``predictor_text`` and ``predictor_scores`` are keyed by predictor
    name and present only where the metric speaks of single predictors.
    """

    score: float | None
    text: str = ""
    objectives: Mapping[str, float] = field(default_factory=dict[str, float])
    predictor_text: Mapping[str, str] = field(default_factory=dict[str, str])
    predictor_scores: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class Candidate:
    """One member of Φ: predictor name → instruction. Immutable, identified by its content.

    Instructions are normalised with :func:`inspect.cleandoc`, because a DSPy signature does the
    same: what is hashed is what the program runs.
    """

    instructions: Mapping[str, str]
    parents: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        clean = {name: inspect.cleandoc(text) for name, text in sorted(self.instructions.items())}
        if not clean:
            raise ValueError("a candidate needs the instruction of at least one predictor")
        empty = [name for name, text in clean.items() if not text]
        if empty:
            raise ValueError(f"empty instruction for predictor(s) {', '.join(empty)}")
        object.__setattr__(self, "instructions", MappingProxyType(clean))

    @property
    def id(self) -> str:
        """Twelve hex digits of the SHA-256 of the instructions; parents do not matter."""
        text = json.dumps(dict(self.instructions), ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def __hash__(self) -> int:
        return hash(self.id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Candidate) and other.id == self.id


@dataclass(frozen=True, slots=True)
class Problem:
    """One example of the training or validation set under a stable, unique id."""

    id: str
    example: Any


@dataclass(frozen=True, slots=True)
class Skill:
    """Something the policy can do and should still do after training."""

    name: str
    candidate: Candidate
    problems: Sequence[Problem]


@dataclass(frozen=True, slots=True)
class Rollout:
    """One run of a program on one problem under one candidate and one policy version."""

    problem_id: str
    candidate_id: str
    policy_version: int
    calls: tuple[Call, ...]
    feedback: Feedback
    outcome: Outcome
    prediction: Mapping[str, Any] = field(default_factory=dict[str, Any])
    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    error: str | None = None
    seconds: float = 0.0

    @property
    def score(self) -> float | None:
        """The program's score; ``None`` where the rollout is masked or unscored."""
        return None if self.outcome.masked else self.feedback.score

    @property
    def completion_tokens(self) -> int:
        return sum(len(call.completion_ids) for call in self.calls)

    @property
    def prompt_tokens(self) -> int:
        return sum(len(call.prompt_ids) for call in self.calls)


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """The G rollouts of one problem across the population: the unit of the advantage."""

    problem_id: str
    rollouts_G: tuple[Rollout, ...]

    def __post_init__(self) -> None:
        strangers = {r.problem_id for r in self.rollouts_G} - {self.problem_id}
        if strangers:
            raise ValueError(
                f"group {self.problem_id!r} holds rollouts of other problems: {sorted(strangers)}"
            )


@dataclass(frozen=True, slots=True)
class TrainingSample:
    """One sequence for the trainer; every stream over the completion has the same length T.

    ``weight`` is the factor of each token's loss after normalisation: the batch loss is
    ``-Σ_samples weight · Σ_T mask·min(ρ, cap)·advantage·log π`` (PAPER eq. CISPO).
    """

    prompt_ids: tuple[int, ...]
    completion_ids_T: tuple[int, ...]
    loss_mask_T: tuple[int, ...]
    logprobs_T: tuple[float, ...]
    advantage: float
    weight: float
    policy_version: int
    problem_id: str
    candidate_id: str
    predictor: str

    def __post_init__(self) -> None:
        lengths = {len(self.completion_ids_T), len(self.loss_mask_T), len(self.logprobs_T)}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(
                f"sample of problem {self.problem_id!r}: completion ids, mask and log-probabilities"
                f" need one equal, positive length; got {len(self.completion_ids_T)}, "
                f"{len(self.loss_mask_T)}, {len(self.logprobs_T)}"
            )


@dataclass(frozen=True, slots=True)
class Population:
    """Φ, the fast weights: candidates and the per-problem scores one policy version earned them.

    ``scores`` maps candidate id → problem id → score. All scores belong to ``policy_version``, or,
    after a cycle without a fast phase, to that cycle's versions up to it; a population whose
    weights have moved on must be re-scored, not reused.
    """

    candidates: tuple[Candidate, ...]
    scores: Mapping[str, Mapping[str, float]] = field(
        default_factory=dict[str, Mapping[str, float]]
    )
    policy_version: int | None = None

    def __post_init__(self) -> None:
        if not self.candidates:
            raise ValueError("a population needs at least one candidate")
        ids = [c.id for c in self.candidates]
        if len(set(ids)) != len(ids):
            raise ValueError(f"a population holds the same candidate twice: {ids}")
        names = {tuple(c.instructions) for c in self.candidates}
        if len(names) > 1:
            raise ValueError(f"candidates name different predictors: {sorted(names)}")

    def mean(self, candidate_id: str) -> float | None:
        """Mean score of a candidate over the problems that scored it, ``None`` if none did."""
        scores = self.scores.get(candidate_id, {})
        return sum(scores.values()) / len(scores) if scores else None

    @property
    def best(self) -> Candidate:
        """The champion: highest mean score; earlier members win ties."""

        def key(candidate: Candidate) -> float:
            mean = self.mean(candidate.id)
            return float("-inf") if mean is None else mean

        return max(self.candidates, key=key)


@dataclass(frozen=True, slots=True)
class Policy:
    """θ, the slow weights: a base model and what training has added to it.

    ``model`` is a folder or a Hugging Face name. At most one of ``adapter`` (a PEFT folder) and
    ``weights`` (a folder with full weights) is set; with neither, the policy is the base model.
    """

    model: str
    adapter: Path | None = None
    weights: Path | None = None
    version: int = 0

    def __post_init__(self) -> None:
        if self.adapter is not None and self.weights is not None:
            raise ValueError("a policy has either an adapter or full weights, not both")


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one slow step or one fast phase has to say: flat metrics with slash names."""

    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Spend:
    """What has been paid so far. Rollouts of the two phases are counted apart."""

    fast_rollouts: int = 0
    slow_rollouts: int = 0
    tokens: int = 0
    reflection_calls: int = 0
    gradient_steps: int = 0
    seconds: float = 0.0

    def __add__(self, other: Spend) -> Spend:
        return Spend(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class Marks:
    """How long the append-only logs were, in bytes: what a resumed run cuts them back to."""

    metrics: int = 0
    reflections: int = 0
    tracker: int = 0


@dataclass(frozen=True, slots=True)
class Pulse:
    """What one RL step earned: its mean reward, and the share of its groups that were ``flat``
    below the best score."""

    reward: float
    flat: float


@dataclass(frozen=True, slots=True)
class Pace:
    """What an adaptive schedule decides by: fast phases run so far, RL steps since the last."""

    evolved: int = 0
    pulses: tuple[Pulse, ...] = ()


@dataclass(frozen=True, slots=True)
class RunState:
    """Where a run stands: enough to say what has been done and what is still to do.

    It stands in the phase with the index ``phase`` of its plan, behind as many RL steps of it as
    there are ``rewards`` (their mean rewards). ``stopped`` says why training is over, ``None``
    while it is not, and ``distilled`` how many steps of the finishing stage have been taken since.
    ``predictors`` has what each predictor did so far, by the name of the count.
    ``identity`` says which data and plan it belongs to, ``checkpoint`` is its number.
    """

    cycle: int
    step: int
    population: Population
    policy: Policy
    spend: Spend
    cursor: int
    mlflow_run_id: str | None = None
    phase: int = 0
    rewards: tuple[float, ...] = ()
    pace: Pace = field(default_factory=Pace)
    stopped: str | None = None
    distilled: int = 0
    predictors: Mapping[str, Mapping[str, int]] = field(
        default_factory=dict[str, Mapping[str, int]]
    )
    marks: Marks = field(default_factory=Marks)
    identity: Mapping[str, str] = field(default_factory=dict[str, str])
    checkpoint: int = 0


@dataclass(frozen=True, slots=True)
class RunResult:
    """What training returns."""

    arm: str
    seed: int
    population: Population
    policy: Policy
    spend: Spend
    cycles: int
    run_dir: Path
    mlflow_run_id: str | None
    history: Sequence[StepReport] = ()
    stopped: str = "done"

    @property
    def champion(self) -> Candidate:
        return self.population.best
