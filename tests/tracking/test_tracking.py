"""The trackers against a real MLflow on SQLite, and against one that is not there."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from fst_agents.errors import RunDirError
from fst_agents.tracking import MemoryTracker, MlflowTracker, Tracker, replay
from fst_agents.tracking.delivery import artifact_root, store_uri
from fst_agents.tracking.mlflow_tracker import Courier
from fst_agents.tracking.spool import Cursor, Event, Spool
from fst_agents.tracking.tracker import flatten, spread
from fst_agents.types import Candidate, Feedback, Outcome, Population, Rollout

SEED = Candidate({"solve": "Solve the task."})
CHILD = Candidate({"solve": "Reverse the list."}, (SEED.id,))
PHI = Population((SEED, CHILD), {SEED.id: {"p": 0.1}, CHILD.id: {"p": 0.9}}, policy_version=3)


@pytest.fixture(autouse=True)
def corner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> Iterator[None]:
    """A working directory of its own, no tracking URI from outside, no run left active."""
    (tmp_path / "cwd").mkdir()
    for name in ("runs/mlflow.db", "theirs.db", "ours.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(empty_database, tmp_path / name)
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = mlflow.get_tracking_uri()
    yield
    while mlflow.active_run() is not None:
        mlflow.end_run()
    mlflow.set_tracking_uri(before)
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database after its migrations, which take seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


def start(tmp_path: Path, name: str = "run", uri: str | None = None) -> MlflowTracker:
    folder = tmp_path / "runs" / name
    folder.mkdir(parents=True)
    params = {"arm": "fst", "slow": {"T": 6}, "task": {"target": ("reverse", "double")}}
    return MlflowTracker.start(uri, "fst", name, params, {"seed": 0}, folder / "tracking.jsonl")


def client(tmp_path: Path) -> Any:
    return mlflow.MlflowClient(tracking_uri=database(tmp_path))


def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/runs/mlflow.db"


def rollout(score: float | None, problem: str = "p") -> Rollout:
    return Rollout(problem, SEED.id, 3, (), Feedback(score, "expected 1, got 2"), Outcome.OK)


def use(tracker: Tracker, tmp_path: Path) -> None:
    """What a loop does in one cycle."""
    with tracker.fast_phase(0):
        tracker.log_metrics({"fast/best_mean": 0.9}, step=0, rollouts=48)
        tracker.log_population(0, PHI, {"proposals": 5})
    for step in (1, 2):
        tracker.log_metrics({"slow/reward": step / 4}, step=step, rollouts=48 + 16 * step)
    tracker.log_rollouts(2, [rollout(0.5), rollout(None), rollout(0.0)])
    (tmp_path / "ships").mkdir(exist_ok=True)
    (tmp_path / "ships" / "program.json").write_text("{}")
    tracker.log_artifacts(tmp_path / "ships", "result")
    tracker.log_text("<p>done</p>", "report.html")


def history(store: Any, run_id: str, name: str) -> list[tuple[int, float]]:
    return sorted((m.step, m.value) for m in store.get_metric_history(run_id, name))


def children(store: Any, run_id: str) -> list[Any]:
    experiment = store.get_run(run_id).info.experiment_id
    return store.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")


def table(store: Any, run_id: str, path: str, into: Path) -> dict[str, Any]:
    return json.loads(Path(store.download_artifacts(run_id, path, str(into))).read_text())


def assert_complete(store: Any, run_id: str, into: Path) -> None:
    """Everything that :func:`use` and :func:`start` say arrived, once."""
    run = store.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "arm": "fst",
        "slow.T": "6",
        "task.target": '["reverse", "double"]',
    }
    assert run.data.tags["seed"] == "0"
    assert run.data.tags["champion"] == CHILD.id
    assert run.data.tags["policy_version"] == "3"
    assert history(store, run_id, "slow/reward") == [(1, 0.25), (2, 0.5)]
    assert history(store, run_id, "fast/best_mean") == [(0, 0.9)]
    assert history(store, run_id, "budget/rollouts") == [(0, 48), (1, 64), (2, 80)]
    (child,) = children(store, run_id)
    assert child.info.run_name == "cycle-000/fast"
    assert child.info.status == "FINISHED"
    assert (child.data.tags["phase"], child.data.tags["cycle"]) == ("fast", "0")
    assert history(store, child.info.run_id, "fast/best_mean") == [(0, 0.9)]
    candidates = table(store, child.info.run_id, "candidates-000.json", into)
    assert candidates["columns"] == ["candidate", "champion", "mean", "parents", "solve"]
    assert candidates["data"][1] == [CHILD.id, True, 0.9, SEED.id, "Reverse the list."]
    instructions = table(store, run_id, "instructions/cycle-000.json", into)
    assert instructions["record"] == {"proposals": 5}
    rollouts = table(store, run_id, "rollouts/step-00002.json", into)
    assert [row[4] for row in rollouts["data"]] == [None, 0.0, 0.5]
    assert {f.path for f in store.list_artifacts(run_id, "result")} == {"result/program.json"}
    assert "report.html" in {f.path for f in store.list_artifacts(run_id)}


def test_a_run_stands_in_mlflow_with_its_phases_files_and_tables(tmp_path: Path) -> None:
    tracker = start(tmp_path)
    use(tracker, tmp_path)
    assert tracker.finish() == 0
    assert tracker.run_id is not None
    assert_complete(client(tmp_path), tracker.run_id, tmp_path / "ships")


def test_mlflow_shows_the_tables_as_tables(tmp_path: Path) -> None:
    tracker = start(tmp_path)
    use(tracker, tmp_path)
    tracker.finish()
    mlflow.set_tracking_uri(database(tmp_path))
    store = client(tmp_path)
    experiment = store.get_run(tracker.run_id).info.experiment_id
    frame = store.load_table(experiment, "rollouts/step-00002.json", [tracker.run_id])
    assert list(frame["feedback"]) == ["expected 1, got 2"] * 3


def test_nothing_lands_in_the_working_directory(tmp_path: Path) -> None:
    tracker = start(tmp_path)
    use(tracker, tmp_path)
    tracker.finish()
    assert list((tmp_path / "cwd").iterdir()) == []
    assert (tmp_path / "runs" / "mlflow.db").exists()
    assert any((tmp_path / "runs" / "mlartifacts").rglob("program.json"))


def test_two_runs_share_an_experiment(tmp_path: Path) -> None:
    runs = [start(tmp_path, name) for name in ("a", "b")]
    assert [tracker.finish() for tracker in runs] == [0, 0]
    ids = [tracker.run_id for tracker in runs]
    found = [client(tmp_path).get_run(run_id) for run_id in ids]
    assert len({run.info.experiment_id for run in found}) == 1
    assert [run.info.run_name for run in found] == ["a", "b"]


def test_finishing_twice_is_finishing_once(tmp_path: Path) -> None:
    tracker = start(tmp_path)
    assert (tracker.finish("FAILED"), tracker.finish("FINISHED")) == (0, 0)
    assert client(tmp_path).get_run(tracker.run_id).info.status == "FAILED"


def test_a_fast_phase_that_raises_leaves_a_failed_child(tmp_path: Path) -> None:
    def fails() -> None:
        with tracker.fast_phase(4):
            tracker.log_metrics({"fast/best_mean": 0.5}, step=0)
            raise RuntimeError("reflection")

    tracker = start(tmp_path)
    with pytest.raises(RuntimeError, match="reflection"):
        fails()
    tracker.log_metrics({"slow/reward": 0.1}, step=1)
    tracker.finish("FAILED")
    store = client(tmp_path)
    (child,) = children(store, str(tracker.run_id))
    assert child.info.status == "FAILED"
    assert child.data.metrics == {}  # the phase runs again, and its figures come then
    assert "fast/best_mean" not in store.get_run(str(tracker.run_id)).data.metrics


def test_the_callers_active_run_is_joined_and_never_ended(tmp_path: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/theirs.db")
    experiment = mlflow.create_experiment("theirs", str(tmp_path / "theirs"))
    with mlflow.start_run(experiment_id=experiment) as theirs:
        tracker = start(tmp_path)
        use(tracker, tmp_path)
        assert tracker.finish() == 0
        assert tracker.run_id == theirs.info.run_id
        store = mlflow.MlflowClient()
        assert store.get_run(theirs.info.run_id).info.status == "RUNNING"
        assert history(store, theirs.info.run_id, "slow/reward") == [(1, 0.25), (2, 0.5)]
        mlflow.log_metric("their/metric", 1.0)
    assert client(tmp_path).get_experiment_by_name("fst") is None


def test_an_active_run_in_another_store_is_left_alone(tmp_path: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/theirs.db")
    experiment = mlflow.create_experiment("theirs", str(tmp_path / "theirs"))
    with mlflow.start_run(experiment_id=experiment) as theirs:
        tracker = start(tmp_path, uri=f"sqlite:///{tmp_path}/ours.db")
        assert tracker.finish() == 0
        assert tracker.run_id != theirs.info.run_id


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def test_an_outage_costs_no_time_and_no_event(
    tmp_path: Path, closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """While nothing answers: each call returns at once, one warning, everything in the spool.
    Replaying delivers all of it once; replaying again changes nothing."""
    tracker = start(tmp_path, uri=f"http://127.0.0.1:{closed_port}")
    slowest = 0.0
    for step in range(20):
        began = time.perf_counter()
        tracker.log_metrics({"slow/kl": 0.1}, step=step, rollouts=step)
        tracker.log_rollouts(step, [rollout(0.5)] * 8)
        slowest = max(slowest, time.perf_counter() - began)
    assert slowest < 0.2
    spool = tmp_path / "runs" / "run" / "tracking.jsonl"
    with caplog.at_level(logging.WARNING):
        began = time.perf_counter()
        lost = tracker.finish(seconds=3)
        assert time.perf_counter() - began < 4
    lines = spool.read_text().splitlines()
    assert lost == len(lines) == 3 + 40 + 1
    assert tracker.run_id is None
    assert sum("did not reach MLflow" in r.getMessage() for r in caplog.records) == 1

    assert replay(spool, uri=database(tmp_path)) == 0
    assert replay(spool, uri=database(tmp_path)) == 0
    store = client(tmp_path)
    (run,) = store.search_runs([store.get_experiment_by_name("fst").experiment_id])
    assert history(store, run.info.run_id, "slow/kl") == [(step, 0.1) for step in range(20)]
    assert len(store.list_artifacts(run.info.run_id, "rollouts")) == 20
    assert run.info.status == "FINISHED"


class FlakyStore:
    """Fails the first ``failures`` attempts, then takes everything."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.taken: list[Event] = []

    def deliver(self, event: Event, cursor: Cursor) -> Cursor:
        if self.failures > 0:
            self.failures -= 1
            raise ConnectionError("not now")
        self.taken.append(event)
        return cursor

    def answers(self, cursor: Cursor) -> bool:
        return self.failures == 0


