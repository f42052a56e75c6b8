"""How a run ends: what ships, what it scored, and the mark that it is finished."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy

from fst_agents.dspy_bridge import apply, named_predictors
from fst_agents.run_dir import RunDir
from fst_agents.tracking import Tracker
from fst_agents.types import Candidate, Policy, RunResult
from optimizers.evaluation import Evaluation, by_problem


@dataclass(frozen=True)
class Outcome2x2:
    """Everything a compiled program carries as ``fst``: the run, its evaluation, its summary."""

    run: RunResult
    evaluation: Evaluation | None
    summary: dict[str, Any]


def ship(
    student: dspy.Module,
    instructions: Candidate,
    policy: Policy,
    folder: Path,
    fixed: Mapping[str, dspy.LM],
) -> Any:
    """Write ``program.json`` and the policy's weights into ``folder``; returns the program.

    The file is without fixed models: not every LM can be saved, and some hold secrets.
    """
    tuned: Any = apply(student, instructions)
    tuned._compiled = True  # what DSPy's own optimizers do
    named = named_predictors(tuned)
    models = {name: fixed.get(name, predictor.lm) for name, predictor in named.items()}
    tuned.set_lm(None)
    tuned.save(str(folder / "program.json"))
    for name, predictor in named.items():
        predictor.lm = models[name]
    weights = policy.adapter or policy.weights
    if weights is not None:
        shutil.copytree(weights, folder / ("adapter" if policy.adapter else "weights"))
    return tuned


def close_books(
    summary: dict[str, Any],
    run_dir: RunDir,
    tracker: Tracker,
    report: Callable[[Path], Path] | None,
    note: Callable[[str], None],
) -> None:
    """Figures, files, the page, and the mark that the run is finished.

    A page that cannot be made is told to ``note`` and costs nothing else.
    """
    scores = {f"eval/{k}": v for k, v in summary["scores"].items() if v is not None}
    retention = {f"eval/retention_{k}": v for k, v in summary["retention"].items() if v is not None}
    kl = {} if summary["kl"] is None else {"eval/kl": summary["kl"]}
    step = int(summary["steps"])
    metrics = {**scores, **retention, **kl}
    tracker.log_metrics(metrics, step=step)
    rollouts = summary["rollouts"]["fast"] + summary["rollouts"]["slow"]
    run_dir.add_metrics(step, "eval", metrics, rollouts=rollouts, seconds=summary["seconds_total"])
    tracker.set_tags({"champion": summary["champion"], "policy_version": summary["policy_version"]})
    tracker.log_artifacts(run_dir.result_folder, "result")
    run_dir.finish(summary)
    tracker.commit()  # nothing can take the run back any more
    page = None if report is None else _page(report, run_dir.path, note)
    if page is not None:
        tracker.log_text(page, "report.html")


def _page(report: Callable[[Path], Path], run_dir: Path, note: Callable[[str], None]) -> str | None:
    try:
        return report(run_dir).read_text(encoding="utf-8")
    except Exception as error:  # noqa: BLE001 - the caller's own code; the run has finished
        note(
            f"the report could not be made ({type(error).__name__}: {error}); the run has finished "
            f"without it, and 'fst report {run_dir}' makes it again"
        )
        return None


def ends(tracker: Tracker) -> Callable[..., None]:
    """An exit that ends the tracker's run with the status that the run came to."""

    def end(kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            tracker.finish("FINISHED")
        else:
            tracker.finish("KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED")

    return end


def final_scores(evaluation: Evaluation) -> dict[str, float]:
    """Mean score of every problem in the last cell: what pairs two runs problem by problem."""
    names = dict.fromkeys(rollout.problem_id for rollout in evaluation.sequences)
    return dict(zip(names, by_problem(evaluation.sequences), strict=True))
