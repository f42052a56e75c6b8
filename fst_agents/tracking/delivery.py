"""Events to MLflow calls. The one file that imports mlflow, and only when a run is tracked.

Explicit client and run ids throughout: MLflow's fluent state is per thread and belongs to the
caller. Every delivery may be repeated without harm: a run carries the key it was asked for with,
files are overwritten, equal metrics and parameters are one to the store.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from filelock import FileLock

from fst_agents.redaction import redact_url
from fst_agents.tracking.spool import Cursor, Event
from fst_agents.tracking.tracker import MAIN

KEY_TAG = "fst.key"
TABLES_TAG = "mlflow.loggedArtifacts"
TABLES_LISTED = 100
"""Most tables MLflow's page is told of: the tag that lists them has a limited length."""

THREAD_NAME = "fst-mlflow"
_CHATTERS = ("urllib3.connectionpool", "mlflow.store.db.utils", "alembic.runtime.migration")
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_BAD_IN_NAME = re.compile(r"[^\w./\-: ]")


def import_mlflow() -> Any:
    """The mlflow module, its chatter from our thread silenced."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    if "mlflow" not in sys.modules:
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # the spool retries, too
    import mlflow

    for name in _CHATTERS:
        logging.getLogger(name).addFilter(_from_elsewhere)

    return mlflow


def _from_elsewhere(record: logging.LogRecord) -> bool:
    """Only our thread is quiet (it warns itself, once); the caller's own MLflow use is not ours."""
    return record.threadName != THREAD_NAME or record.levelno >= logging.ERROR


def store_uri(uri: str | None, runs: Path) -> str:
    """The tracking URI: as given, else of the environment, else SQLite in the runs folder."""
    if uri is None:
        uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{runs.absolute()}/mlflow.db")
    if uri.startswith("sqlite:///") and uri != "sqlite:///:memory:":
        return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    return uri


