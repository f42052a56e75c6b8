"""Peaks, levels and KL at matched reward, on curves small enough to read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.studies.continual import by_stage, stage_peaks
from experiments.studies.curves import (
    Point,
    fewer_steps,
    kl_ratio,
    measured,
    peak,
    reaching,
    smooth,
    speed_up,
)
from experiments.studies.figures import mean_curve
from fst_agents.run_file import parse


def made(*exact: float, every: int = 100, kl: float = 0.1) -> list[Point]:
    """A curve with a point every 100 rollouts, 5 to an RL step, whose KL rises with each."""
    return [Point((i + 1) * every, e, e, kl * (i + 1), 5 * (i + 1)) for i, e in enumerate(exact)]


def test_smoothing_stands_at_the_end_of_its_window() -> None:
    found = smooth(made(0.0, 0.2, 0.4), 2)
    assert [(p.rollouts, p.exact) for p in found] == [(200, 0.1), (300, pytest.approx(0.3))]
    assert [p.steps for p in found] == [10, 15]
    assert found[0].kl == pytest.approx(0.15)


def test_the_kl_of_a_window_is_that_of_the_steps_that_measured_it() -> None:
    curve = [Point(n, 0.0, 0.0, kl, n) for n, kl in ((1, None), (2, 0.3), (3, None))]
    assert [p.kl for p in smooth(curve, 2)] == [0.3, 0.3]
    assert [p.kl for p in smooth(curve, 1)] == [None, 0.3, None]
    assert [p.rollouts for p in measured(smooth(curve, 1))] == [2]


def test_a_curve_shorter_than_its_window_is_one_point() -> None:
    assert [p.rollouts for p in smooth(made(0.0, 1.0), 6)] == [200]
    assert smooth([], 6) == ()


@given(st.lists(st.floats(0, 1), max_size=20), st.integers(1, 8))
def test_smoothing_keeps_the_end_and_leaves_the_range(exact: list[float], window: int) -> None:
    curve = made(*exact)
    found = smooth(curve, window)
    assert len(found) == (max(1, len(curve) - window + 1) if curve else 0)
    if found:
        assert found[-1].rollouts == curve[-1].rollouts
        assert min(exact) - 1e-9 <= found[-1].exact <= max(exact) + 1e-9


def test_no_window_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 1"):
        smooth([], 0)


def test_the_peak_is_the_first_of_the_highest() -> None:
    top = peak(made(0.1, 0.5, 0.5, 0.2))
    assert top is not None
    assert top.rollouts == 200
    assert peak([]) is None


def test_speed_up_is_rollouts_to_the_slow_arms_peak() -> None:
    """RL peaks at 0.5 after 400; FST is there after 100, or never."""
    rl = made(0.0, 0.1, 0.3, 0.5)
    assert speed_up(rl, made(0.6, 0.9)) == 4.0
    assert speed_up(rl, made(0.1, 0.4, 0.4)) == 0.0
    assert speed_up([], made(0.5)) is None


def test_speed_up_to_a_share_of_the_peak_counts_both_arms_to_that_level() -> None:
    """Half of RL's peak: RL is there after 300, FST after 200."""
    rl = made(0.0, 0.1, 0.3, 0.5)
    assert speed_up(rl, made(0.1, 0.3), 0.5) == 1.5


def test_fewer_steps_leave_out_what_fast_phases_cost() -> None:
    """RL peaks at its 3rd point, after 15 steps; FST is there after 5, whatever it has spent."""
    rl = made(0.0, 0.1, 0.5, 0.4)
    assert fewer_steps(rl, made(0.6, every=900)) == 3.0
    assert fewer_steps(rl, made(0.1, 0.2, 0.6)) == 1.0
    assert fewer_steps(rl, made(0.1)) == 0.0
    assert fewer_steps([], rl) is None


def test_what_an_instruction_alone_reaches_counts_as_one_step() -> None:
    assert fewer_steps(made(0.1, 0.5), [Point(576, 0.7, 0.7, None, 0)]) == 10.0


def test_kl_is_compared_at_the_highest_level_that_both_reach() -> None:
    """Both reach 0.4: FST at its 1st step (KL 0.1), RL at its 4th (KL 0.8)."""
    fst, rl = made(0.4, 0.8), made(0.0, 0.1, 0.2, 0.4, kl=0.2)
    assert kl_ratio(fst, rl) == pytest.approx(0.1 / 0.8)
    assert kl_ratio(fst, made(0.0, 0.0)) is None
    assert kl_ratio(fst, made(0.4, kl=0.0)) is None
    assert kl_ratio([], rl) is None


def test_reaching_and_between() -> None:
    curve = made(0.1, 0.2, 0.3)
    assert reaching(curve, 0.15) == curve[1]
    assert reaching(curve, 0.31) is None


SMALL = parse(
    {
        "fast": {"population": 1, "rollouts": 40},
        "slow": {"steps_per_cycle": 2, "batch_size": 5, "group_size": 6},
    }
)
"""A cycle commits 40 + 2 · 30 rollouts."""


def test_the_peak_of_a_stage_does_not_see_the_stage_before() -> None:
    """Two points a stage; a window of two over the switch would see (0.9 + 0.1) / 2."""
    curve = tuple(made(0.7, 0.9, 0.1, 0.3, 0.0, 0.5))
    assert stage_peaks(curve, SMALL, 1) == [pytest.approx(v) for v in (0.8, 0.2, 0.25)]
    assert stage_peaks(curve[:2], SMALL, 1) == [pytest.approx(0.8), 0.0, 0.0]


def test_the_stages_of_rl_change_where_its_problems_do() -> None:
    """A cycle of 100 rollouts pays three RL steps of 30: by rollouts the fourth would still be the
    first stage's."""
    rl = SMALL.model_copy(update={"arm": "rl"})
    curve = tuple(made(*([0.5] * 10), every=30))
    assert [len(part) for part in by_stage(curve, rl, 1)] == [3, 3, 4]


def test_what_a_fast_phase_leaves_unspent_moves_no_stage() -> None:
    """One cycle a stage; the fast phases spend 10 each, so that by rollouts the fifth step, of the
    third stage, stood at 180: in the second."""
    spent = (40, 70, 110, 140, 180, 210)
    curve = tuple(Point(at, 0.0, 0.0, 0.0, n) for n, at in enumerate(spent, start=1))
    assert [[p.rollouts for p in part] for part in by_stage(curve, SMALL, 1)] == [
        [40, 70],
        [110, 140],
        [180, 210],
    ]


def test_stages_of_an_adaptive_run_count_the_fast_phases_that_ran() -> None:
    """Fast phases of 10 and of 20 before the first and the fifth step. The third batch was drawn
    behind 40 + 60 rollouts, so that it is the second stage's; the fifth behind 80 + 120."""
    fast = SMALL.fast.model_copy(update={"schedule": "adaptive"})
    spent = (40, 70, 100, 130, 180, 210)
    curve = tuple(Point(at, 0.0, 0.1 * n, 0.0, n + 1) for n, at in enumerate(spent))
    parts = by_stage(curve, SMALL.model_copy(update={"fast": fast}), 1)
    assert [[p.rollouts for p in part] for part in parts] == [[40, 70], [100, 130], [180, 210]]


def test_a_run_that_has_ended_stays_where_it_was() -> None:
    points = mean_curve([tuple(made(0.0, 1.0)), tuple(made(0.0, 0.0, 0.0, 0.0))], lambda p: p.exact)
    assert points[0] == (100.0, 0.0)
    assert points[-1] == (400.0, 0.5)
    assert mean_curve([()], lambda p: p.exact) == []