@pytest.mark.parametrize(("failures", "arrived"), [(2, 3), (99, 0)])
def test_a_store_that_comes_back_gets_everything_in_order(
    tmp_path: Path, failures: int, arrived: int
) -> None:
    spool = Spool(tmp_path / "spool.jsonl")
    events = [{"kind": "metrics", "n": n} for n in range(3)]
    for event in events:
        spool.put(event)
    spool.close()
    store = FlakyStore(failures)
    courier = Courier(spool, store)
    courier.run()
    assert store.taken == events[:arrived]
    assert spool.remaining(courier.cursor) == 3 - arrived


def test_delivery_repeated_from_the_start_leaves_everything_once(tmp_path: Path) -> None:
    """A crash between delivering and noting it makes events arrive twice, at worst all."""
    tracker = start(tmp_path)
    use(tracker, tmp_path)
    tracker.finish()
    folder = tmp_path / "runs" / "run"
    (folder / "tracking.state.json").unlink()
    assert replay(folder / "tracking.jsonl", uri=database(tmp_path)) == 0
    store = client(tmp_path)
    (run,) = store.search_runs(
        [store.get_experiment_by_name("fst").experiment_id], "params.arm = 'fst'"
    )
    assert run.info.run_id == tracker.run_id
    assert_complete(store, run.info.run_id, tmp_path / "ships")


