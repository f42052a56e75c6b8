"""Which proposals are worth an anchor set: golden values, and what must hold of any scores."""

from __future__ import annotations

import math
from random import Random
from statistics import fmean
from types import SimpleNamespace
from typing import Any, cast

import pytest
from gepa.proposer.base import CandidateProposal
from hypothesis import given
from hypothesis import strategies as st

from fst_agents.config import Acceptance
from optimizers.acceptance import PairedAcceptance, State, beyond_noise

score = st.floats(-0.1, 1.0)
minibatch = st.lists(score, min_size=1, max_size=8)
anchor = st.lists(score, min_size=1, max_size=20)

HALF = [0.0, 1.0] * 48
"""An anchor set of 96 with half of the answers right: the variance of one is 0.2526."""


@pytest.mark.parametrize(
    ("right", "accepted"),
    [
        # √(0.2526 · (1/6 + 1/96)) = 0.2115: four of six are 0.167 above a half, five are 0.333.
        (4, False),
        (5, True),
    ],
)
def test_one_lucky_answer_of_six_is_not_enough(right: int, accepted: bool) -> None:
    assert beyond_noise([1.0] * right + [0.0] * (6 - right), HALF) is accepted


def test_one_answer_is_enough_where_the_parent_never_scores() -> None:
    """What cannot happen by chance needs no second witness: the zero-reward regime."""
    assert beyond_noise([1.0] + [0.0] * 5, [0.0] * 96)
    assert not beyond_noise([0.0] * 6, [0.0] * 96)


def test_more_problems_make_smaller_improvements_count() -> None:
    """A gain of 0.15: below √(0.2526 · (1/6 + 1/96)) = 0.211, above the 0.115 of 24 problems."""
    assert not beyond_noise([0.65] * 6, HALF)
    assert beyond_noise([0.65] * 24, HALF)


@given(scores=minibatch, known=anchor, z=st.floats(0, 4))
def test_what_is_accepted_is_an_improvement_and_a_stricter_test_accepts_less(
    scores: list[float], known: list[float], z: float
) -> None:
    if beyond_noise(scores, known, z + 0.5):
        assert beyond_noise(scores, known, z)
        assert fmean(scores) > fmean(known)


@given(scores=minibatch, known=anchor, more=st.floats(0, 1))
def test_a_higher_score_is_never_a_reason_to_reject(
    scores: list[float], known: list[float], more: float
) -> None:
    if beyond_noise(scores, known):
        assert beyond_noise([scores[0] + more, *scores[1:]], known)


@given(known=anchor)
def test_the_parent_itself_is_no_improvement(known: list[float]) -> None:
    assert not beyond_noise(known, known)


def test_nothing_to_compare_is_a_rejection() -> None:
    assert not beyond_noise([], HALF)
    assert not beyond_noise([1.0], [])


def test_where_the_parent_failed_a_text_that_changes_nothing_mostly_looks_better() -> None:
    """Minibatches on which the parent has at least one wrong answer, as gepa takes them; both texts
    are right nine times in ten."""
    rng, strict, careful, tries = Random(0), 0, 0, 0
    for _ in range(3000):
        known = [float(rng.random() < 0.9) for _ in range(96)]
        before = rng.sample(known, 6)
        if min(before) == 1.0:
            continue
        after = [float(rng.random() < 0.9) for _ in range(6)]
        tries += 1
        strict += sum(after) > sum(before)
        careful += beyond_noise(after, known)
    assert strict / tries == pytest.approx(0.63, abs=0.04)
    assert careful / tries < 0.17


# -- at gepa's seam ------------------------------------------------------------------------------


def judged(kind: Acceptance, before: list[float], after: list[float], row: list[float]) -> bool:
    """What gepa gets to hear of a child of its candidate 1."""
    state = cast(State, SimpleNamespace(prog_candidate_val_subscores=[{}, dict(enumerate(row))]))
    proposal: CandidateProposal[Any] = CandidateProposal(
        {"main": "new"}, [1], subsample_scores_before=before, subsample_scores_after=after
    )
    return PairedAcceptance(kind).should_accept(proposal, state)


@pytest.mark.parametrize(
    ("kind", "after", "accepted"),
    [
        ("strict_improvement", [1.0, 0.0, 0.0], True),
        ("improvement_or_equal", [0.0, 0.0, 0.0], True),
        ("strict_improvement", [0.0, 0.0, 0.0], False),
        ("beyond_noise", [1.0, 1.0, 0.0], False),  # 0.667 < 0.5 + √(0.2526 · (1/3 + 1/96))
        ("beyond_noise", [1.0, 1.0, 1.0], True),
    ],
)
def test_each_kind_at_the_seam(kind: Acceptance, after: list[float], accepted: bool) -> None:
    assert judged(kind, [0.0, 0.0, 0.0], after, HALF) is accepted


@pytest.mark.parametrize("kind", ["strict_improvement", "improvement_or_equal", "beyond_noise"])
def test_masked_rollouts_are_in_no_comparison(kind: Acceptance) -> None:
    lost = math.nan
    assert judged(kind, [0.0, 0.0, lost], [1.0, 1.0, 0.0], [*HALF, lost])
    assert judged(kind, [0.0, 0.0, 1.0], [1.0, 1.0, lost], [*HALF, lost])
    assert not judged(kind, [0.0, lost, 1.0], [lost, 1.0, 0.0], HALF)
    assert not judged(kind, [lost], [1.0], HALF)
