"""The part of the report that shows learning: curves over rollouts, and Φ's texts as they change.

``lines`` are those of ``metrics.jsonl``, ``records`` the files of ``population/``.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from experiments.charts import Point, Series, line_chart
from optimizers.schedule import SIGNALS, reason_of

COLORS = ("c1", "c2", "c3", "c4", "c5", "c6")


@dataclass(frozen=True, slots=True)
class Chart:
    title: str
    about: str
    svg: Markup
    legend: tuple[Series, ...]


def charts(lines: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """The learning curve, the reward of each candidate and the KL, all against rollouts."""
    learning = (
        Series("fast phase: where it began", curve(lines, "fast/seed_mean"), "rest", "dots"),
        Series("slow step: mean reward", curve(lines, "slow/reward"), "c1", "both"),
        Series("fast phase: best instruction", curve(lines, "fast/best_mean"), "c2", "dots"),
        Series("held-out problems: what would ship", curve(lines, "eval/score"), "c3", "both"),
    )
    kl = (Series("KL to the base model", curve(lines, "slow/drift"), "c3", "both"),)
    shown = (
        (
            "Learning curve",
            "Reward of the training rollouts as they are spent, and of held-out problems if asked.",
            learning,
            True,
        ),
        (
            "Reward by instruction",
            "Each line is one instruction during slow steps.",
            by_candidate(lines, records),
            True,
        ),
        (
            "Distance from the base model",
            "KL per token of the last batch of every cycle, in nats.",
            kl,
            False,
        ),
    )
    return [
        Chart(title, about, Markup(svg), _legend(series))
        for title, about, series, unit in shown
        if (svg := line_chart(series, title=title, x="rollouts spent", unit_interval=unit))
    ]


def _legend(series: Sequence[Series]) -> tuple[Series, ...]:
    """One entry per name that is drawn, grey ones last."""
    drawn = {s.name: s for s in series if s.points}
    return tuple(sorted(drawn.values(), key=lambda s: s.color == "rest"))


def curve(lines: Iterable[Mapping[str, Any]], name: str) -> tuple[Point, ...]:
    """(rollouts, value) wherever a metric was measured."""
    found = ((float(e["rollouts"]), e["metrics"].get(name)) for e in lines)
    return tuple((x, float(y)) for x, y in found if y is not None)


def by_candidate(
    lines: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]]
) -> tuple[Series, ...]:
    """A series per candidate; those that lived longest get a colour and a name."""
    head, tail = "slow/candidate/", "/reward"
    names = dict.fromkeys(
        n for e in lines for n in e["metrics"] if n.startswith(head) and n.endswith(tail)
    )
    curves = {name.removeprefix(head).removesuffix(tail): curve(lines, name) for name in names}
    texts = {
        c["id"]: " · ".join(c["instructions"].values()) for r in records for c in r["candidates"]
    }
    longest = sorted(curves, key=lambda c: -len(curves[c]))[: len(COLORS)]
    others = [Series("others", points, "rest") for c, points in curves.items() if c not in longest]
    shown = [(c, points) for c, points in curves.items() if c in longest]
    return *others, *(
        Series(f"{c[:6]} {shorten(texts.get(c, ''), 70)}", points, color, "both")
        for (c, points), color in zip(shown, COLORS, strict=False)
    )


def shorten(text: str, length: int) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A candidate where it was first seen. ``mean`` belongs to the weights of that cycle."""

    id: str
    cycle: int
    parents: tuple[str, ...]
    instructions: Mapping[str, str]
    mean: float | None


def family(records: Sequence[Mapping[str, Any]]) -> dict[str, Ancestor]:
    """Every candidate by id: members of Φ and what the optimizers say they tried besides."""
    known: dict[str, Ancestor] = {}
    for record in records:
        for c in [*record["candidates"], *record["record"].get("candidates", [])]:
            mean = c["mean"] if "mean" in c else _mean(c.get("scores", {}))
            mean = None if mean is None else float(mean)
            parents = tuple(c["parents"])
            new = Ancestor(c["id"], record["cycle"], parents, c["instructions"], mean)
            known.setdefault(new.id, new)
    return known


def path_to(champion: str, known: Mapping[str, Ancestor]) -> list[tuple[Ancestor, dict[str, Any]]]:
    """The rewrites that led to a candidate, first to last, each with its changed texts marked.

    Where a text was merged from several parents, the first known one counts.
    """
    path: list[tuple[Ancestor, dict[str, Any]]] = []
    step = known.get(champion)
    seen = set[str]()
    while step is not None and step.id not in seen:
        seen.add(step.id)
        path.append((step, marked(step, known)))
        step = next((known[p] for p in step.parents if p in known), None)
    return path[::-1]


def marked(candidate: Ancestor, known: Mapping[str, Ancestor]) -> dict[str, Any]:
    """The texts of a candidate, what differs from its parent marked if the parent is known."""
    parent = next((known[p] for p in candidate.parents if p in known), None)
    if parent is None:
        return dict(candidate.instructions)
    return {
        name: compared(parent.instructions.get(name, ""), text)
        for name, text in candidate.instructions.items()
    }


def cycles(
    records: Sequence[Mapping[str, Any]], known: Mapping[str, Ancestor]
) -> list[dict[str, Any]]:
    """Per cycle the members of Φ, best first; those that are new with their changes marked."""
    out: list[dict[str, Any]] = []
    for record in records:
        rows: list[dict[str, Any]] = []
        for c in record["candidates"]:
            born = known[c["id"]]
            new = born.cycle == record["cycle"] and bool(born.parents)
            texts = marked(born, known) if new else c["instructions"]
            mean = None if c["mean"] is None else float(c["mean"])
            rows.append({**c, "mean": mean, "new": new, "texts": texts})
        rows.sort(key=lambda row: math.inf if row["mean"] is None else -row["mean"])
        out.append({**record, "rows": rows})
    return out


def schedule(lines: Iterable[Mapping[str, Any]]) -> list[tuple[int, bool, str, list[str]]]:
    """What an adaptive schedule decided: RL step, whether Φ evolved, why, and its signals."""
    out: list[tuple[int, bool, str, list[str]]] = []
    for line in lines:
        metrics = line["metrics"]
        reason = reason_of(metrics)
        if reason is not None:
            found = (metrics.get(f"fast/signal/{name}") for name in SIGNALS)
            shown = ["—" if value is None else f"{value:.3f}" for value in found]
            out.append((line["step"], bool(metrics["fast/evolves"]), reason, shown))
    return out


def _mean(scores: Mapping[str, Any]) -> float | None:
    return sum(map(float, scores.values())) / len(scores) if scores else None


def compared(before: str, after: str) -> Markup:
    """``after`` with the words that are new marked, and those that went struck out.

    A text of which less than half stayed is new altogether: marks would only confuse.
    """
    old, new = (re.findall(r"\s*\S+", text) for text in (before, after))
    words = [token.strip() for token in old], [token.strip() for token in new]
    matcher = difflib.SequenceMatcher(None, *words, autojunk=False)
    if matcher.ratio() < 0.5:
        return escape(after)
    out = Markup()
    for kind, a, b, c, d in matcher.get_opcodes():
        gone, come = "".join(old[a:b]), "".join(new[c:d])
        if kind == "equal":
            out += escape(come)
            continue
        out += Markup("<del>{}</del>").format(gone) if gone else Markup()
        out += Markup("<ins>{}</ins>").format(come) if come else Markup()
    return out
