"""What the bridge has to say of one batch: counts, mean scores, where the variance lies."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fst_agents.errors import TrainerError
from fst_agents.types import Rollout, RolloutGroup

FLAT_SPREAD = 1e-9
"""Scores closer than this are one score: float noise of a metric is no signal."""

Fate = Literal["kept", "flat", "thin", "untrained"]
"""What becomes of a group: trained on; nothing to tell its rollouts apart; fewer than two scored
rollouts; no call of a predictor that learns."""


@dataclass(frozen=True, slots=True)
class BridgeReport:
    """What became of the rollouts of one batch.

    ``masked`` counts by outcome, ``calls`` by predictor; ``calls`` and ``tokens`` count what is
    trained on. ``reward`` is the mean score of all scored rollouts, ``None`` without any, and
    ``candidate_reward`` the same per candidate id. ``between_share`` is the part of the groups'
    score variance that lies between candidates (sums of squares, pooled over groups), ``None``
    where no group varies; the rest lies within candidates.
    """

    groups: int
    kept_groups: int
    flat_groups: int
    thin_groups: int
    untrained_groups: int
    rollouts: int
    masked: Mapping[str, int]
    unscored: int
    calls: Mapping[str, int]
    tokens: int
    reward: float | None
    candidate_reward: Mapping[str, float]
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
            "masked": sum(self.masked.values()),
            "unscored": self.unscored,
            "reward": self.reward,
            "between_share": self.between_share,
            "within_share": self.within_share,
            **{f"masked/{outcome}": count for outcome, count in self.masked.items()},
            **{f"calls/{predictor}": count for predictor, count in self.calls.items()},
        }
        return {f"slow/{name}": float(v) for name, v in values.items() if v is not None}


def make_report(
    groups: Sequence[RolloutGroup],
    scored: Sequence[Sequence[Rollout]],
    fates: Sequence[Fate],
    trained: Sequence[str],
    tokens: int,
) -> BridgeReport:
    """Account for a batch; ``trained`` names the predictor of every call that is trained on."""
    every = [r for group in groups for r in group.rollouts_G]
    scores = _by_candidate([r for rollouts in scored for r in rollouts])
    everything = [score for own in scores.values() for score in own]
    return BridgeReport(
        groups=len(groups),
        kept_groups=fates.count("kept"),
        flat_groups=fates.count("flat"),
        thin_groups=fates.count("thin"),
        untrained_groups=fates.count("untrained"),
        rollouts=len(every),
        masked=_count(str(r.outcome) for r in every if r.outcome.masked),
        unscored=sum(r.score is None and not r.outcome.masked for r in every),
        calls=_count(trained),
        tokens=tokens,
        reward=_mean(everything) if everything else None,
        candidate_reward={name: _mean(own) for name, own in scores.items()},
        between_share=_between_share(scored),
    )


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
        mean = _mean(scores)
        total += [(score - mean) ** 2 for score in scores]
        between += [len(own) * (_mean(own) - mean) ** 2 for own in _by_candidate(rollouts).values()]
    return math.fsum(between) / math.fsum(total) if total else None


def _by_candidate(rollouts: Sequence[Rollout]) -> dict[str, list[float]]:
    scores: dict[str, list[float]] = {}
    for rollout in rollouts:
        scores.setdefault(rollout.candidate_id, []).append(score_of(rollout))
    return dict(sorted(scores.items()))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _count(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))
