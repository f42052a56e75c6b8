"""When Φ evolves: golden values of every signal, what must hold of any run, and exact budgets."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import SEED, guess, questions, tiny, world
from hypothesis import given, settings
from hypothesis import strategies as st

from fst_agents.config import RunConfig
from fst_agents.errors import ConfigError
from fst_agents.stream import StagedStream
from fst_agents.types import Feedback, Outcome, Pace, Pulse, Rollout, RolloutGroup
from optimizers.plan import (
    FastPhase,
    SlowPhase,
    adapts,
    most_rollouts,
    phase_rollouts,
    plan,
    slow_step_rollouts,
    total_rollouts,
)
from optimizers.schedule import REASONS, Reason, Rules, Schedule, decide, pulse, reason_of

RULES = Rules(best=1.0, flat=0.5, drop=0.1, rise=0.02, patience=2, cycle=2)


def cycles(*means: float, flat: float = 0.0) -> list[Pulse]:
    """Two steps of each cycle, a little to both sides of its mean."""
    return [Pulse(mean + side, flat) for mean in means for side in (-0.01, 0.01)]


# -- the decision --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pulses", "reason"),
    [
        (cycles(), "learning"),
        (cycles(0.3), "learning"),  # a single cycle has no trend
        (cycles(0.3, 0.4, 0.5), "learning"),
        (cycles(0.3, 0.315), "plateau"),  # 0.015 < 0.02
        (cycles(0.3, 0.325), "learning"),
        (cycles(0.3, 0.6, 0.61), "plateau"),  # the last two cycles count
        (cycles(0.98, 0.985), "solved"),  # 0.015 are left
        (cycles(0.985), "solved"),
        (cycles(0.97, 0.975), "plateau"),  # 0.025 are left
        (cycles(0.9, 0.79), "drop"),
        (cycles(0.9, 0.85, 0.79), "drop"),  # from the best cycle, not from the last
        (cycles(0.9, 0.81), "plateau"),  # 0.09 is no drop yet
        (cycles(0.2, flat=0.6), "flat groups"),
        (cycles(0.9, 0.2, flat=0.6), "flat groups"),
        (cycles(0.3, flat=0.4), "learning"),
        ([*cycles(0.1, flat=1.0), *cycles(0.3)], "learning"),  # only the newest cycle's groups
    ],
)
def test_every_signal_by_hand(pulses: list[Pulse], reason: Reason) -> None:
    decision = decide(pulses, RULES)
    assert decision.reason == reason
    assert decision.evolve is (reason not in ("learning", "solved"))


def test_patience_is_how_far_back_the_rise_is_measured() -> None:
    """0.03 in three cycles are a rise, but 0.015 in the last two of them are none."""
    slow = cycles(0.3, 0.315, 0.33)
    assert decide(slow, RULES).reason == "plateau"
    assert decide(slow, Rules(1.0, 0.5, 0.1, 0.02, patience=3, cycle=2)).reason == "learning"


def test_the_thresholds_are_shares_of_the_score_range() -> None:
    rules = Rules.of(tiny(task={"score_range": [-1.0, 3.0]}))
    assert (rules.best, rules.drop, rules.rise) == (3.0, pytest.approx(0.4), pytest.approx(0.08))
    assert (rules.flat, rules.patience, rules.cycle) == (0.5, 2, 2)
    assert Rules.of(tiny()).best == 1.0


reward = st.floats(0, 1)
history = st.lists(st.builds(Pulse, reward, reward), max_size=12)


@given(pulses=history)
def test_a_decision_says_why_and_can_be_read_back(pulses: list[Pulse]) -> None:
    decision = decide(pulses, RULES)
    assert decision.evolve is (decision.reason in ("flat groups", "drop", "plateau"))
    metrics = decision.metrics()
    assert reason_of(metrics) == decision.reason
    assert sum(metrics[name] for name in metrics if name.startswith("fast/because/")) == 1.0


@given(pulses=history, more=st.floats(0, 0.5), steps=st.integers(0, 3))
def test_stricter_rules_never_evolve_more_often(
    pulses: list[Pulse], more: float, steps: int
) -> None:
    strict = Rules(1.0, 0.5 + more, 0.1 + more, max(0.0, 0.02 - more), 2, 2)
    assert not decide(pulses, strict).evolve or decide(pulses, RULES).evolve


def test_no_reason_was_written_down_by_a_fixed_schedule() -> None:
    assert reason_of({"fast/best_mean": 0.5}) is None


# -- what a step says ----------------------------------------------------------------------------


def group(*scores: float | None) -> RolloutGroup:
    rollouts = tuple(
        Rollout("p", "c", 0, (), Feedback(s, ""), Outcome.INFRA_ERROR if s is None else Outcome.OK)
        for s in scores
    )
    return RolloutGroup("p", rollouts)


def test_flat_groups_count_only_below_the_best_score() -> None:
    groups = [group(0.0, 0.0), group(1.0, 1.0), group(0.0, 1.0), group(0.5, 0.5, None)]
    assert pulse(groups, ["flat", "flat", "kept", "flat"], 1.0) == Pulse(0.5, 0.5)


def test_a_group_is_flat_where_the_bridge_trains_on_none_of_it() -> None:
    """Scores of predictors may differ where the program's do not, and the other way round."""
    assert pulse([group(0.5, 0.5)], ["kept"], 1.0) == Pulse(0.5, 0.0)
    assert pulse([group(0.5, 0.7)], ["flat"], 1.0) == Pulse(0.6, 1.0)


