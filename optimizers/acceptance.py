"""When a proposal is worth scoring on the whole anchor set: gepa's acceptance, on paired problems.

A minibatch has a handful of rollouts, one per problem and at temperature 1, so that a text which
changes nothing looks better than its parent almost every other time; each such acceptance costs a
rollout for every problem of the anchor set. ``beyond_noise`` asks how far two draws from the
*parent* would lie apart. Its scores on the anchor set, which are paid for already, say how much one
draw varies; six differences could not. Their variance has that between problems in it, which
pairing takes away, so the test is on the cautious side. A parent that never scores does not vary:
then one better answer counts, as it must where reward is rare.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from statistics import fmean, variance

from gepa.core.state import GEPAState
from gepa.proposer.base import CandidateProposal
from gepa.strategies.acceptance import ImprovementOrEqualAcceptance, StrictImprovementAcceptance

from fst_agents.config import Acceptance
from fst_agents.types import Candidate, Rollout

State = GEPAState[Rollout, int]

Z = 1.0
"""Standard errors that an improvement must exceed.

One in six texts that change nothing gets past 1.0, instead of nearly one in two: a wrong acceptance
costs an anchor set (96 rollouts by default), a wrong rejection a proposal (6), so that a stricter
test would lose more texts that help than it saves rollouts.
"""


def beyond_noise(
    before: Sequence[float], after: Sequence[float], known: Sequence[float], z: float = Z
) -> bool:
    """Whether a child is better than its parent by more than chance alone makes it.

    Args:
        before, after: scores of parent and child on the same problems, one rollout each.
        known: all scores of the parent there are; the variance of one rollout is theirs.
        z: how many standard errors of the mean difference it has to be.
    """
    if not before:
        return False
    gain = fmean(a - b for b, a in zip(before, after, strict=True))
    spread = variance(known) if len(known) > 1 else 0.0
    return gain > z * math.sqrt(2 * spread / len(before)) and gain > 0


class PairedAcceptance:
    """gepa's acceptance on the problems scored for parent *and* child; none in common: rejected."""

    def __init__(self, kind: Acceptance) -> None:
        self._kind = kind
        self.parents: dict[str, int] = {}
        """Candidate id → gepa's index of the parent, for every proposal judged."""

    def should_accept(self, proposal: CandidateProposal[int], state: State) -> bool:
        parent = proposal.parent_program_ids[0]
        self.parents[Candidate(proposal.candidate).id] = parent
        before = proposal.subsample_scores_before or []
        after = proposal.subsample_scores_after or []
        pairs = [
            (b, a)
            for b, a in zip(before, after, strict=True)
            if not math.isnan(b) and not math.isnan(a)
        ]
        if not pairs:
            return False
        olds, news = [b for b, _ in pairs], [a for _, a in pairs]
        if self._kind == "beyond_noise":
            row = state.prog_candidate_val_subscores[parent].values()
            return beyond_noise(olds, news, [s for s in row if not math.isnan(s)])
        paired = dataclasses.replace(
            proposal, subsample_scores_before=olds, subsample_scores_after=news
        )
        strict = self._kind == "strict_improvement"
        gepas = StrictImprovementAcceptance() if strict else ImprovementOrEqualAcceptance()
        return gepas.should_accept(paired, state)
