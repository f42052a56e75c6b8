"""What the bridge has to say of one batch: counts, mean scores, where the variance lies."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Literal

from fst_agents.errors import TrainerError
from fst_agents.types import Call, Outcome, Rollout, RolloutGroup, TrainingSample

FLAT_SPREAD = 1e-9
"""Scores closer than this are one score: float noise of a metric is no signal."""

Fate = Literal["kept", "flat", "thin", "untrained"]
"""What becomes of a group: trained on; nothing to tell its rollouts apart; fewer than two scored
rollouts; no call of a predictor that learns."""


@dataclass(frozen=True, slots=True)
class PredictorCounts:
    """What one predictor did. Counts of several batches add up.

    ``tokens`` are completion tokens. ``calls`` and what is said of them count every call of the
    policy, also those of masked rollouts; ``trained_calls`` those that reached the trainer, as
    ``samples`` sequences.
    """

    calls: int = 0
    trained_calls: int = 0
    samples: int = 0
    tokens: int = 0
    parse_failures: int = 0
    truncated: int = 0

    def __add__(self, other: PredictorCounts) -> PredictorCounts:
        mine, theirs = asdict(self), asdict(other)
        return PredictorCounts(**{name: mine[name] + theirs[name] for name in mine})


@dataclass(frozen=True, slots=True)
class CandidateReport:
    """What became of one candidate's rollouts. ``reward`` is ``None`` where none was scored."""

    rollouts: int
    reward: float | None
    outcomes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class BridgeReport:
    """What became of the rollouts of one batch.

    ``outcomes`` counts rollouts by outcome, every outcome named. ``tokens`` counts what is trained
    on. ``reward`` is the mean score of all scored rollouts, ``None`` without any;
    ``predictor_reward`` the mean of a predictor's own scores, where the metric gives them.
    ``between_share`` is the part of the groups' score variance that lies between candidates (sums
    of squares, pooled over groups), ``None`` where no group varies; the rest lies within
    candidates.
    """

    groups: int
    kept_groups: int
    flat_groups: int
    thin_groups: int
    untrained_groups: int
    rollouts: int
    outcomes: Mapping[str, int]
    masked: int
    unscored: int
    tokens: int
    reward: float | None
    predictors: Mapping[str, PredictorCounts]
    predictor_reward: Mapping[str, float]
    candidates: Mapping[str, CandidateReport]
    between_share: float | None

    @property
    def within_share(self) -> float | None:
        return None if self.between_share is None else 1.0 - self.between_share

    def metrics(self) -> dict[str, float]:
        """Flat numbers for a :class:`~fst_agents.types.StepReport`; absent means undefined."""
        values: dict[str, float | None] = {
            "groups": self.groups,
            "kept_groups": self.kept_groups,
            "flat_groups": self.flat_groups,
            "thin_groups": self.thin_groups,
            "untrained_groups": self.untrained_groups,
            "rollouts": self.rollouts,
            "masked": self.masked,
            "unscored": self.unscored,
            "reward": self.reward,
            "between_share": self.between_share,
            "within_share": self.within_share,
            **{f"outcome/{outcome}": count for outcome, count in self.outcomes.items()},
            **{
                f"predictor/{name}/{what}": count
                for name, counts in self.predictors.items()
                for what, count in asdict(counts).items()
            },
            **{f"predictor/{name}/reward": mean for name, mean in self.predictor_reward.items()},
        }
        return {f"slow/{name}": float(v) for name, v in values.items() if v is not None}

    def candidate_metrics(self) -> dict[str, float]:
        """Flat numbers of each candidate, for the run directory alone.

        Candidates come and go: in a tracker every one of them would leave metrics for good.
        """
        values: dict[str, float | None] = {}
        for name, report in self.candidates.items():
            values[f"{name}/rollouts"] = report.rollouts
            values[f"{name}/reward"] = report.reward
            values |= {f"{name}/outcome/{o}": n for o, n in report.outcomes.items() if n}
        return {f"slow/candidate/{name}": float(v) for name, v in values.items() if v is not None}


