"""Which proposals are worth an anchor set: golden values, and what must hold of any scores."""

from __future__ import annotations

import math
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest
from gepa.proposer.base import CandidateProposal
from hypothesis import given
from hypothesis import strategies as st

from fst_agents.config import Acceptance
from optimizers.acceptance import PairedAcceptance, State, beyond_noise

score = st.floats(-0.1, 1.0)
minibatch = st.lists(st.tuples(score, score), min_size=1, max_size=8)
anchor = st.lists(score, min_size=2, max_size=20)

HALF = [0.0, 1.0] * 48
"""An anchor set of 96 with half of the answers right: the variance of one is 0.2526."""


@pytest.mark.parametrize(
    ("right", "accepted"),
    [
        # Of 6 problems the parent has none. √(2 · 0.2526 / 6) = 0.290: 1/6 is less, 2/6 is more.
        (1, False),
        (2, True),
    ],
)
def test_one_lucky_answer_of_six_is_not_enough(right: int, accepted: bool) -> None:
    after = [1.0] * right + [0.0] * (6 - right)
    assert beyond_noise([0.0] * 6, after, HALF) is accepted


def test_one_answer_is_enough_where_the_parent_never_scores() -> None:
    """What cannot happen by chance needs no second witness: the zero-reward regime."""
    assert beyond_noise([0.0] * 6, [1.0] + [0.0] * 5, [0.0] * 96)
    assert not beyond_noise([0.0] * 6, [0.0] * 6, [0.0] * 96)


def test_more_problems_make_smaller_improvements_count() -> None:
    """A gain of 0.2: below √(2 · 0.2526 / 6) = 0.290, above √(2 · 0.2526 / 24) = 0.145."""
    assert not beyond_noise([0.4] * 6, [0.6] * 6, HALF)
    assert beyond_noise([0.4] * 24, [0.6] * 24, HALF)


@given(pairs=minibatch, known=anchor, z=st.floats(0, 4))
def test_what_is_accepted_is_an_improvement_and_a_stricter_test_accepts_less(
    pairs: list[tuple[float, float]], known: list[float], z: float
) -> None:
    before, after = [b for b, _ in pairs], [a for _, a in pairs]
    if beyond_noise(before, after, known, z + 0.5):
        assert beyond_noise(before, after, known, z)
        assert sum(after) > sum(before)


@given(pairs=minibatch, known=anchor)
def test_nobody_beats_himself_and_the_order_does_not_matter(
    pairs: list[tuple[float, float]], known: list[float]
) -> None:
    before, after = [b for b, _ in pairs], [a for _, a in pairs]
    assert not beyond_noise(before, before, known)
    assert not (beyond_noise(before, after, known) and beyond_noise(after, before, known))


def test_a_text_that_changes_nothing_gets_past_one_time_in_six() -> None:
    """Strictly better by chance: 39 % of the time at 6 problems, half of them right."""
    rng, tries = Random(0), 4000
    draws = [[[float(rng.random() < 0.5) for _ in range(6)] for _ in "ab"] for _ in range(tries)]
    strict = sum(sum(b) > sum(a) for a, b in draws) / tries
    careful = sum(beyond_noise(a, b, HALF) for a, b in draws) / tries
    assert strict == pytest.approx(0.39, abs=0.03)
    assert careful == pytest.approx(0.19, abs=0.03)


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
        ("beyond_noise", [1.0, 0.0, 0.0], False),
        ("beyond_noise", [1.0, 1.0, 0.0], True),
    ],
)
def test_each_kind_at_the_seam(kind: Acceptance, after: list[float], accepted: bool) -> None:
    assert judged(kind, [0.0, 0.0, 0.0], after, HALF) is accepted


@pytest.mark.parametrize("kind", ["strict_improvement", "improvement_or_equal", "beyond_noise"])
def test_masked_rollouts_are_in_no_comparison(kind: Acceptance) -> None:
    lost = math.nan
    assert judged(kind, [0.0, 0.0, lost], [1.0, 1.0, 0.0], [*HALF, lost])
    assert not judged(kind, [0.0, lost, 1.0], [lost, 1.0, 0.0], HALF)
    assert not judged(kind, [lost], [1.0], HALF)


def test_no_problem_in_common_is_a_rejection() -> None:
    assert not beyond_noise([], [], HALF)
