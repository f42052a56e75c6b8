"""``fst report``: one self-contained HTML page about one run, from its run directory alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from experiments.charts import duration, lineage, number, percent
from experiments.report_learning import charts, cycles, family, path_to, schedule
from experiments.report_outcomes import candidates, outcomes, predictors, tally
from fst_agents.run_dir import RunDir
from fst_agents.tracking.mlflow_tracker import url_hint
from fst_agents.tracking.spool import Spool
from fst_agents.types import Rollout

SAMPLED = 3
"""Rollouts shown from each end of the last step."""
CELLS = (
    ("Base weights", "base_seed", "base_evolved"),
    ("Trained weights", "trained_seed", "trained_evolved"),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the 2×2. ``share`` in 0..1 shades it; ``None`` where the arm has no such cell."""

    score: str
    interval: str
    share: float | None


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into a run directory, finished or not, and return its path.

    Reads only files of that directory; the page loads nothing from anywhere.

    Raises:
        RunDirError: no run directory, or one of its files is unreadable.
    """
    run = RunDir.open(run_dir)
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = templates.get_template("report.html.j2").render(context(run))
    path = run.path / "report.html"
    path.write_text(page, encoding="utf-8", errors="replace")
    return path


def context(run: RunDir) -> dict[str, Any]:
    """Everything the template shows."""
    config, lines, records = run.config(), run.metrics(), run.populations()
    result = run.result() if run.finished else None
    known = family(records)
    champion = records[-1]["champion"] if records else ""
    if result is not None:  # RL steps may have judged otherwise than the last fast phase
        champion = result.get("champion", champion)
    files = run.rollout_files()
    counted = tally(run, files)
    target = config.task.options.get("target") if config.task.name == "digits" else None
    return {
        "config": config,
        "target": " → ".join(target) if target else None,
        "toml": (run.path / "run.toml").read_text(encoding="utf-8"),
        "name": run.path.absolute().name,
        "result": result,
        "grid": grid(result) if result is not None else None,
        "headline": headline(result),
        "folded": result is not None and folded(result),
        "tiles": tiles(result, lines),
        "charts": charts(lines, records),
        "lineage": Markup(lineage(records)),
        "path": path_to(champion, known),
        "cycles": cycles(records, known),
        "schedule": schedule(lines),
        "outcomes": outcomes(counted),
        "predictors": predictors(counted, lines),
        "candidates": candidates(counted),
        "samples": samples(run, files),
        "spend": spend(result, lines),
        "totals": totals(run),
        "mlflow": mlflow_hint(run),
    }


def grid(result: Mapping[str, Any]) -> list[tuple[str, list[Cell]]]:
    """The 2×2: rows are weights, columns are instructions."""
    scores, intervals = result["scores"], result.get("intervals", {})
    return [
        (label, [_cell(scores.get(name), intervals.get(name)) for name in names])
        for label, *names in CELLS
    ]


def _cell(score: float | None, interval: Sequence[float] | None) -> Cell:
    if score is None:
        return Cell("—", "not part of this arm", None)
    spread = "" if interval is None else f"{percent(interval[0])} to {percent(interval[1])}"
    return Cell(percent(score), spread, min(1.0, max(0.0, score)))


def headline(result: Mapping[str, Any] | None) -> str:
    """What happened, in one or two sentences."""
    if result is None:
        return "This run has not finished; the page shows what it had reached."
    scores = {name: score for name, score in result["scores"].items() if score is not None}
    base = scores.get("base_seed")
    cell = shipped_cell(result)
    last = scores.get(cell)
    if base is None or last is None:
        return "This run has no evaluation of where it began and where it ended."
    text = f"The score on unseen problems went from {percent(base)} to {percent(last)}."
    if len(scores) == 4 and cell == "trained_seed":
        text += (
            f" That is without the new instruction, which alone reaches "
            f"{percent(scores['base_evolved'])}, and {percent(scores['trained_evolved'])} on the "
            "new weights."
        )
    elif len(scores) == 4:
        text += (
            f" The new instruction alone reaches {percent(scores['base_evolved'])}, "
            f"the new weights alone {percent(scores['trained_seed'])}."
        )
    return text


def folded(result: Mapping[str, Any]) -> bool:
    """Whether what ships does without the instructions that the run found."""
    return result.get("shipped", result).get("instructions") != result.get("instructions")


def shipped_cell(result: Mapping[str, Any]) -> str:
    """The cell that the run's result is judged by; results of older versions do not name it."""
    if "shipped" in result:
        return result["shipped"]["cell"]
    scores = result["scores"]
    last = ("trained_evolved", "trained_seed", "base_evolved")
    return next((name for name in last if scores.get(name) is not None), "base_seed")


