"""Runs under SIGKILL that go on: the embedded policy, gepa, TRL and MLflow, all real.

They are small and on one thread, so a killed one has to agree with an undisturbed one to the bit.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.bench import resume as bench
from fst_agents.run_dir import RunDir

SMALL = {
    "fast": {"population": 2, "rollouts": 32, "minibatch": 2},
    "slow": {"steps_per_cycle": 2, "batch_size": 4, "group_size": 4},
    "budget": {"cycles": 2, "enough": 2.0},
}


FINISHING = {
    **SMALL,
    "arm": "distill",
    "distill": {"steps": 6, "samples": 2},
    "budget": {"cycles": 3, "enough": 2.0},
}


def test_a_killed_finishing_stage_goes_on_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the second and in the last of its six steps, and in the evaluation behind it."""
    monkeypatch.setattr(bench, "SETTINGS", {**bench.SETTINGS, **FINISHING})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    bench.end(whole, bench.start(whole))
    due = bench.requests(whole)
    step = 4 * 2  # problems × samples
    counts = []
    for back in (4 * step + 4, 4):
        process = bench.start(broken)
        bench.wait_for_requests(broken, due["t"] - back, process)
        process.kill()
        process.wait()
        counts.append(RunDir.open(broken / "run").state().distilled)
    assert 0 < counts[0] < counts[1] < 6
    process = bench.start(broken)
    bench.wait_for_requests(broken, due["t"] + 2 * step + 40, process)
    process.kill()
    process.wait()
    assert RunDir.open(broken / "run").state().distilled == 6
    bench.end(broken, bench.start(broken))
    compared = bench.compare(whole, broken)
    assert compared["weights_equal"]
    assert compared["population_equal"]
    assert compared["curve_equal"]
    assert 0 < compared["rollouts_paid_twice"] <= 2 * step
    assert compared["mlflow_duplicate_points"] == 0
    assert compared["mlflow_missing_points"] == 0
    assert not (broken / "run" / "teacher").exists()


def test_a_killed_run_goes_on_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the first fast phase, in the last RL step, and in the final evaluation."""
    settings = {**bench.SETTINGS, **SMALL}
    monkeypatch.setattr(bench, "SETTINGS", settings)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    bench.end(whole, bench.start(whole))
    due = bench.requests(whole)
    for count in (10, due["t"] - 5, due["t"] + 32 + 40):
        process = bench.start(broken)
        bench.wait_for_requests(broken, count, process)
        process.kill()
        process.wait()
        assert not RunDir(broken / "run").finished
    bench.end(broken, bench.start(broken))
    compared = bench.compare(whole, broken)
    assert compared["weights_equal"]
    assert compared["population_equal"]
    assert compared["curve_equal"]
    # One request of a fast phase (the anchor set of 8) and one RL step (4 problems × 4).
    assert 0 < compared["rollouts_paid_twice"] <= 8 + 16
    assert 0 < compared["evaluation_paid_twice"] < due["e"]
    assert compared["mlflow_duplicate_points"] == 0
    assert compared["mlflow_missing_points"] == 0
