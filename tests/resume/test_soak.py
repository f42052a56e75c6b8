"""The soak tells a run that grows from one that does not, and watches a real one."""

from __future__ import annotations

import pytest

from experiments.bench.soak import Reading, movements, run
from fst_agents.errors import FstError


def readings(leak: float) -> list[Reading]:
    """Ten, a minute and 100 steps apart; the first is that of a process that still starts."""
    return [
        Reading(
            seconds=60.0 * k,
            memory=300.0 + leak * k if k else 50.0,
            files=20,
            threads=70,
            processes=1,
            disk=2.0 * k,
            steps=100 * k,
            rollouts=1000 * k,
        )
        for k in range(11)
    ]


def test_a_leak_is_a_slope() -> None:
    flat, leaking = movements(readings(0.0)), movements(readings(1.5))
    assert flat["memory"]["per_1000_steps"] == pytest.approx(0.0, abs=1e-9)
    assert leaking["memory"]["per_1000_steps"] == pytest.approx(15.0)
    assert leaking["memory"]["first"] == 301.5
    assert leaking["memory"]["last"] == leaking["memory"]["most"] == 315.0
    assert flat["files"] == {
        "first": 20,
        "last": 20,
        "most": 20,
        "per_1000_steps": pytest.approx(0),
    }


def test_speed_is_that_of_two_halves() -> None:
    slower = [
        Reading(60.0 * k, 1.0, 1, 1, 1, 1.0, k, 600 * min(k, 5) + 300 * max(k - 5, 0))
        for k in range(1, 10)
    ]
    rates = movements(slower)["rollouts_per_second"]
    assert rates == {"first_half": pytest.approx(10.0), "second_half": pytest.approx(5.0)}


def test_too_short_a_soak_says_so() -> None:
    with pytest.raises(FstError, match="too short"):
        movements(readings(0.0)[:2])


@pytest.mark.slow
def test_a_real_run_is_watched() -> None:
    result = run(minutes=1.0)
    assert result["stopped"] == "budget.seconds"
    assert result["steps"] > 0
    assert result["rollouts"]["slow"] > 0
    assert result["memory"]["last"] > 100
    assert result["files"]["most"] > 3
    assert result["rollouts_per_second"]["second_half"] > 0