def test_an_event_the_store_refuses_stops_nothing_and_is_counted(tmp_path: Path) -> None:
    """A folder that is gone cannot be uploaded; what follows still arrives."""
    tracker = start(tmp_path)
    tracker.log_artifacts(tmp_path / "gone", "result")
    tracker.log_metrics({"slow/reward": 0.5}, step=1)
    assert tracker.finish() == 1
    store = client(tmp_path)
    assert history(store, str(tracker.run_id), "slow/reward") == [(1, 0.5)]
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "late.txt").write_text("x")
    assert replay(tmp_path / "runs" / "run" / "tracking.jsonl", uri=database(tmp_path)) == 0
    assert store.list_artifacts(str(tracker.run_id), "result")[0].path == "result/late.txt"


def test_odd_names_and_numbers_arrive(tmp_path: Path) -> None:
    tracker = start(tmp_path)
    tracker.log_metrics({"slow/reward/module[0]": math.nan, "slow/max": math.inf}, step=1)
    tracker.log_params({"long": "x" * 10_000})
    assert tracker.finish() == 0
    run = client(tmp_path).get_run(tracker.run_id)
    assert math.isnan(run.data.metrics["slow/reward/module_0_"])
    assert len(run.data.params["long"]) == 6000


def test_starting_does_not_wait_for_the_database(tmp_path: Path) -> None:
    began = time.perf_counter()
    tracker = start(tmp_path)
    assert time.perf_counter() - began < 0.2
    assert tracker.run_id is not None
    assert tracker.url_hint is not None
    assert tracker.run_id in tracker.url_hint
    tracker.finish()