def make_report(
    groups: Sequence[RolloutGroup],
    scored: Sequence[Sequence[Rollout]],
    fates: Sequence[Fate],
    trained: Sequence[str],
    samples: Sequence[TrainingSample],
) -> BridgeReport:
    """Account for a batch; ``trained`` names the predictor of every call that is trained on."""
    every = [r for group in groups for r in group.rollouts_G]
    everything = [score_of(r) for rollouts in scored for r in rollouts]
    return BridgeReport(
        groups=len(groups),
        kept_groups=fates.count("kept"),
        flat_groups=fates.count("flat"),
        thin_groups=fates.count("thin"),
        untrained_groups=fates.count("untrained"),
        rollouts=len(every),
        outcomes=count_outcomes(every),
        masked=sum(r.outcome.masked for r in every),
        unscored=sum(r.score is None and not r.outcome.masked for r in every),
        tokens=sum(sum(sample.loss_mask_T) for sample in samples),
        reward=fmean(everything) if everything else None,
        predictors=count_predictors(every, trained, [sample.predictor for sample in samples]),
        predictor_reward=_own_rewards(every),
        candidates=_candidates(every),
        between_share=_between_share(scored),
    )


def count_outcomes(rollouts: Iterable[Rollout]) -> dict[str, int]:
    """How many rollouts ended in which way; every outcome is named, so that charts have no gaps."""
    counts = Counter(r.outcome for r in rollouts)
    return {str(outcome): counts[outcome] for outcome in Outcome}


def count_predictors(
    rollouts: Iterable[Rollout], trained: Iterable[str] = (), samples: Iterable[str] = ()
) -> dict[str, PredictorCounts]:
    """The counts of every predictor that was called, by name.

    ``trained`` names the predictor of every trained call, ``samples`` that of every sample.
    """
    trained_calls, sampled = Counter(trained), Counter(samples)
    calls: dict[str, list[Call]] = {}
    for call in (call for rollout in rollouts for call in rollout.calls):
        calls.setdefault(call.predictor, []).append(call)
    return {
        name: PredictorCounts(
            calls=len(own),
            trained_calls=trained_calls[name],
            samples=sampled[name],
            tokens=sum(len(call.completion_ids) for call in own),
            parse_failures=sum(not call.parsed for call in own),
            truncated=sum(call.truncated for call in own),
        )
        for name, own in sorted(calls.items())
    }


def flat(scores: Sequence[float]) -> bool:
    """Whether scores do not differ, as fewer than two never do."""
    return len(scores) < 2 or max(scores) - min(scores) < FLAT_SPREAD


def score_of(rollout: Rollout) -> float:
    """Score of a rollout known to have one."""
    if rollout.score is None:
        raise TrainerError(f"rollout of problem {rollout.problem_id!r} has no score")
    return rollout.score


def _between_share(scored: Sequence[Sequence[Rollout]]) -> float | None:
    between: list[float] = []
    total: list[float] = []
    for rollouts in scored:
        scores = [score_of(r) for r in rollouts]
        if flat(scores):
            continue
        mean = fmean(scores)
        total += [(score - mean) ** 2 for score in scores]
        between += [len(own) * (fmean(own) - mean) ** 2 for own in _by_candidate(rollouts).values()]
    return math.fsum(between) / math.fsum(total) if total else None


def _by_candidate(rollouts: Sequence[Rollout]) -> dict[str, list[float]]:
    scores: dict[str, list[float]] = {}
    for rollout in rollouts:
        scores.setdefault(rollout.candidate_id, []).append(score_of(rollout))
    return dict(sorted(scores.items()))


def _candidates(rollouts: Sequence[Rollout]) -> dict[str, CandidateReport]:
    own: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        own.setdefault(rollout.candidate_id, []).append(rollout)
    scores = {name: [r.score for r in them if r.score is not None] for name, them in own.items()}
    return {
        name: CandidateReport(
            rollouts=len(own[name]),
            reward=fmean(scores[name]) if scores[name] else None,
            outcomes=count_outcomes(own[name]),
        )
        for name in sorted(own)
    }


def _own_rewards(rollouts: Iterable[Rollout]) -> dict[str, float]:
    scores: dict[str, list[float]] = {}
    for rollout in rollouts:
        if rollout.score is not None:
            for name, score in rollout.feedback.predictor_scores.items():
                scores.setdefault(name, []).append(score)
    return {name: fmean(own) for name, own in sorted(scores.items())}
