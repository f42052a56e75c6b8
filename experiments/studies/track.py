"""A grid in MLflow: one parent run, and a child for every cell.

Cells do not track themselves: many processes would write into one database at the same time, and a
child needs its parent's id. So the grid tells MLflow at its end, from the records.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.studies.cells import Record
from experiments.studies.grid import Records
from fst_agents.config import TrackConfig
from fst_agents.tracking import MlflowTracker
from fst_agents.types import Scalar

PARENT_TAG = "mlflow.parentRunId"


def track(
    out: Path, name: str, records: Records, settings: Mapping[str, Any], track: TrackConfig
) -> str | None:
    """Log a finished grid; returns where to look at it, ``None`` where tracking is off.

    Asked again, a grid becomes a new parent with new children: each is whole by itself.
    """
    if not track.enabled:
        return None
    failed = sum(not record.ok for record in records.values())
    parent = _start(out, name, settings, {"cells": len(records), "failed": failed}, track, "grid")
    try:
        if parent.run_id is not None:
            for record in records.values():
                _child(out, record, parent.run_id, track)
    finally:
        parent.finish()
    return parent.url_hint


def _child(out: Path, record: Record, parent: str, track: TrackConfig) -> None:
    tags: dict[str, Scalar] = {PARENT_TAG: parent, "arm": record.arm, "seed": record.seed}
    if record.error is not None:
        tags["error"] = record.error
    facts = {"arm": record.arm, "seed": record.seed, "target": record.result.get("target")}
    child = _start(out, record.label, facts, tags, track, record.key)
    for step, point in enumerate(record.curve, start=1):
        values = {"slow/reward": point.reward, "slow/exact": point.exact}
        if point.kl is not None:
            values["slow/drift"] = point.kl
        child.log_metrics(values, step=step, rollouts=point.rollouts)
    for point in record.validation:
        child.log_metrics({"eval/score": point.exact}, step=point.steps, rollouts=point.rollouts)
    child.log_metrics(_final(record), step=len(record.curve))
    child.commit()
    child.finish("FINISHED" if record.ok else "FAILED")


def _final(record: Record) -> dict[str, float]:
    result = record.result
    scores = result.get("scores", {}) | {
        f"retention_{k}": v for k, v in result.get("retention", {}).items()
    }
    found = {**scores, "kl": result.get("kl")}
    return {f"eval/{name}": float(v) for name, v in found.items() if v is not None}


def _start(
    out: Path,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, Scalar],
    track: TrackConfig,
    spool: str,
) -> MlflowTracker:
    file = out / "tracking" / f"{spool}.jsonl"
    file.parent.mkdir(exist_ok=True)
    for old in file.parent.glob(f"{spool}.*"):  # of an earlier parent
        old.unlink()
    return MlflowTracker.start(
        track.uri, track.experiment, name, params, tags, file, runs=out.absolute().parent
    )
