"""A grid in MLflow: one parent, a child per cell, failures marked as such."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_up import MadeUp, quick_scope

from experiments.studies.grid import run_grid
from experiments.studies.track import PARENT_TAG, track
from fst_agents.config import TrackConfig


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import mlflow

    monkeypatch.chdir(tmp_path)  # MLflow keeps artifacts of a SQLite store beside the caller
    return mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_a_grid_is_a_parent_with_a_child_per_cell(client: Any, tmp_path: Path) -> None:
    scope = quick_scope()
    cells = [scope.cell(arm, scope.targets[0], 0) for arm in ("fst", "rl", "gepa")]
    records = run_grid(cells, tmp_path / "out", MadeUp(broken=("gepa, ",)))
    settings = TrackConfig(uri=f"sqlite:///{tmp_path / 'mlflow.db'}", experiment="grids")
    for _ in range(2):  # asked again, it is a parent of its own
        given = {"slow": {"batch_size": 16}}
        assert track(tmp_path / "out", "study x", records, given, settings) is not None
    [experiment] = client.search_experiments(filter_string="name = 'grids'")
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if PARENT_TAG not in run.data.tags]
    assert [p.data.tags["cells"] for p in parents] == ["3", "3"]
    assert {p.data.tags["failed"] for p in parents} == {"1"}
    assert parents[0].data.params["slow.batch_size"] == "16"
    for parent in parents:
        children = [r for r in runs if r.data.tags.get(PARENT_TAG) == parent.info.run_id]
        assert {c.data.tags["arm"]: c.info.status for c in children} == {
            "fst": "FINISHED", "rl": "FINISHED", "gepa": "FAILED",
        }  # fmt: skip
        [fst] = [c for c in children if c.data.tags["arm"] == "fst"]
        assert fst.data.metrics["eval/trained_evolved"] == pytest.approx(0.9)
        history = client.get_metric_history(fst.info.run_id, "slow/exact")
        assert len(history) == len(records[cells[0].key].curve)
        history = client.get_metric_history(fst.info.run_id, "eval/score")
        expected = [p.exact for p in records[cells[0].key].validation]
        assert [point.value for point in history] == pytest.approx(expected)


def test_without_tracking_nothing_is_written(tmp_path: Path) -> None:
    assert track(tmp_path, "x", {}, {}, TrackConfig(enabled=False)) is None
    assert list(tmp_path.iterdir()) == []
