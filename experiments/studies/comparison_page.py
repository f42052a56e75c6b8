"""What ``fst compare`` found, for people: two tables and a page, from its JSON object. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.charts import duration, number, percent
from experiments.studies.curves import Curve, measured
from experiments.studies.figures import learning_figure
from experiments.studies.page import Grid, Page, Section, points

METHOD = (
    "Every arm has the same training and validation problems, seed by seed, and may spend the same "
    "number of training rollouts; those of the fast phase count. An arm is judged by what it would "
    "ship: trained weights under the evolved instruction (fst, sequential) or under the seed "
    "instruction (rl, distill), base weights under the evolved instruction (gepa).",
    "All arms learn at the rate of the run file. What suits fst need not suit rl: on the embedded "
    "policy rl alone learns best at twice the default (`fst study sweep`), and the studies give it "
    "that.",
    "Intervals are 95 % bootstraps over seeds and the problems of each; of few seeds they are too "
    "narrow, which p is not. Arms are compared on equal "
    "seeds and problems; p is a two-sided sign-flip test over seeds, which with n seeds cannot "
    "fall below 2 / 2ⁿ.",
)


def interval(found: Mapping[str, float] | None, show: Callable[[float], str] = percent) -> str:
    """``93.0% [91.1%, 94.8%]``."""
    if found is None:
        return "–"
    return f"{show(found['estimate'])} [{show(found['low'])}, {show(found['high'])}]"


def arms_grid(result: Mapping[str, Any]) -> Grid:
    """One row per arm."""
    columns = ("arm", "score", "other skills", "KL", "rollouts", "time", "seeds", "failed")
    rows = [
        (
            arm,
            interval(found["score"]),
            _shown(found["retention_change"], points),
            _shown(found["kl"], number),
            _shown(found["rollouts"], lambda v: number(round(v))),
            _shown(found["seconds"], duration),
            str(found["seeds"]),
            str(len(found["failed"])),
        )
        for arm, found in result["arms"].items()
    ]
    return Grid(columns, tuple(rows))


def pairs_grid(result: Mapping[str, Any]) -> Grid:
    """One row per pair of arms."""
    rows = [
        (
            f"{pair['first']} − {pair['second']}",
            interval(pair["difference"], points),
            _shown(pair["p"], lambda p: f"{p:.3f}"),
            str(pair["seeds"]),
        )
        for pair in result["pairs"]
    ]
    return Grid(("difference in points", "mean [95 %]", "p", "seeds"), tuple(rows))


def _shown(value: float | None, show: Callable[[float], str]) -> str:
    return "–" if value is None else show(value)


def headline(result: Mapping[str, Any]) -> str:
    """Who came first, and what failed."""
    scored = {a: f["score"]["estimate"] for a, f in result["arms"].items() if f["score"]}
    failed = sum(len(f["failed"]) for f in result["arms"].values())
    text = "No arm has a result."
    if scored:
        best = max(scored, key=lambda arm: scored[arm])
        text = f"{best} scores highest: {interval(result['arms'][best]['score'])}."
    return text + (f" {failed} cell(s) failed and are in no mean." if failed else "")


def comparison_page(
    title: str, result: Mapping[str, Any], curves: Mapping[str, Sequence[Curve]], window: int
) -> Page:
    """The page of a comparison, without the facts of its making.

    Args:
        result: the JSON object of the comparison.
        curves: by arm, those of its runs, smoothed over ``window`` RL steps.
    """
    about = f"Share of training answers exactly right, mean over {window} RL steps and all seeds."
    figures = learning_figure(
        "learning", "Learning", about, curves, lambda p: p.exact, share=True
    ) + learning_figure(
        "drift",
        "Drift",
        "KL to the base in nats per token.",
        {arm: [measured(curve) for curve in own] for arm, own in curves.items()},
        lambda p: p.kl or 0.0,
        share=False,
    )
    sections = [
        Section("Arms", METHOD[:1], arms_grid(result)),
        Section("Pairs", METHOD[1:], pairs_grid(result)),
        Section("Curves", (), None, figures),
    ]
    failed = tuple(f"{c['label']}: {c['error']}" for c in result["cells"] if "error" in c)
    if failed:
        sections.append(Section("Failed cells", failed))
    return Page(title, headline(result), tuple(sections))
