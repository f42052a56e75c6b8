"""Intervals and tests against values worked out by hand, and what must hold for any data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.studies.inference import bootstrap, median, paired, sign_flip
from experiments.studies.sigmoid import fit

SHARES = st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=4), min_size=1, max_size=4)


def test_a_constant_has_no_spread() -> None:
    found = bootstrap([[0.25, 0.25], [0.25]])
    assert (found.mean, found.low, found.high) == (0.25, 0.25, 0.25)


def test_two_groups_of_one_value_give_the_two_values_as_interval() -> None:
    """Four equally likely draws: (0,0), (0,1), (1,0), (1,1); 2.5 % lies among the quarter of 0."""
    found = bootstrap([[0.0], [1.0]])
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)


def test_many_values_in_one_group_have_the_interval_of_the_normal_law() -> None:
    """The standard error of a mean of 400 coin flips is 0.025."""
    found = bootstrap([[0.0, 1.0] * 200])
    assert found.low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.006)
    assert found.high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.006)


def test_many_problems_do_not_stand_in_for_few_seeds() -> None:
    """Seeds at 0 and at 1: however many problems, the interval must span both."""
    few, many = ([[0.0] * n, [1.0] * n] for n in (1, 1000))
    assert bootstrap(many) == bootstrap(few)


def test_a_median_counts_the_infinite_as_largest() -> None:
    assert median(np.array([1.0, math.inf, 2.0])) == 2.0
    assert bootstrap([[1.0], [3.0], [9.0]], median).mean == 3.0


@given(SHARES)
@settings(max_examples=15, deadline=None)
def test_an_interval_lies_within_the_data_and_is_the_same_again(groups: list[list[float]]) -> None:
    found = bootstrap(groups)
    values = [v for group in groups for v in group]
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9
    assert found == bootstrap(groups)


@pytest.mark.parametrize("groups", [[], [[]], [[1.0], []]])
def test_nothing_has_no_interval(groups: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        bootstrap(groups)


def test_sign_flips_by_hand() -> None:
    """Of ±1 ±2 ±3, |sum| ≥ 6 in 2 of 8 ways, ≥ 4 in 4 of 8 and ≥ 0 in all."""
    assert sign_flip([1, 2, 3]) == 2 / 8
    assert sign_flip([-1, 2, 3]) == 4 / 8
    assert sign_flip([1, 2, -3]) == 1.0
    assert sign_flip([0.5] * 5) == 2 / 32
    assert sign_flip([0.0, 0.0]) == 1.0


def test_many_pairs_are_drawn_and_agree_with_the_normal_law() -> None:
    """40 differences of ±1, 26 of them positive: a sum of 12 lies 1.9 deviations off, and the two
    tails from there hold 8 %, the lattice's own step included."""
    p = sign_flip([1.0] * 26 + [-1.0] * 14)
    assert p == pytest.approx(0.081, abs=0.01)
    assert sign_flip([1.0] * 40) < 1e-3


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=8))
@settings(deadline=None)
def test_p_is_at_least_what_the_number_of_pairs_allows(differences: list[float]) -> None:
    assert 2 / 2 ** len(differences) <= sign_flip(differences) <= 1
    assert sign_flip(differences) == sign_flip([-d for d in differences])


def test_a_test_needs_a_pair() -> None:
    with pytest.raises(ValueError, match="at least one difference"):
        sign_flip([])


def test_a_paired_difference_does_not_see_what_both_arms_share() -> None:
    """Problems differ wildly in difficulty; the arms by 0.1 on each."""
    hard = [[0.0, 0.9, 0.3], [0.5, 0.1, 0.8]]
    easier = [[v + 0.1 for v in group] for group in hard]
    found = paired(easier, hard)
    assert found.estimate.mean == pytest.approx(0.1)
    assert found.estimate.low == pytest.approx(0.1)
    assert found.estimate.high == pytest.approx(0.1)
    assert (found.p, found.n) == (0.5, 2)


def test_seeds_count_alike_whatever_their_number_of_problems() -> None:
    found = paired([[1.0], [0.0] * 9], [[0.0], [0.0] * 9])
    assert found.estimate.mean == 0.5


def test_arms_on_other_seeds_are_not_paired() -> None:
    with pytest.raises(ValueError, match="same seeds and problems"):
        paired([[1.0, 0.0]], [[1.0]])


# -- the sigmoid ------------------------------------------------------------------------------


def curve(
    start: float, end: float, middle: float, steepness: float, spent: list[float]
) -> list[float]:
    """The formula of the paper, written once more."""
    return [start + (end - start) / (1 + (middle / c) ** steepness) for c in spent]


SPENT = [float(c) for c in range(128, 19_585, 384)]


@pytest.mark.parametrize(
    ("start", "end", "middle", "steepness"),
    [(0.0, 0.9, 9000.0, 4.0), (0.05, 0.4, 3000.0, 2.0), (0.2, 1.0, 6000.0, 8.0)],
)
def test_a_curve_without_noise_gives_its_parameters_back(
    start: float, end: float, middle: float, steepness: float
) -> None:
    found = fit(SPENT, curve(start, end, middle, steepness, SPENT))
    assert found.start == pytest.approx(start, abs=0.005)
    assert found.asymptote == pytest.approx(end, abs=0.01)
    assert found.middle == pytest.approx(middle, rel=0.02)
    assert found.steepness == pytest.approx(steepness, rel=0.03)
    assert found.error < 1e-3
    assert found.at(SPENT[7]) == pytest.approx(
        curve(start, end, middle, steepness, SPENT)[7], abs=2e-3
    )


def test_noise_moves_the_asymptote_little() -> None:
    noise = np.random.default_rng(0).normal(0, 0.03, len(SPENT))
    seen = np.array(curve(0.0, 0.9, 8000.0, 4.0, SPENT)) + noise
    found = fit(SPENT, seen.tolist())
    assert found.asymptote == pytest.approx(0.9, abs=0.04)
    assert found.error == pytest.approx(0.03, abs=0.01)


def test_a_curve_that_never_rises_has_its_level_as_asymptote() -> None:
    assert fit(SPENT, [0.0] * len(SPENT)).asymptote == 0.0
    assert fit(SPENT, [0.3] * len(SPENT)).asymptote == pytest.approx(0.3)


def test_the_asymptote_stays_within_the_bounds_of_a_score() -> None:
    """Half of a rise to 1.6 has been seen; no share of right answers can get there."""
    found = fit(SPENT, curve(0.0, 1.6, 19_000.0, 3.0, SPENT))
    assert found.asymptote == 1.0


@given(
    st.lists(st.floats(0, 1), min_size=4, max_size=12),
)
@settings(max_examples=25, deadline=None)
def test_any_curve_has_a_fit_that_is_no_worse_than_its_mean(reward: list[float]) -> None:
    spent = [100.0 * (i + 1) for i in range(len(reward))]
    found = fit(spent, reward)
    assert 0 <= found.asymptote <= 1
    assert 0 <= found.start <= 1
    assert found.error <= float(np.std(reward)) + 1e-6


@pytest.mark.parametrize(
    ("spent", "reward"),
    [([1.0, 2.0, 3.0], [0.0] * 3), ([0.0, 1.0, 2.0, 3.0], [0.0] * 4), (SPENT[:4], [math.nan] * 4)],
)
def test_what_cannot_be_fitted_is_refused(spent: list[float], reward: list[float]) -> None:
    with pytest.raises(ValueError, match=r"point|finite"):
        fit(spent, reward)