def artifact_root(uri: str, runs: Path) -> str | None:
    """Where the files of a new experiment go; ``None`` where the store decides itself."""
    if uri.startswith("sqlite:///"):
        return str(Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts")
    if uri.startswith(_DATABASES):
        return str(runs.absolute() / "mlartifacts")
    return None


class MlflowStore:
    """Delivers events to one tracking URI. The store is first touched by the first event."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._mlflow = import_mlflow()
        self._connected: Any = None

    @property
    def _client(self) -> Any:
        if self._connected is None:
            with self._alone():
                client = self._mlflow.MlflowClient(tracking_uri=self.uri)
                client.search_experiments(max_results=1)  # makes the tables of a new database
                self._connected = client
        return self._connected

    def _alone(self) -> AbstractContextManager[object]:
        """Two processes that make the tables of one SQLite file at once would break it for good."""
        if not self.uri.startswith("sqlite:///"):
            return nullcontext()
        file = Path(self.uri.removeprefix("sqlite:///"))
        file.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(f"{file}.lock")

    def answers(self, cursor: Cursor) -> bool:
        """Whether the store works at all: then an event that fails is itself at fault."""
        if cursor.run_id is None:
            return False
        try:
            self._client.get_run(cursor.run_id)
        except Exception:  # noqa: BLE001 - any failure of a foreign store means the same here
            return False
        return True

    def deliver(self, event: Event, cursor: Cursor) -> Cursor:
        """Do what one event says; the cursor comes back with the ids of new runs.

        Raises:
            Exception: whatever MLflow and its store raise; the event may be delivered again.
        """
        if event["kind"] == "start":
            return self._start(event, cursor)
        if event["kind"] == "child":
            return self._child(event, cursor)
        _WRITERS[event["kind"]](self._client, self._id(cursor, event["run"]), event)
        if event["kind"] == "end" and event["run"] != MAIN:
            # The cursor is written for every event; it must not grow with every fast phase.
            runs = {name: run_id for name, run_id in cursor.runs.items() if name != event["run"]}
            return replace(cursor, runs=runs)
        return cursor

    def _id(self, cursor: Cursor, run: str) -> str:
        """MLflow's id of a run of ours; that of an ended phase is asked for by its key."""
        if run in cursor.runs:
            return cursor.runs[run]
        key = _child_key(cursor, run)
        found = self._found(cursor.experiment_id, key)
        if found is None:
            raise LookupError(f"the store has no run with the tag {KEY_TAG} = {key!r}")
        return found

    def _start(self, event: Event, cursor: Cursor) -> Cursor:
        attached = event["attach"]
        if attached is not None and attached["uri"] == redact_url(self.uri):
            info = self._client.get_run(attached["run_id"]).info
            run_id, experiment = info.run_id, info.experiment_id
        else:
            experiment = self._experiment(event["experiment"], Path(event["runs"]))
            run_id = self._run(experiment, event["run_name"], event["key"], {}, event["time"])
        runs = {**cursor.runs, event["run"]: run_id}
        return replace(cursor, uri=redact_url(self.uri), experiment_id=experiment, runs=runs)

    def _child(self, event: Event, cursor: Cursor) -> Cursor:
        parent = cursor.runs[MAIN]
        tags = {"mlflow.parentRunId": parent, "phase": "fast", "cycle": str(event["cycle"])}
        key = _child_key(cursor, event["run"])
        run_id = self._run(cursor.experiment_id, event["name"], key, tags, event["time"])
        return replace(cursor, runs={**cursor.runs, event["run"]: run_id})

    def _run(self, experiment: str, name: str, key: str, tags: dict[str, str], time: int) -> str:
        """The run that was created with this key, or a new one."""
        found = self._found(experiment, key)
        if found is not None:
            return found
        tags = {**tags, KEY_TAG: key}
        run = self._client.create_run(experiment, start_time=time, tags=tags, run_name=name)
        return run.info.run_id

    def _found(self, experiment: str, key: str) -> str | None:
        found = self._client.search_runs(
            [experiment], filter_string=f"tags.`{KEY_TAG}` = '{key}'", max_results=1
        )
        return found[0].info.run_id if found else None

    def _experiment(self, name: str, runs: Path) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            return experiment.experiment_id
        return self._client.create_experiment(name, artifact_location=artifact_root(self.uri, runs))


def _child_key(cursor: Cursor, run: str) -> str:
    return f"{cursor.runs[MAIN]}/{run}"


def _metrics(client: Any, run_id: str, event: Event) -> None:
    from mlflow.entities import Metric

    made = [
        Metric(_BAD_IN_NAME.sub("_", name), float(value), event["time"], event["step"])
        for name, value in event["values"].items()
    ]
    for chunk in _chunks(made, 1000):
        client.log_batch(run_id, metrics=chunk)


def _params(client: Any, run_id: str, event: Event) -> None:
    from mlflow.entities import Param

    made = [Param(_BAD_IN_NAME.sub("_", k)[:250], v[:6000]) for k, v in event["values"].items()]
    for chunk in _chunks(made, 100):
        client.log_batch(run_id, params=chunk)


def _tags(client: Any, run_id: str, event: Event) -> None:
    for name, value in event["values"].items():
        client.set_tag(run_id, name, value[:8000])


def _text(client: Any, run_id: str, event: Event) -> None:
    client.log_text(run_id, event["text"], event["path"])


def _table(client: Any, run_id: str, event: Event) -> None:
    """What ``log_table`` writes, without reading back and appending to what is there."""
    data = {"columns": event["columns"], "data": event["rows"]}
    client.log_text(run_id, json.dumps(data), event["path"])
    tables = json.loads(client.get_run(run_id).data.tags.get(TABLES_TAG, "[]"))
    entry = {"path": event["path"], "type": "table"}
    tables = [t for t in tables if t != entry] + [entry]
    client.set_tag(run_id, TABLES_TAG, json.dumps(tables[-TABLES_LISTED:]))


def _files(client: Any, run_id: str, event: Event) -> None:
    if not Path(event["folder"]).is_dir():  # MLflow would upload nothing and say nothing
        raise FileNotFoundError(f"{event['folder']}: no such folder")
    client.log_artifacts(run_id, event["folder"], artifact_path=event["path"])


def _end(client: Any, run_id: str, event: Event) -> None:
    if run_id != event.get("attached"):
        client.set_terminated(run_id, status=event["status"], end_time=event["time"])


def _reopen(client: Any, run_id: str, event: Event) -> None:
    client.update_run(run_id, status="RUNNING")


_WRITERS = {
    "reopen": _reopen,
    "metrics": _metrics,
    "params": _params,
    "tags": _tags,
    "text": _text,
    "table": _table,
    "files": _files,
    "end": _end,
}


def _chunks(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
