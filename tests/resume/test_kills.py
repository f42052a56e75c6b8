"""A run under SIGKILL that goes on: the embedded policy, gepa, TRL and MLflow, all real.

It is small and on one thread, so when killed it has to agree with an undisturbed one to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.bench import resume as bench
from fst_agents.run_dir import RunDir

STEPS, ANCHOR, RL_STEP, STAGE_STEP = 6, 8, 4 * 4, 4 * 2
"""Steps of the finishing stage, and what a request of a fast phase and a step of each kind ask."""

SMALL = {
    "arm": "distill",
    "fast": {"population": 2, "rollouts": 32, "minibatch": 2},
    "slow": {"steps_per_cycle": 2, "batch_size": 4, "group_size": 4},
    "distill": {"steps": STEPS, "samples": 2},
    "budget": {"cycles": 3, "enough": 2.0},
}


def test_a_killed_run_goes_on_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in every phase: the first fast one, the last RL step, twice in the finishing stage,
    and in the final evaluation."""
    monkeypatch.setattr(bench, "SETTINGS", {**bench.SETTINGS, **SMALL})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    bench.end(whole, bench.start(whole))
    due = bench.requests(whole)
    learned = due["t"] - STEPS * STAGE_STEP

    def paid(kind: str) -> int:
        return bench.requests(broken)[kind]

    def distilled() -> int:
        return RunDir.open(broken / "run").state().distilled

    def kill_when(there: Callable[[], bool]) -> None:
        process = bench.start(broken)
        bench.wait_until(there, broken, process)
        process.kill()
        process.join()
        assert not RunDir(broken / "run").finished

    kill_when(lambda: paid("t") >= 10)
    kill_when(lambda: paid("t") >= learned - 5)
    assert distilled() == 0
    kill_when(lambda: distilled() >= 1)
    begun = distilled()
    kill_when(lambda: distilled() > begun + 1)
    assert distilled() < STEPS
    kill_when(lambda: paid("e") >= 40)
    assert distilled() == STEPS
    bench.end(broken, bench.start(broken))
    compared = bench.compare(whole, broken)
    assert compared["weights_equal"]
    assert compared["population_equal"]
    assert compared["curve_equal"]
    assert 0 < compared["rollouts_paid_twice"] <= ANCHOR + RL_STEP + 2 * STAGE_STEP
    assert 0 < compared["evaluation_paid_twice"] < due["e"]
    assert compared["mlflow_duplicate_points"] == 0
    assert compared["mlflow_missing_points"] == 0
    assert not (broken / "run" / "teacher").exists()