def test_a_tracked_process_is_silent_and_imports_mlflow_late(tmp_path: Path) -> None:
    """Nothing on standard output or error but what the script prints itself."""
    script = """
import sys
from pathlib import Path
from fst_agents.tracking import MlflowTracker
assert "mlflow" not in sys.modules
spool = Path(sys.argv[1]) / "run" / "tracking.jsonl"
spool.parent.mkdir()
tracker = MlflowTracker.start(None, "fst", "x", {}, {}, spool)
tracker.log_metrics({"slow/reward": 1.0}, step=1)
print(tracker.finish(), "mlflow" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 True\n", "")


def test_the_uri_is_the_given_one_else_the_environments_else_sqlite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    assert store_uri(None, runs) == f"sqlite:///{runs}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking")
    assert store_uri(None, runs) == "http://tracking"
    assert store_uri("sqlite:///here.db", runs) == f"sqlite:///{tmp_path}/cwd/here.db"
    assert artifact_root("http://tracking", runs) is None
    assert artifact_root("postgresql://host/db", runs) == f"{runs}/mlartifacts"


def test_a_password_in_the_uri_is_not_written_to_the_run_directory(
    tmp_path: Path, closed_port: int
) -> None:
    tracker = start(tmp_path, uri=f"http://me:hunter2@127.0.0.1:{closed_port}")
    tracker.finish(seconds=0.1)
    texts = [file.read_text() for file in (tmp_path / "runs" / "run").iterdir()]
    assert texts
    assert not any("hunter2" in text for text in texts)
    assert "hunter2" not in str(tracker.url_hint)


def test_memory_tracker_keeps_what_it_was_told(tmp_path: Path) -> None:
    tracker = MemoryTracker()
    use(tracker, tmp_path)
    assert tracker.finish() == 0
    assert tracker.metric("slow/reward") == [(1, 0.25), (2, 0.5)]
    assert tracker.metric("fast/best_mean", run="fast-0") == [(0, 0.9)]
    assert tracker.run_id is None


def test_parameters_are_flattened_with_dots() -> None:
    nested = {"a": {"b": {"c": None}, "d": (1, 2)}, "e": "text", "f": 0.1}
    assert flatten(nested) == {"a.b.c": "null", "a.d": "[1, 2]", "e": "text", "f": "0.1"}


def test_a_sample_of_rollouts_spans_worst_to_best() -> None:
    rollouts = [rollout(score / 100) for score in range(101)] + [rollout(None)]
    scores = [r.score for r in spread(rollouts, 4)]
    assert scores[0] is None
    assert scores[-1] == 1.0
    assert len(scores) == 4
    assert [r.score for r in spread([rollout(1.0), rollout(0.0)], 4)] == [0.0, 1.0]


def test_processes_that_open_a_new_database_at_once_do_not_break_it(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from fst_agents.tracking import MlflowTracker; "
        "t = MlflowTracker.start(sys.argv[1], 'fst', 'r', {}, {}, Path(sys.argv[2])); "
        "sys.exit(t.finish())"
    )
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    processes = [
        subprocess.Popen([sys.executable, "-c", script, uri, str(tmp_path / f"{i}.jsonl")])
        for i in range(3)
    ]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    client = mlflow.MlflowClient(uri)
    [experiment] = client.search_experiments(filter_string="name = 'fst'")
    assert len(client.search_runs([experiment.experiment_id])) == 3


# --- commit, and going on after a stop ------------------------------------------------------------


def points(store: Path, run_id: str, name: str) -> list[tuple[int, float]]:
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{store}")
    return sorted((m.step, m.value) for m in client.get_metric_history(run_id, name))


def test_a_resumed_run_goes_on_in_the_same_mlflow_run_without_double_points(tmp_path: Path) -> None:
    """Step 1 is committed, step 2 is logged and lost with the process; the resumed run logs it
    again."""
    uri, spool = f"sqlite:///{tmp_path / 'ours.db'}", tmp_path / "run" / "tracking.jsonl"
    spool.parent.mkdir()
    first = MlflowTracker.start(uri, "fst", "r", {}, {}, spool)
    first.log_metrics({"slow/reward": 0.1}, step=1)
    mark = first.mark()
    first.commit()
    first.log_metrics({"slow/reward": 0.2}, step=2)
    assert first.finish("KILLED") == 0
    again = MlflowTracker.resume(uri, spool, mark)
    again.log_metrics({"slow/reward": 0.3}, step=2)
    assert again.run_id == first.run_id
    assert again.finish() == 0
    assert points(tmp_path / "ours.db", str(first.run_id), "slow/reward") == [(1, 0.1), (2, 0.3)]
    run = mlflow.MlflowClient(tracking_uri=uri).get_run(str(first.run_id))
    assert run.info.status == "FINISHED"


def test_what_is_not_committed_is_not_delivered(tmp_path: Path) -> None:
    uri, spool = f"sqlite:///{tmp_path / 'ours.db'}", tmp_path / "run" / "tracking.jsonl"
    spool.parent.mkdir()
    tracker = MlflowTracker.start(uri, "fst", "r", {}, {}, spool)
    run_id = str(tracker.run_id)
    tracker.log_metrics({"slow/reward": 0.1}, step=1)
    time.sleep(0.5)
    assert points(tmp_path / "ours.db", run_id, "slow/reward") == []
    tracker.commit()
    deadline = time.monotonic() + 10
    while not points(tmp_path / "ours.db", run_id, "slow/reward"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    tracker.finish()


def test_a_file_that_is_no_spool_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="not the spool of a run"):
        MlflowTracker.resume(None, tmp_path / "absent.jsonl", 0)