def test_what_has_no_two_scores_says_nothing() -> None:
    assert pulse([group(0.3, None), group(None, None)], ["thin", "thin"], 1.0) == Pulse(0.3, 0.0)
    assert pulse([group(None)], ["thin"], 1.0) == Pulse(0.0, 0.0)


def test_a_score_above_the_best_one_is_the_requests_fault() -> None:
    with pytest.raises(ConfigError, match=r"task.score_range: a score of 70 is above"):
        pulse([group(70.0, 3.0)], ["kept"], 1.0)


# -- the plan ------------------------------------------------------------------------------------


def adaptive(**sections: Any) -> RunConfig:
    return tiny(**{**sections, "fast": {"schedule": "adaptive", **sections.pop("fast", {})}})


def test_the_other_arms_have_nothing_to_choose() -> None:
    for arm in ("rl", "gepa", "sequential"):
        assert not adapts(adaptive(arm=arm))
        assert plan(adaptive(arm=arm)) == plan(tiny(arm=arm))
    assert adapts(adaptive())


def walk(config: RunConfig, verdicts: Callable[[], bool]) -> tuple[int, int]:
    """Fast phases and RL steps of a run whose decisions are drawn; see the loop for the order."""
    schedule, step, phases = Schedule(config), 0, plan(config)
    for phase in phases:
        if isinstance(phase, FastPhase):
            flat = [Pulse(0.0, 1.0 if verdicts() else 0.0)] * config.slow.steps_per_cycle
            # Two equal cycles would be a plateau.
            schedule.pace = Pace(
                schedule.pace.evolved, tuple(flat) if schedule.pace.evolved else ()
            )
            if schedule.decide(step).evolve:
                schedule.evolves()
            continue
        for _ in range(phase.steps):
            step += 1
            if schedule.spent_up(step):
                return schedule.pace.evolved, step
    return schedule.pace.evolved, step


