"""Where the gain comes from: F8 (both channels), F9 (prompts alone) and F10 (distillation)."""

from __future__ import annotations

from statistics import fmean

from experiments.charts import number, percent
from experiments.studies.cells import Cell
from experiments.studies.page import Grid, points
from experiments.studies.protocol import Answer, Lookup, Protocol, Study
from experiments.studies.scope import Scope, Target, name_of
from fst_agents.config import Arm

CELLS = ("base_seed", "trained_seed", "base_evolved", "trained_evolved")


def _fst(scope: Scope) -> list[Cell]:
    return [scope.cell("fst", *unit) for unit in scope.units]


def _channels(scope: Scope, found: Lookup) -> Answer:
    def scores(target: Target, seed: int) -> list[float] | None:
        record = found(scope.cell("fst", target, seed))
        return None if record is None else [record.result["scores"][name] for name in CELLS]

    def gain(target: Target, seed: int) -> float | None:
        own = scores(target, seed)
        return None if own is None else own[-1] - max(own[:-1])

    known = [own for unit in scope.units if (own := scores(*unit)) is not None]
    rows = [
        (f"{name_of(t)}, seed {s}", *(map(percent, own) if (own := scores(t, s)) else ["–"] * 4))
        for t, s in scope.units
    ]
    means = [fmean(column) for column in zip(*known, strict=True)]
    return Answer(
        groups=scope.each(gain),
        words=f"Means: {' / '.join(map(percent, means))}." if means else "There is no result.",
        grid=Grid(("run", "neither", "weights", "instruction", "both"), tuple(rows)),
        more=dict(zip(CELLS, means, strict=False)),
    )


CHANNELS = Study(
    "channels",
    Protocol(
        finding="F8",
        question="Do weights and instructions each carry a part of the gain?",
        procedure=(
            "fst on every target and seed; the 2×2 of base and trained weights under the seed and "
            "the evolved instruction, exact match on held-out problems, mean@4. The figure is the "
            "joint cell minus the best of the other three."
        ),
        paper={
            "HoVer: neither / weights / instruction / both": "2.0 / 11.6 / 10.6 / 21.2 %",
            "CodeIO: weights / instruction / both": "25.1 / 34.5 / 43.3 %",
        },
        measure="mean of joint cell − best other cell",
        threshold=0.0,
        neutral=0.0,
    ),
    _fst,
    _channels,
)


def _against(scope: Scope, found: Lookup, other: Arm, words: str) -> Answer:
    """FST's final score minus another arm's, run by run."""

    def final(arm: Arm, target: Target, seed: int) -> float | None:
        record = found(scope.cell(arm, target, seed))
        return None if record is None else record.final

    def gap(target: Target, seed: int) -> float | None:
        ours, theirs = final("fst", target, seed), final(other, target, seed)
        return None if ours is None or theirs is None else ours - theirs

    rows: list[tuple[str, ...]] = []
    for target, seed in scope.units:
        both = [final(arm, target, seed) for arm in ("fst", other)]
        shown = ("–" if v is None else percent(v) for v in both)
        rows.append((f"{name_of(target)}, seed {seed}", *shown))
    return Answer(scope.each(gap), words, Grid(("run", "fst", other), tuple(rows)))


def _prompt_cells(scope: Scope) -> list[Cell]:
    return [scope.cell(arm, *unit) for unit in scope.units for arm in ("fst", "gepa")]


PROMPTS_ALONE = Study(
    "prompts-alone",
    Protocol(
        finding="F9",
        question="Does FST end above what instructions alone can reach?",
        procedure=(
            "fst, and gepa, whose rollouts are all for instructions, on every target and seed; "
            "held-out exact match of what each would ship. The figure is FST's score minus GEPA's."
        ),
        paper={"GEPA alone": "a reference line below FST"},
        measure="mean of score FST − score GEPA",
        threshold=0.0,
        neutral=0.0,
    ),
    _prompt_cells,
    lambda scope, found: _against(
        scope, found, "gepa", "Where the base policy follows a right instruction, little is left."
    ),
)


def _distill_cells(scope: Scope) -> list[Cell]:
    return [scope.cell(arm, *unit) for unit in scope.units for arm in ("fst", "distill")]


def _distill(scope: Scope, found: Lookup) -> Answer:
    cost: dict[str, dict[str, float]] = {}
    for arm in ("fst", "distill"):
        records = [r for unit in scope.units if (r := found(scope.cell(arm, *unit))) is not None]
        changes = [c for r in records if (c := r.retention_change) is not None]
        if records and changes:
            kl = fmean(float(r.result["kl"]) for r in records)
            short = fmean(float(r.result["scores"]["trained_seed"]) for r in records)
            cost[arm] = {"kl": kl, "retention_change": fmean(changes), "unprompted": short}
    said = "; ".join(
        f"{arm}: {percent(c['unprompted'])} under the seed instruction, KL {number(c['kl'])}, "
        f"other skills {points(c['retention_change'])} points"
        for arm, c in cost.items()
    )
    answer = _against(scope, found, "distill", f"{said}." if said else "There is no result.")
    return Answer(answer.groups, answer.words, answer.grid, more=cost)


DISTILL = Study(
    "distill",
    Protocol(
        finding="F10",
        question="Is folding the instruction into the weights as good as keeping it?",
        procedure=(
            "fst, and distill: the same schedule on the rollouts that are left when a finishing "
            "stage is paid for. In it the policy answers under the seed instruction, a frozen copy "
            "of it reads the same answers under the champion's, and the reverse KL per token is "
            "brought down. distill is scored under the seed instruction, fst under the evolved "
            "one; the figure is the difference."
        ),
        paper={"FST-distill": "below FST"},
        measure="mean of score FST − score distill",
        threshold=0.0,
        neutral=0.0,
    ),
    _distill_cells,
    _distill,
)
