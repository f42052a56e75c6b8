"""The loop on fakes: the paper's order, exact budgets, and how it stops."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes import SEED, RecordingFast, RecordingSlow, guess, tiny, world

from fst_agents.errors import ConfigError, ServingError, StalePolicyError
from fst_agents.run_dir import RunDir
from fst_agents.types import Candidate, Outcome, Population, StepReport, TrainingSample
from optimizers.plan import plan


def test_each_cycle_evolves_on_the_next_t_batches_then_learns_on_them(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.loop.run(plan(made.parts.config))
    kinds = [entry[0] for entry in made.log]
    assert kinds == ["evolve", "update", "serve", "update", "serve"] * 2
    version = 0
    for cycle in range(2):
        (_, c, anchor, at, rollouts), *steps = made.log[cycle * 5 : cycle * 5 + 5]
        assert (c, at, rollouts) == (cycle, version, 30)
        assert len(anchor) == 8
        for (_, versions, problems), (_, served) in zip(steps[::2], steps[1::2], strict=True):
            assert versions == {version}  # each update on samples of the version then served
            assert problems <= set(anchor)
            version += 1
            assert served == version


def test_steps_take_the_anchors_batches_in_order(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.loop.run(plan(made.parts.config))
    anchors = [entry[2] for entry in made.log if entry[0] == "evolve"]
    trained = [
        list(dict.fromkeys(r.problem_id for r in made.run_dir.rollouts(file)))
        for file in made.run_dir.rollout_files()
        if file.name.startswith("step-")
    ]
    assert [trained[0] + trained[1], trained[2] + trained[3]] == anchors


def test_rollouts_are_counted_exactly_and_apart(tmp_path: Path) -> None:
    """Fast: two members on 8 problems, twice; slow: 4 steps of 16."""
    made = world(tmp_path)
    made.loop.run(plan(made.parts.config))
    spend = made.loop.books.spend
    assert (spend.fast_rollouts, spend.slow_rollouts) == (32, 64)
    assert (spend.gradient_steps, spend.reflection_calls) == (4, 2)
    files = made.run_dir.rollout_files()
    written = {f.name: len(list(made.run_dir.rollouts(f))) for f in files}
    assert written == {
        "fast-000.jsonl": 16,
        "fast-001.jsonl": 16,
        **{f"step-{k:05d}.jsonl": 16 for k in (1, 2, 3, 4)},
    }


def test_every_step_leaves_metrics_state_and_tracking(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.loop.run(plan(made.parts.config))
    lines = made.run_dir.metrics()
    assert [(e["phase"], e["step"]) for e in lines] == [
        ("fast", 0), ("slow", 1), ("slow", 2), ("fast", 2), ("slow", 3), ("slow", 4),
    ]  # fmt: skip
    assert [e["rollouts"] for e in lines] == [16, 32, 48, 64, 80, 96]
    assert all(e["metrics"]["serve/logp_gap"] == 0 for e in lines if e["phase"] == "slow")
    state = made.run_dir.state()
    assert (state.cycle, state.step, state.cursor, state.policy.version) == (1, 4, 4, 4)
    assert state.population == made.loop.population
    assert [step for step, _ in made.tracker.metric("slow/reward")] == [1, 2, 3, 4]
    assert len(made.tracker.metric("fast/best_mean", "fast-1")) == 1
    assert [r["cycle"] for r in made.run_dir.populations()] == [0, 1]


def test_rl_only_never_evolves(tmp_path: Path) -> None:
    made = world(tmp_path, tiny(arm="rl"))
    made.loop.run(plan(made.parts.config))
    assert {entry[0] for entry in made.log} == {"update", "serve"}
    assert made.loop.books.spend.slow_rollouts == 7 * 16
    assert made.loop.population.candidates == (SEED,)


def test_prompts_only_passes_over_its_batches(tmp_path: Path) -> None:
    made = world(tmp_path, tiny(arm="gepa"))
    made.loop.run(plan(made.parts.config))
    anchors = [entry[2] for entry in made.log]
    assert [entry[0] for entry in made.log] == ["evolve", "evolve"]
    assert not set(anchors[0]) & set(anchors[1])
    assert made.parts.stream.cursor == 4


def test_flat_groups_move_no_weights(tmp_path: Path) -> None:
    made = world(tmp_path, tiny(arm="rl"), metric=lambda gold, pred: 1.0)
    made.loop.run(plan(made.parts.config))
    assert [entry[0] for entry in made.log] == ["update"] * 7
    assert made.loop.books.spend.gradient_steps == 0
    assert made.loop.policy.version == 0
    assert made.run_dir.metrics()[0]["metrics"]["slow/flat_groups"] == 4


def test_a_rollout_of_another_version_is_refused(tmp_path: Path) -> None:
    made = world(tmp_path, tiny(arm="rl"), lag=1)
    with pytest.raises(StalePolicyError):
        made.loop.run(plan(made.parts.config))
    assert made.log == []


@pytest.mark.parametrize("gap", [0.01, float("nan")])
def test_weights_that_did_not_arrive_stop_the_run(tmp_path: Path, gap: float) -> None:
    made = world(tmp_path, tiny(arm="rl"), gap=gap)
    with pytest.raises(ServingError, match="does not serve what was trained"):
        made.loop.run(plan(made.parts.config))
    assert made.run_dir.state().step == 0  # the step did not come to its end


def test_too_many_infrastructure_failures_stop_with_the_state_saved(tmp_path: Path) -> None:
    asked: list[int] = []

    def dying(prompt: str, sampling: Any, rng: random.Random) -> str:
        asked.append(1)
        if len(asked) > 60:
            raise ConnectionError("gone")
        return guess(prompt, sampling, rng)

    made = world(tmp_path, script=dying)
    with pytest.raises(ServingError, match=r"failed outside the policy .* gone"):
        made.loop.run(plan(made.parts.config))
    state = made.run_dir.state()
    assert state.step == 2
    assert state.population == made.loop.population
    files = made.run_dir.rollout_files()
    outcomes = [r.outcome for f in files for r in made.run_dir.rollouts(f)]
    assert Outcome.INFRA_ERROR in outcomes


def test_a_server_that_is_dead_at_once_leaves_a_state_too(tmp_path: Path) -> None:
    def dead(prompt: str, sampling: Any, rng: random.Random) -> str:
        raise ConnectionError("gone")

    made = world(tmp_path, script=dead)
    with pytest.raises(ServingError):
        made.loop.run(plan(made.parts.config))
    assert made.run_dir.state().step == 0


def test_a_few_lost_rollouts_are_masked_and_the_run_goes_on(tmp_path: Path) -> None:
    asked: list[int] = []

    def flaky(prompt: str, sampling: Any, rng: random.Random) -> str:
        asked.append(1)
        if len(asked) % 16 == 0:
            raise ConnectionError("gone")
        return guess(prompt, sampling, rng)

    made = world(tmp_path, script=flaky)
    made.loop.run(plan(made.parts.config))
    assert made.loop.step == 4


class Curious(RecordingFast):
    """Tries one more candidate on a single problem, as a small minibatch does."""

    def evolve(self, population: Population, problems: Any, evaluate: Any, **how: Any) -> Any:
        evolved = super().evolve(population, problems, evaluate, **how)
        evaluate(Candidate({"solve": f"Tried in {how['cycle']}."}), problems[:1])
        return evolved


def test_one_lost_rollout_of_a_small_minibatch_is_no_reason_to_stop(tmp_path: Path) -> None:
    asked: list[int] = []

    def flaky(prompt: str, sampling: Any, rng: random.Random) -> str:
        asked.append(1)
        if len(asked) == 17:  # the first request after both members' anchor scores
            raise ConnectionError("gone")
        return guess(prompt, sampling, rng)

    made = world(tmp_path, script=flaky)
    made.parts.fast = Curious(made.log)
    made.loop.run(plan(made.parts.config))
    assert made.loop.step == 4


@pytest.mark.parametrize("arm", ["fst", "rl"])
def test_a_metric_that_never_scores_is_the_requests_fault(tmp_path: Path, arm: str) -> None:
    made = world(tmp_path, tiny(arm=arm), metric=lambda gold, pred: None)
    with pytest.raises(ConfigError, match="returned no score"):
        made.loop.run(plan(made.parts.config))


def test_a_metric_that_raises_is_the_requests_fault(tmp_path: Path) -> None:
    made = world(tmp_path, metric=lambda gold, pred: pred.no_such_field)
    with pytest.raises(ConfigError, match="no_such_field"):
        made.loop.run(plan(made.parts.config))


def test_the_seconds_budget_ends_a_run_after_the_step_that_exceeds_it(tmp_path: Path) -> None:
    def slow(prompt: str, sampling: Any, rng: random.Random) -> str:
        time.sleep(0.002)
        return guess(prompt, sampling, rng)

    made = world(tmp_path, tiny(arm="rl", budget={"seconds": 0.01}), script=slow)
    made.loop.run(plan(made.parts.config))
    assert made.loop.stopped == "budget.seconds"
    assert made.loop.step == 1
    assert made.run_dir.state().step == 1


class Interrupted(RecordingSlow):
    """Somebody types Ctrl-C during its second update."""

    def update(self, samples: Sequence[TrainingSample]) -> StepReport:
        if self.policy.version == 1:
            raise KeyboardInterrupt
        return super().update(samples)


def test_an_interrupt_in_the_middle_keeps_what_there_is(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.parts.slow = Interrupted(made.log)
    with pytest.raises(KeyboardInterrupt):
        made.loop.run(plan(made.parts.config))
    run = RunDir.open(made.run_dir.path)
    assert not run.finished
    assert run.state().step == 1
    assert [e["phase"] for e in run.metrics()] == ["fast", "slow"]
    assert run.config() == made.parts.config
    for file in run.path.rglob("*.json"):
        json.loads(file.read_text())


def test_old_policies_are_pruned_the_newest_stay(tmp_path: Path) -> None:
    made = world(tmp_path, tiny(arm="rl"))
    made.loop.run(plan(made.parts.config))
    kept = sorted(p.name for p in (made.run_dir.path / "policy").iterdir())
    assert kept == ["v00005", "v00006", "v00007"]


def test_what_is_solved_is_not_trained_further(tmp_path: Path) -> None:
    made = world(tmp_path, tiny(budget={"enough": 0.9}), metric=lambda gold, pred: 1.0)
    made.loop.run(plan(made.parts.config))
    assert made.loop.stopped == "budget.enough"
    assert (made.loop.cycle, made.loop.step) == (0, 2)