@settings(max_examples=200)
@given(
    steps=st.integers(1, 4),
    batch=st.integers(1, 4),
    extra=st.integers(0, 60),
    cycles=st.integers(1, 6),
    more=st.integers(0, 200),
    seed=st.integers(0, 1000),
)
def test_whatever_is_decided_the_budget_is_spent_to_the_last_step_and_never_exceeded(
    steps: int, batch: int, extra: int, cycles: int, more: int, seed: int
) -> None:
    config = adaptive(
        slow={"steps_per_cycle": steps, "batch_size": batch, "group_size": 4},
        fast={"population": 2, "rollouts": 3 * steps * batch + extra},
        budget={"cycles": cycles},
    )
    limit = total_rollouts(config) + more
    config = config.model_copy(
        update={"budget": config.budget.model_copy(update={"rollouts": limit})}
    )
    rng = random.Random(seed)
    evolved, taken = walk(config, lambda: rng.random() < 0.5)
    spent = evolved * config.fast.rollouts + taken * slow_step_rollouts(config)
    assert evolved >= 1
    assert limit - slow_step_rollouts(config) < spent <= limit
    assert most_rollouts(plan(config), config) <= limit


# -- the loop ------------------------------------------------------------------------------------


def kinds(log: Sequence[tuple[Any, ...]]) -> str:
    return "".join({"evolve": "F", "update": "s"}.get(entry[0], "") for entry in log)


def test_flat_groups_call_for_a_fast_phase_in_every_cycle(tmp_path: Path) -> None:
    """All is wrong: as fixed. 30 + 2 · 16 rollouts a cycle, 124 in all."""
    made = world(tmp_path, adaptive(), metric=lambda gold, pred: 0.0)
    made.loop.run(plan(made.parts.config))
    assert kinds(made.log) == "FssFss"
    assert made.loop.stopped == "done"


def test_what_is_solved_goes_to_rl_steps(tmp_path: Path) -> None:
    """All is right: one fast phase of 30, and 94 // 16 = 5 RL steps of 16."""
    made = world(tmp_path, adaptive(), metric=lambda gold, pred: 1.0)
    made.loop.run(plan(made.parts.config))
    assert kinds(made.log) == "Fsssss"
    assert made.loop.stopped == "done"
    assert made.loop.books.spend.slow_rollouts == 80
    assert made.parts.stream.cursor == 5
    assert made.run_dir.state().pace == made.loop._schedule.pace  # pyright: ignore[reportPrivateUsage]


def test_a_drop_is_noticed_though_nobody_announces_it(tmp_path: Path) -> None:
    answered: list[int] = []

    def switches(gold: Any, prediction: Any) -> float:
        answered.append(1)
        return float(prediction.answer == "yes") if len(answered) > 150 else 1.0

    config = adaptive(budget={"cycles": 5}, fast={"adaptive_flat": 1.0})
    made = world(tmp_path, config, metric=switches)
    made.loop.run(plan(made.parts.config))
    reasons = [reason_of(e["metrics"]) for e in made.run_dir.metrics() if e["phase"] == "fast"]
    assert reasons[:2] == ["first", "solved"]
    assert "drop" in reasons


def test_the_decision_and_its_reason_are_logged(tmp_path: Path) -> None:
    made = world(tmp_path, adaptive(), metric=lambda gold, pred: 1.0)
    made.loop.run(plan(made.parts.config))
    lines = [e for e in made.run_dir.metrics() if e["phase"] == "fast"]
    assert [(reason_of(e["metrics"]), e["step"]) for e in lines] == [
        ("first", 0), ("solved", 2), ("solved", 4),
    ]  # fmt: skip
    assert [e["metrics"]["fast/evolves"] for e in lines] == [1.0, 0.0, 0.0]
    assert lines[1]["metrics"]["fast/signal/reward"] == 1.0
    assert made.tracker.metric("fast/because/solved")[-1] == (4, 1.0)
    assert set(REASONS) >= {reason_of(e["metrics"]) for e in lines}


