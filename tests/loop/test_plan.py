"""Every arm spends at most the same; values by hand."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import questions, tiny
from hypothesis import given
from hypothesis import strategies as st

from fst_agents.config import ARMS
from fst_agents.errors import ConfigError
from fst_agents.run_file import parse
from fst_agents.stream import ProblemStream
from optimizers.plan import (
    FastPhase,
    SlowPhase,
    cycle_rollouts,
    phase_rollouts,
    plan,
    slow_step_rollouts,
    total_rollouts,
)


def test_a_cycle_costs_its_fast_phase_and_t_steps() -> None:
    """30 + 2 steps · 4 problems · 4 rollouts = 62; two cycles 124."""
    config = tiny()
    assert slow_step_rollouts(config) == 16
    assert cycle_rollouts(config) == 62
    assert total_rollouts(config) == 124


@pytest.mark.parametrize(
    ("arm", "phases"),
    [
        ("fst", [FastPhase(0, 2, 30, False), SlowPhase(0, 2),
                 FastPhase(1, 2, 30, False), SlowPhase(1, 2)]),
        ("sequential", [FastPhase(0, 2, 30, True), FastPhase(1, 2, 30, True),
                        SlowPhase(0, 2), SlowPhase(1, 2)]),
        ("gepa", [FastPhase(0, 2, 62, True), FastPhase(1, 2, 62, True)]),
        # 124 // 16 = 7 steps
        ("rl", [SlowPhase(0, 2), SlowPhase(1, 2), SlowPhase(2, 2), SlowPhase(3, 1)]),
    ],
)  # fmt: skip
def test_the_phases_of_each_arm(arm: str, phases: list[Any]) -> None:
    assert plan(tiny(arm=arm)) == phases


@given(
    steps=st.integers(1, 5),
    batch=st.integers(1, 8),
    share=st.integers(1, 4),
    members=st.integers(1, 4),
    extra=st.integers(0, 50),
    cycles=st.integers(1, 5),
    more=st.integers(0, 500),
)
def test_no_arm_spends_more_than_the_common_total(
    steps: int, batch: int, share: int, members: int, extra: int, cycles: int, more: int
) -> None:
    size = max(2, share * members)
    if size % members:
        return
    fast = (members + 1) * batch * steps + extra
    data: dict[str, Any] = {
        "slow": {"steps_per_cycle": steps, "batch_size": batch, "group_size": size},
        "fast": {"population": members, "rollouts": fast},
        "budget": {"cycles": cycles},
    }
    total = total_rollouts(parse(data))
    for limit in (total, total + more):
        for arm in (arm for arm in ARMS if arm != "distill"):  # its finishing stage is no phase
            config = parse({**data, "arm": arm, "budget": {"rollouts": limit}})
            spent = sum(phase_rollouts(phase, config) for phase in plan(config))
            assert spent <= limit
            least = slow_step_rollouts(config) if arm == "rl" else cycle_rollouts(config)
            assert spent > limit - least


def test_a_budget_below_one_cycle_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"budget.rollouts: got 61, but one cycle .* costs 62"):
        plan(tiny(budget={"rollouts": 61}))
    assert plan(tiny(arm="rl", budget={"rollouts": 61}))
    with pytest.raises(ConfigError, match="one RL step of these settings costs 16"):
        plan(tiny(arm="rl", budget={"rollouts": 15}))


def test_look_ahead_is_what_comes_next() -> None:
    stream = ProblemStream(questions(10), 3, seed=1)
    stream.skip(2)  # the last batch of the first epoch comes next, then a new shuffle
    ahead = stream.look_ahead(2)
    met = [*stream.next(), *stream.next()]
    assert [p.id for p in ahead] == list(dict.fromkeys(p.id for p in met))
    assert stream.cursor == 4


@given(size=st.integers(1, 20), batch=st.integers(1, 20), seed=st.integers(0, 5))
def test_an_epoch_meets_each_problem_at_most_once(size: int, batch: int, seed: int) -> None:
    if batch > size:
        with pytest.raises(ConfigError, match=r"slow.batch_size"):
            ProblemStream(questions(size), batch, seed)
        return
    stream = ProblemStream(questions(size), batch, seed)
    for _ in range(3):
        epoch = [p.id for _ in range(size // batch) for p in stream.next()]
        assert len(set(epoch)) == len(epoch) == size // batch * batch


def test_epochs_differ_and_the_seed_decides() -> None:
    def order(seed: int) -> list[list[str]]:
        stream = ProblemStream(questions(8), 8, seed)
        return [[p.id for p in stream.next()] for _ in range(2)]

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert order(0)[0] != order(0)[1]
    resumed = ProblemStream(questions(8), 8, 0)
    resumed.skip(1)
    assert [p.id for p in resumed.next()] == order(0)[1]