def tiles(
    result: Mapping[str, Any] | None, lines: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str, str]]:
    """Label, value and explanation of the small figures under the headline."""
    out: list[tuple[str, str, str]] = []
    if result is not None:
        kept = result.get("retention") or {}
        if kept.get("base") is not None and kept.get("final") is not None:
            values = f"{percent(kept['base'])} → {percent(kept['final'])}"
            out.append(
                ("Other skills", values, "other tasks, before → after, with their own prompts")
            )
        if result.get("kl") is not None:
            out.append(
                (
                    "KL to base",
                    f"{number(result['kl'])} nats",
                    "how far the weights moved, per token",
                )
            )
        out.append(("Cycles", number(result["cycles"]), "rounds of fast, then slow learning"))
    if lines:
        out.append(("Rollouts", number(lines[-1]["rollouts"]), "tries at a problem, all phases"))
        training = [line for line in lines if line["phase"] != "eval"]
        out.append(("Time", duration(training[-1]["seconds"]), "of training"))
    return out


def samples(run: RunDir, files: Sequence[Path]) -> tuple[str, list[tuple[str, list[Rollout]]]]:
    """The best and the worst of the last slow step (or file) whose scores differ at all."""
    steps = [file for file in files if file.name.startswith("step-")]
    for file in reversed(steps or list(files)):
        scored = [(r.score, r) for r in run.rollouts(file) if r.score is not None]
        scored.sort(key=lambda pair: pair[0])
        if scored and scored[0][0] < scored[-1][0]:
            ranked, count = [r for _, r in scored], min(SAMPLED, len(scored) // 2)
            return file.stem, [("Best", ranked[::-1][:count]), ("Worst", ranked[:count])]
    return "", []


def spend(
    result: Mapping[str, Any] | None, lines: Sequence[Mapping[str, Any]]
) -> list[tuple[str, list[str]]]:
    """Rows (what, [fast, slow, evaluation]) of what each phase has cost; — where not measured."""
    phases = ("fast", "slow", "eval")
    rollouts, seconds = dict[str, float](), dict[str, float]()
    before = {"rollouts": 0, "seconds": 0.0}
    for line in lines:
        phase = line["phase"]
        rollouts[phase] = rollouts.get(phase, 0) + line["rollouts"] - before["rollouts"]
        seconds[phase] = seconds.get(phase, 0.0) + line["seconds"] - before["seconds"]
        before = line
    if result is not None:
        rollouts |= result["rollouts"]
    return [
        ("rollouts", [number(rollouts[p]) if p in rollouts else "—" for p in phases]),
        ("time", [duration(seconds[p]) if p in seconds else "—" for p in phases]),
    ]


def totals(run: RunDir) -> list[tuple[str, str]]:
    """What the run has spent in all, phases not told apart."""
    if not run.has_state:
        return []
    paid = run.state().spend
    shown = (
        ("tokens sampled and read", paid.tokens),
        ("questions to the reflection model", paid.reflection_calls),
        ("gradient steps", paid.gradient_steps),
    )
    return [(what, number(value)) for what, value in shown]


def mlflow_hint(run: RunDir) -> str | None:
    """How to open the run in MLflow, if it was tracked there."""
    cursor = Spool(run.tracking_spool).cursor()
    return url_hint(cursor.uri, cursor) if cursor.run_id is not None else None
