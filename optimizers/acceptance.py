"""When a proposal is worth scoring on the whole anchor set: gepa's acceptance, on paired problems.

A minibatch has a handful of rollouts, one per problem and at temperature 1, and gepa proposes only
where the parent failed on it: the parent's luck was bad there, and any text that changes nothing
looks better. Each such acceptance costs a rollout for every problem of the anchor set.

``beyond_noise`` therefore does not ask whether a child beats those very rollouts of its parent, but
whether so many draws from the parent's scores on the *whole* anchor set, which are paid for
already, would have come out as well. Their variance is that of one draw (six differences could not
tell it); what problems differ by is part of it, so that a hard minibatch is no reason to accept or
reject. A parent that never scores does not vary: then one better answer counts, as it must where
reward is rare.

Seen in one run of 12 cycles on the development rule rotate_left, swap_ends: parents were 0.034
below their mean on the minibatches they were to be improved on; of 43 proposals that
``strict_improvement`` accepted, 4 were better by more than 0.02 elsewhere. ``beyond_noise`` takes 3
of the 43, 2 of the 4 among them; a paired test at the same level takes 20, 1 of the 4 among them.
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

One in six texts that change nothing gets past 1.0: a wrong acceptance costs an anchor set (96
rollouts by default), a wrong rejection a proposal (6), so that a stricter test would lose more
texts that help than it saves rollouts.
"""


def beyond_noise(scores: Sequence[float], known: Sequence[float], z: float = Z) -> bool:
    """Whether a child is better than its parent by more than chance makes it.

    Args:
        scores: what the child earned on a minibatch, one rollout per problem.
        known: what the parent earned on the anchor set.
        z: how many standard errors of the difference of means it has to be.
    """
    if not scores or not known:
        return False
    gain = fmean(scores) - fmean(known)
    spread = variance(known) if len(known) > 1 else 0.0
    error = math.sqrt(spread * (1 / len(scores) + 1 / len(known)))
    return gain > z * error and gain > 0


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
            return beyond_noise(news, [s for s in row if not math.isnan(s)])
        paired = dataclasses.replace(
            proposal, subsample_scores_before=olds, subsample_scores_after=news
        )
        strict = self._kind == "strict_improvement"
        gepas = StrictImprovementAcceptance() if strict else ImprovementOrEqualAcceptance()
        return gepas.should_accept(paired, state)
