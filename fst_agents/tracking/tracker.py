"""The tracker's interface, and what its calls mean as events.

Each call becomes one small JSON event; what is done with events tells the trackers apart:
:class:`MemoryTracker` keeps them, :class:`NullTracker` drops them and
:class:`~fst_agents.tracking.mlflow_tracker.MlflowTracker` delivers them to MLflow.

Both phases stand in one tree: everything belongs to the run ``main``, and cycle c's fast phase
has a child run ``fast-c`` of its own. Its metrics go to both, so that one chart can show both
phases. Metric names are prefixed ``slow/``, ``fast/``, ``eval/``, ``serve/`` or ``budget/``.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from fst_agents.json_files import to_json
from fst_agents.run_dir import population_record
from fst_agents.types import Population, Rollout, Scalar

Event = dict[str, Any]
Status = Literal["FINISHED", "FAILED", "KILLED"]

MAIN = "main"
TABLE_ROLLOUTS = 16
"""Most rollouts in one table of :meth:`Tracker.log_rollouts`."""


class Tracker(Protocol):
    """Where a run's numbers, texts and files go. Logging never raises over a broken store."""

    @property
    def run_id(self) -> str | None:
        """The store's name of this run; ``None`` where there is none (yet)."""
        ...

    @property
    def url_hint(self) -> str | None:
        """What a person opens, or types, to look at the run; ``None`` without a store."""
        ...

    def log_metrics(
        self, metrics: Mapping[str, float], *, step: int, rollouts: int | None = None
    ) -> None:
        """Numbers at a slow step. ``rollouts``, the total so far, becomes ``budget/rollouts``:
        MLflow's charts take any metric as their x axis, so one copy serves both axes."""
        ...

    def log_params(self, params: Mapping[str, Any]) -> None:
        """What the run was asked to do. Nested mappings are flattened with dots."""
        ...

    def set_tags(self, tags: Mapping[str, Scalar]) -> None:
        """Facts that may change, such as the champion and the policy version."""
        ...

    def fast_phase(self, cycle: int) -> AbstractContextManager[None]:
        """The time of one fast phase; inside it, metrics also belong to its child run."""
        ...

    def log_population(self, cycle: int, population: Population, record: Mapping[str, Any]) -> None:
        """Φ after a fast phase: ``instructions/cycle-NNN.json`` and a table of candidates."""
        ...

    def log_rollouts(self, step: int, rollouts: Sequence[Rollout]) -> None:
        """A table with at most ``TABLE_ROLLOUTS`` of them, from worst to best."""
        ...

    def log_artifacts(self, folder: Path, name: str) -> None:
        """Everything in a folder, under ``name``. The folder must stay where it is."""
        ...

    def log_text(self, text: str, path: str) -> None:
        """One text file; ``path`` is relative and says its type by its ending."""
        ...

    def mark(self) -> int:
        """Where the log stands: what a resumed run is taken back to."""
        ...

    def commit(self) -> None:
        """What was logged so far will not be taken back; only now does it reach the store."""
        ...

    def finish(self, status: Status = "FINISHED") -> int:
        """End the run. Returns how many events did not arrive (0: all did). Idempotent."""
        ...