def test_the_champion_is_who_earns_most_in_rl_steps(tmp_path: Path) -> None:
    """The fast phase of the recorder thinks both alike; the seed's answers are worth half."""

    def metric(gold: Any, prediction: Any) -> float:
        return 1.0

    made = world(tmp_path, adaptive(), metric=metric)
    run_dir = made.run_dir
    kept = run_dir.add_rollouts

    def halved(where: int | str, rollouts: Any) -> Path:
        scored = [
            replace(r, feedback=Feedback(0.5, "")) if r.candidate_id == SEED.id else r
            for r in rollouts
        ]
        return kept(where, scored if isinstance(where, int) else rollouts)

    run_dir.add_rollouts = halved
    made.loop.run(plan(made.parts.config))
    first, *later = run_dir.populations()
    assert first["champion"] == SEED.id
    assert [(p["cycle"], p["champion"] == SEED.id) for p in later] == [(1, False), (2, False)]
    assert made.loop.population.best != SEED
    assert made.loop.population.mean(SEED.id) == 0.5
    assert made.loop.population.policy_version == made.loop.policy.version
    steps = [r for n in (4, 5) for r in run_dir.rollouts(run_dir.rollout_file(n))]
    assert set(made.loop.population.scores[SEED.id]) == {r.problem_id for r in steps}


def test_a_fixed_schedule_logs_nothing_of_it(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.loop.run(plan(made.parts.config))
    assert not any("fast/evolves" in e["metrics"] for e in made.run_dir.metrics())
    assert made.run_dir.state().pace == Pace(2)


def test_scores_beyond_the_range_stop_an_adaptive_run(tmp_path: Path) -> None:
    made = world(tmp_path, adaptive(), metric=lambda gold, pred: 3.0)
    with pytest.raises(ConfigError, match=r"task.score_range: a score of 3 is above"):
        made.loop.run(plan(made.parts.config))


# -- problems that change on the way -------------------------------------------------------------


def stages(config: RunConfig, cycles: int) -> StagedStream:
    parts = [questions(8), [*questions(16)][8:]]
    batches = cycles * config.slow.steps_per_cycle
    return StagedStream(parts, config.slow.batch_size, 0, batches=batches)


def test_fixed_and_adaptive_meet_the_change_after_the_same_rollouts(tmp_path: Path) -> None:
    """A stage of two cycles: 124 rollouts. Solved: 30 + 6 · 16 = 126, so that it is the 7th batch
    that the second stage begins with, not the 5th."""
    config = adaptive(budget={"cycles": 4})
    made = world(tmp_path, config, script=guess, metric=lambda gold, pred: 1.0)
    made.parts.stream = stages(config, 2)
    made.loop.run(plan(config))
    names = [
        {r.problem_id for r in made.run_dir.rollouts(f)}
        for f in made.run_dir.rollout_files()
        if f.name.startswith("step-")
    ]
    second = {p.id for p in questions(16)[8:]}
    assert [bool(batch & second) for batch in names[:9]] == [False] * 6 + [True] * 3


@given(verdicts=st.lists(st.booleans(), min_size=12, max_size=12))
def test_a_stage_ends_with_the_first_batch_behind_its_rollouts(verdicts: list[bool]) -> None:
    config = adaptive(budget={"cycles": 12})
    schedule, stream, step = Schedule(config), stages(config, 3), 0
    second = {p.id for p in questions(16)[8:]}
    spent = 0
    for number, evolve in enumerate(verdicts):
        if evolve or not number:
            schedule.evolves()
            spent += config.fast.rollouts
            schedule.keep_time(stream, step)
        for _ in range(config.slow.steps_per_cycle):
            met = {p.id for p in stream.next()}
            assert bool(met & second) is (spent >= 3 * 62)
            spent += slow_step_rollouts(config)
            step += 1


def test_a_fixed_run_keeps_no_time_of_its_own() -> None:
    config = tiny()
    stream = stages(config, 3)
    Schedule(config).keep_time(stream, 0)
    before = [[p.id for p in stream.next()] for _ in range(10)]
    fresh = stages(config, 3)
    assert [[p.id for p in fresh.next()] for _ in range(10)] == before
    assert all(isinstance(p, FastPhase | SlowPhase) for p in plan(config))
    assert most_rollouts(plan(config), config) == sum(
        phase_rollouts(p, config) for p in plan(config)
    )
