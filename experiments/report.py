"""``fst report``: one self-contained HTML page about one run, from its run directory alone."""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from experiments.charts import Point, Series, line_chart, lineage, number
from fst_agents.run_dir import RunDir
from fst_agents.tracking.mlflow_tracker import url_hint
from fst_agents.tracking.spool import Spool
from fst_agents.types import Outcome, Rollout

COLORS = ("c1", "c2", "c3", "c4", "c5", "c6")
SAMPLED = 3
"""Rollouts shown from each end of the last step."""
CELLS = (
    ("Base weights", "base_seed", "base_evolved"),
    ("Trained weights", "trained_seed", "trained_evolved"),
)
OUTCOME_MEANING = {
    Outcome.OK: "answered and scored",
    Outcome.PARSE_FAILURE: "the answer could not be read; counts as a failure",
    Outcome.TRUNCATED: "cut off at the token limit; counts as a failure",
    Outcome.PROGRAM_ERROR: "the program raised an error; counts as a failure",
    Outcome.METRIC_ERROR: "the metric raised an error; left out of training",
    Outcome.TIMEOUT: "took too long; left out of training",
    Outcome.INFRA_ERROR: "the server failed; left out of training",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the 2×2. ``share`` in 0..1 shades it; ``None`` where the arm has no such cell."""

    score: str
    interval: str
    share: float | None


@dataclass(frozen=True, slots=True)
class Chart:
    title: str
    about: str
    svg: Markup
    legend: tuple[Series, ...]


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
    files = run.rollout_files()
    return {
        "config": config,
        "target": " → ".join(config.task.target) if config.task.name == "digits" else None,
        "toml": (run.path / "run.toml").read_text(encoding="utf-8"),
        "name": run.path.absolute().name,
        "result": result,
        "grid": grid(result) if result is not None else None,
        "headline": headline(result),
        "tiles": tiles(result, lines),
        "charts": [c for c in charts(lines) if c.svg],
        "lineage": Markup(lineage(records)),
        "cycles": cycles(records),
        "outcomes": outcomes(run, files),
        "samples": samples(run, files),
        "spend": spend(run, lines),
        "totals": totals(run),
        "mlflow": mlflow_hint(run),
    }


def percent(value: float) -> str:
    """``0.973`` → ``97.3 %``; scores outside 0..1 stay numbers."""
    return f"{100 * value:.1f} %" if 0 <= value <= 1 else number(value)


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
    last = next((scores[n] for n in _FINAL_CELLS if n in scores), None)
    if base is None or last is None:
        return "This run has no evaluation of where it began and where it ended."
    text = f"The score on unseen problems went from {percent(base)} to {percent(last)}."
    if len(scores) == 4:
        text += (
            f" The new instruction alone reaches {percent(scores['base_evolved'])}, "
            f"the new weights alone {percent(scores['trained_seed'])}."
        )
    return text


_FINAL_CELLS = ("trained_evolved", "trained_seed", "base_evolved")


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
        out.append(("Time", duration(lines[-1]["seconds"]), "of training"))
    return out


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min"
        if hours
        else f"{minutes} min {rest} s"
        if minutes
        else f"{rest} s"
    )


def charts(lines: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """The learning curve, the reward of each candidate and the KL, all against rollouts."""
    learning = (
        Series("slow step: mean reward", curve(lines, "slow/reward"), "c1", "both"),
        Series("fast phase: best instruction", curve(lines, "fast/best_mean"), "c2", "dots"),
        Series("fast phase: seed instruction", curve(lines, "fast/seed_mean"), "rest", "dots"),
    )
    kl = (Series("KL to the base model", curve(lines, "slow/kl"), "c3", "both"),)
    shown = (
        ("Learning curve", "Reward of the training rollouts as they are spent.", learning, True),
        (
            "Reward by instruction",
            "Each line is one instruction during slow steps.",
            by_candidate(lines),
            True,
        ),
        ("Distance from the base model", "KL divergence per token, in nats.", kl, False),
    )
    return [
        Chart(title, about, Markup(svg), tuple(s for s in series if s.points))
        for title, about, series, unit in shown
        if (svg := line_chart(series, title=title, x="rollouts spent", unit_interval=unit))
    ]


def curve(lines: Iterable[Mapping[str, Any]], name: str) -> tuple[Point, ...]:
    """(rollouts, value) wherever a metric was measured."""
    found = ((float(e["rollouts"]), e["metrics"].get(name)) for e in lines)
    return tuple((x, float(y)) for x, y in found if y is not None)


def by_candidate(lines: Sequence[Mapping[str, Any]]) -> tuple[Series, ...]:
    """A series per candidate; those that lived longest get the colours."""
    prefix = "slow/reward/"
    names = dict.fromkeys(n for e in lines for n in e["metrics"] if n.startswith(prefix))
    curves = {name: curve(lines, name) for name in names}
    ranked = sorted(curves, key=lambda name: -len(curves[name]))
    color = dict(zip(ranked, COLORS, strict=False))
    return tuple(
        Series(name.removeprefix(prefix)[:6], curves[name], color.get(name, "rest"), "both")
        for name in reversed(ranked)
    )


def cycles(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per cycle the candidates, best first, each text compared with its parent's if known."""
    known: dict[str, Mapping[str, str]] = {}
    out: list[dict[str, Any]] = []
    for record in records:
        rows: list[dict[str, Any]] = []
        for c in record["candidates"]:
            parent = next((known[p] for p in c["parents"] if p in known), None)
            new = c["id"] not in known
            texts = {
                name: compared(parent.get(name, ""), text) if new and parent is not None else text
                for name, text in c["instructions"].items()
            }
            mean = None if c["mean"] is None else float(c["mean"])
            rows.append({**c, "mean": mean, "new": new, "texts": texts})
        known |= {c["id"]: c["instructions"] for c in record["candidates"]}
        rows.sort(key=lambda row: math.inf if row["mean"] is None else -row["mean"])
        out.append({**record, "rows": rows})
    return out


def compared(before: str, after: str) -> Markup:
    """``after`` with the words that are new marked, and those that went struck out."""
    old, new = re.split(r"(\s+)", before), re.split(r"(\s+)", after)
    out = Markup()
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            out += escape("".join(new[c:d]))
            continue
        gone, come = "".join(old[a:b]), "".join(new[c:d])
        out += Markup("<del>{}</del>").format(gone) if gone.strip() else Markup()
        out += Markup("<ins>{}</ins>").format(come) if come else Markup()
    return out


def outcomes(run: RunDir, files: Sequence[Path]) -> dict[str, Any]:
    """How rollouts ended, counted by the phase that ran them."""
    phases = {"step": "slow", "eval": "evaluation"}
    counts: dict[str, Counter[Outcome]] = {}
    for file in files:
        phase = phases.get(re.split(r"[-.]", file.name)[0], "fast")
        counts.setdefault(phase, Counter()).update(r.outcome for r in run.rollouts(file))
    seen = [o for o in Outcome if any(counter[o] for counter in counts.values())]
    rows = [
        (o.value, OUTCOME_MEANING[o], [_share(c[o], c.total()) for c in counts.values()])
        for o in seen
    ]
    return {"phases": list(counts), "rows": rows}


def _share(part: int, whole: int) -> str:
    return f"{number(part)} ({100 * part / whole:.1f} %)" if part else "0"


def samples(run: RunDir, files: Sequence[Path]) -> list[tuple[str, list[Rollout]]]:
    """The best and the worst scored rollouts of the last slow step (or of the last file)."""
    steps = [file for file in files if file.name.startswith("step-")]
    if not files:
        return []
    rollouts = [r for r in run.rollouts((steps or list(files))[-1]) if r.score is not None]
    rollouts.sort(key=lambda r: r.score if r.score is not None else 0.0)
    count = min(SAMPLED, len(rollouts) // 2)
    return [("Best", rollouts[::-1][:count]), ("Worst", rollouts[:count])] if count else []


def spend(run: RunDir, lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Rows (what, [fast, slow, evaluation]) of what each phase has cost."""
    phases = ("fast", "slow", "eval")
    rollouts = dict.fromkeys(phases, 0.0)
    seconds = dict.fromkeys(phases, 0.0)
    before = {"rollouts": 0, "seconds": 0.0}
    for line in lines:
        rollouts[line["phase"]] += line["rollouts"] - before["rollouts"]
        seconds[line["phase"]] += line["seconds"] - before["seconds"]
        before = line
    return [
        ("rollouts", [number(rollouts[p]) for p in phases]),
        ("time", [duration(seconds[p]) for p in phases]),
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