class EventTracker:
    """Turns the calls of :class:`Tracker` into events and hands them to ``emit``."""

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self._emit_event = emit
        self._phase: str | None = None

    @property
    def run_id(self) -> str | None:
        return None

    @property
    def url_hint(self) -> str | None:
        return None

    def log_metrics(
        self, metrics: Mapping[str, float], *, step: int, rollouts: int | None = None
    ) -> None:
        values = {name: float(value) for name, value in metrics.items()}
        if rollouts is not None:
            values["budget/rollouts"] = float(rollouts)
        for run in (MAIN, self._phase):
            if run is not None:
                self._emit("metrics", run, step=step, values=values)

    def log_params(self, params: Mapping[str, Any]) -> None:
        self._emit("params", MAIN, values=flatten(params))

    def set_tags(self, tags: Mapping[str, Scalar]) -> None:
        self._emit("tags", MAIN, values={name: str(value) for name, value in tags.items()})

    @contextmanager
    def fast_phase(self, cycle: int) -> Generator[None]:
        run = f"fast-{cycle}"
        self._emit("child", run, name=f"cycle-{cycle:03d}/fast", cycle=cycle)
        begun = self.mark()
        self._phase, status = run, "FAILED"
        try:
            yield
            status = "FINISHED"
        finally:
            self._phase = None
            if status == "FAILED":  # run again, the phase says all of it again
                self.forget(begun)
            self._emit("end", run, status=status)
            if status == "FAILED":  # worth seeing, and a second try finds its run by the key
                self.commit()

    def log_population(self, cycle: int, population: Population, record: Mapping[str, Any]) -> None:
        data = population_record(cycle, population, record)
        text = json.dumps(data, indent=2, ensure_ascii=False)
        self._emit("text", MAIN, path=f"instructions/cycle-{cycle:03d}.json", text=text)
        run = self._phase if self._phase is not None else MAIN
        self._emit("table", run, path=f"candidates-{cycle:03d}.json", **candidate_table(data))
        champion = {"champion": data["champion"], "policy_version": data["policy_version"]}
        self.set_tags({name: value for name, value in champion.items() if value is not None})

    def log_rollouts(self, step: int, rollouts: Sequence[Rollout]) -> None:
        table = rollout_table(spread(rollouts, TABLE_ROLLOUTS))
        self._emit("table", MAIN, path=f"rollouts/step-{step:05d}.json", **table)

    def log_artifacts(self, folder: Path, name: str) -> None:
        self._emit("files", MAIN, folder=str(folder.absolute()), path=name)

    def log_text(self, text: str, path: str) -> None:
        self._emit("text", MAIN, path=path, text=text)

    def mark(self) -> int:
        return 0

    def forget(self, mark: int) -> None:
        """Take back what was logged from a mark on, unless it was committed."""

    def commit(self) -> None: ...

    def finish(self, status: Status = "FINISHED") -> int:
        self._emit("end", MAIN, status=status)
        return 0

    def _emit(self, kind: str, run: str, **fields: Any) -> None:
        now = time.time_ns() // 1_000_000
        self._emit_event({"kind": kind, "run": run, "time": now, **fields})


class NullTracker(EventTracker):
    """Tracks nothing."""

    def __init__(self) -> None:
        super().__init__(lambda _event: None)


class MemoryTracker(EventTracker):
    """Keeps every event in :attr:`events`, for tests and for notebooks without MLflow."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        super().__init__(self.events.append)

    def mark(self) -> int:
        return len(self.events)

    def forget(self, mark: int) -> None:
        del self.events[mark:]

    def metric(self, name: str, run: str = MAIN) -> list[tuple[int, float]]:
        """The (step, value) pairs logged under a name, in order."""
        logged = [e for e in self.events if (e["kind"], e["run"]) == ("metrics", run)]
        return [(e["step"], float(e["values"][name])) for e in logged if name in e["values"]]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as one, ``{"slow": {"T": 6}}`` → ``{"slow.T": "6"}``; lists as JSON."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(to_json(value))
    return flat


def spread(rollouts: Sequence[Rollout], count: int) -> list[Rollout]:
    """At most ``count`` rollouts at even distances from the worst score to the best.

    Unscored rollouts come first: they are what someone looks for.
    """

    def key(rollout: Rollout) -> float:
        return -math.inf if rollout.score is None else rollout.score

    ordered = sorted(rollouts, key=key)
    if len(ordered) <= count:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / (count - 1))] for i in range(count)]


def rollout_table(rollouts: Sequence[Rollout]) -> dict[str, list[Any]]:
    """Columns and rows of a table that a person reads; token ids are left to the run directory."""
    columns = ["problem", "candidate", "policy_version", "outcome", "score", "feedback"]
    columns += ["inputs", "completions", "prediction", "error"]
    return {"columns": columns, "rows": [_rollout_row(r) for r in rollouts]}


def candidate_table(record: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Columns and rows of the candidates in a :func:`population_record`."""
    predictors = list(record["candidates"][0]["instructions"])
    rows = [
        [c["id"], c["id"] == record["champion"], c["mean"], ", ".join(c["parents"])]
        + [c["instructions"][name] for name in predictors]
        for c in record["candidates"]
    ]
    return {"columns": ["candidate", "champion", "mean", "parents", *predictors], "rows": rows}


def _rollout_row(r: Rollout) -> list[Any]:
    completions = "\n".join(f"[{call.predictor}] {call.text}" for call in r.calls)
    row = [r.problem_id, r.candidate_id, r.policy_version, r.outcome.value, r.score]
    texts = [json.dumps(to_json(r.inputs)), completions, json.dumps(to_json(r.prediction))]
    return [*row, r.feedback.text, *texts, r.error]
