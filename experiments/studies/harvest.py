"""From a finished run directory to a record; then most of its size can go."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.studies.cells import Cell, Record
from experiments.studies.curves import Point
from experiments.studies.provenance import stamped
from fst_agents.errors import RunDirError
from fst_agents.json_files import read_json, read_lines
from fst_agents.run_dir import RunDir
from fst_agents.types import Outcome

PLACES = ("run_dir", "mlflow_run_id", "mlflow")
"""Of a result: where the run was kept, which a record outlives."""

EXACT = "exact"
"""The objective that says whether an answer was right, where a metric has one."""


def harvest(cell: Cell, run_dir: Path) -> Record:
    """What is kept of a run.

    Raises:
        RunDirError: the run has not finished, or a file of it is missing or cannot be read.
    """
    run = RunDir.open(run_dir)
    return Record(
        key=cell.key,
        label=cell.label,
        arm=cell.config.arm,
        seed=cell.config.seed,
        result={name: value for name, value in run.result().items() if name not in PLACES},
        curve=tuple(_curve(run)),
        validation=tuple(_validation(run)),
        problems=read_json(run.path / "problems.json") if _evaluated(run) else {},
        commit=stamped(run_dir.parent),
    )


def drop_bulk(run_dir: Path) -> None:
    """Some 25 MB of a finished run: its curve is in the record, its weights are in ``result/``."""
    for name in ("rollouts", "checkpoints", "policy"):
        shutil.rmtree(run_dir / name, ignore_errors=True)


def exact_share(rollouts: Iterable[Mapping[str, Any]]) -> float:
    """Share of answers that were exactly right; the mean score where the metric has no such
    objective. A failed rollout is not right; masked ones are left out."""
    found: list[float] = []
    for rollout in rollouts:
        score = _score(rollout)
        if score is None:
            continue
        objectives = rollout["feedback"]["objectives"]
        failed = rollout["outcome"] != Outcome.OK
        found.append(0.0 if failed else float(objectives.get(EXACT, score)))
    return fmean(found) if found else 0.0


def _evaluated(run: RunDir) -> bool:
    return (run.path / "problems.json").is_file()


def _score(rollout: Mapping[str, Any]) -> float | None:
    score = rollout["feedback"]["score"]
    return None if score is None or Outcome(rollout["outcome"]).masked else float(score)


def _curve(run: RunDir) -> Iterable[Point]:
    for line in run.metrics():
        if line["phase"] != "slow" or "slow/reward" not in line["metrics"]:
            continue
        file = run.path / "rollouts" / f"step-{line['step']:05d}.jsonl"
        if not file.is_file():
            raise RunDirError(
                f"{file}: missing, and the learning curve is read from it; "
                f"delete {run.path} to have the cell run again"
            )
        yield Point(
            rollouts=line["rollouts"],
            reward=float(line["metrics"]["slow/reward"]),
            exact=exact_share(read_lines(file)),
            kl=line["metrics"].get("slow/drift"),
            steps=line["step"],
        )


def _validation(run: RunDir) -> Iterable[Point]:
    for line in run.metrics():
        score = line["metrics"].get("eval/score")
        if score is not None:
            yield Point(line["rollouts"], float(score), float(score), None, line["step"])
