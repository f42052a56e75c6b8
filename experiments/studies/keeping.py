"""What learning costs: F3 (drift), F4 (forgetting), F5 (plasticity) and F6 (continual)."""

from __future__ import annotations

from statistics import fmean

from experiments.charts import number, percent
from experiments.compare import points, retention_change
from experiments.studies.cells import Cell, Stages
from experiments.studies.curves import Curve, between, kl_ratio, peak, smooth
from experiments.studies.figures import learning_figure
from experiments.studies.inference import median
from experiments.studies.learning import curve_of, curves_figure, learned, pair_of_arms
from experiments.studies.page import Grid
from experiments.studies.protocol import Answer, Lookup, Protocol, Study
from experiments.studies.scope import STAGE_CYCLES, UNREACHABLE, Scope, Target, name_of
from fst_agents.config import Arm
from optimizers.plan import cycle_rollouts

# -- F3 ---------------------------------------------------------------------------------------


def _drift(scope: Scope, found: Lookup) -> Answer:
    def ratio(target: Target, seed: int) -> float | None:
        fst, rl = (curve_of(scope, found(scope.cell(arm, target, seed))) for arm in ("fst", "rl"))
        return None if fst is None or rl is None or not learned(rl) else kl_ratio(fst, rl)

    rows = [
        (
            f"{name_of(t)}, seed {s}",
            "RL never leaves zero" if (r := ratio(t, s)) is None else f"{r:.2f}",
        )
        for t, s in scope.units
    ]
    curves = {
        arm: [c for u in scope.units if (c := curve_of(scope, found(scope.cell(arm, *u))))]
        for arm in ("fst", "rl")
    }
    finals = {
        arm: [r.result["kl"] for u in scope.units if (r := found(scope.cell(arm, *u))) is not None]
        for arm in ("fst", "rl")
    }
    ends = ", ".join(f"{arm} {number(fmean(v))}" for arm, v in finals.items() if v)
    return Answer(
        groups=scope.each(ratio),
        words=f"Mean KL at the end of training, in nats per token: {ends}.",
        grid=Grid(("run", "KL of FST / KL of RL at matched reward"), tuple(rows)),
        figures=learning_figure(
            "drift",
            "Drift",
            "KL to the base in nats per token.",
            curves,
            lambda p: p.kl,
            share=False,
        ),
        statistic=median,
    )


DRIFT = Study(
    "drift",
    Protocol(
        finding="F3",
        question="How far do FST's weights drift from the base where both arms are equally good?",
        procedure=(
            "The cells of sample-efficiency. KL(π_train ‖ π_base) per token is measured in every RL "
            "step on that step's own samples, each under the instruction that drew it. Both curves "
            "are smoothed over a cycle; at the highest share of right answers that both reach, the "
            "KL of FST is divided by that of RL. Runs where RL never leaves zero have no such level."
        ),
        paper={"KL at matched reward": "up to 70 % lower"},
        measure="median of KL FST / KL RL at matched reward",
        threshold=0.3,
        neutral=1.0,
        larger=False,
    ),
    pair_of_arms,
    _drift,
)


# -- F4 ---------------------------------------------------------------------------------------


def _forgetting(scope: Scope, found: Lookup) -> Answer:
    def change(arm: Arm, target: Target, seed: int) -> float | None:
        record = found(scope.cell(arm, target, seed))
        return None if record is None else retention_change(record)

    rows: list[tuple[str, ...]] = []
    for target, seed in scope.units:
        both = [change(arm, target, seed) for arm in ("fst", "rl")]
        rows.append(
            (f"{name_of(target)}, seed {seed}", *("–" if v is None else points(v) for v in both))
        )
    theirs = [v for group in scope.each(lambda t, s: change("rl", t, s)) for v in group]
    loss = fmean(theirs) if theirs else None
    return Answer(
        groups=scope.each(lambda t, s: change("fst", t, s)),
        words="RL has no result." if loss is None else f"RL changes them by {points(loss)} points.",
        grid=Grid(("run", "FST, points", "RL, points"), tuple(rows)),
        neutral=loss,
        more={"rl_change": loss},
    )


FORGETTING = Study(
    "forgetting",
    Protocol(
        finding="F4",
        question="What happens to other skills while a task is learnt?",
        procedure=(
            "The cells of sample-efficiency. Before and after training, the ten single operations "
            "are asked 32 times each, every one under its own instruction, none of which was "
            "evolved. The figure is the share right after minus before, with FST's weights. A run "
            "ends when its task is solved, whatever its arm."
        ),
        paper={"other tasks, seed prompt": "equal or better than RL"},
        measure="mean change of the share of other skills answered right, FST",
        threshold=-0.02,
        neutral=0.0,
    ),
    pair_of_arms,
    _forgetting,
)


# -- F5 ---------------------------------------------------------------------------------------

STARTS: tuple[Arm | None, ...] = (None, "rl", "fst")


def _second(scope: Scope, first: Arm | None, target: Target, seed: int) -> Cell:
    """Fresh RL on the target that follows, from the base or from what an arm made of the first."""
    start = None if first is None else scope.cell(first, target, seed)
    return scope.cell("rl", scope.following(target), seed, start=start)


def _plasticity_cells(scope: Scope) -> list[Cell]:
    return [_second(scope, first, *unit) for unit in scope.units for first in STARTS]


def _plasticity(scope: Scope, found: Lookup) -> Answer:
    def final(first: Arm | None, target: Target, seed: int) -> float | None:
        record = found(_second(scope, first, target, seed))
        return None if record is None else record.final

    def gap(target: Target, seed: int) -> float | None:
        ours, base = final("fst", target, seed), final(None, target, seed)
        return None if ours is None or base is None else ours - base

    rows: list[tuple[str, ...]] = []
    for target, seed in scope.units:
        shown = (final(first, target, seed) for first in STARTS)
        name = f"{name_of(target)}, then {name_of(scope.following(target))}, seed {seed}"
        rows.append((name, *("–" if v is None else percent(v) for v in shown)))
    means = {
        name: [v for u in scope.units if (v := final(first, *u)) is not None]
        for name, first in zip(("base", "RL", "FST"), STARTS, strict=True)
    }
    curves: dict[str, list[Curve]] = {}
    for unit in scope.units:
        for name, first in zip(("base", "rl", "fst"), STARTS, strict=True):
            curve = curve_of(scope, found(_second(scope, first, *unit)))
            if curve:
                curves.setdefault(name, []).append(curve)
    ends = " / ".join(f"{name} {percent(fmean(v))}" for name, v in means.items() if v)
    return Answer(
        groups=scope.each(gap),
        words=f"Mean final score of RL on the second rule, started from: {ends}.",
        grid=Grid(("rules", "from base", "from RL", "from FST"), tuple(rows)),
        figures=learning_figure(
            "plasticity",
            "Fresh RL on a second rule",
            "Share of training answers exactly right, by where the weights came from.",
            curves,
            lambda p: p.exact,
            share=True,
        ),
        more={name: fmean(v) for name, v in means.items() if v},
    )


PLASTICITY = Study(
    "plasticity",
    Protocol(
        finding="F5",
        question="Can weights that have learnt one task still learn the next?",
        procedure=(
            "Fresh RL, with a new adapter and optimizer, on the target that follows in the list, "
            "from three starts: the base, and the weights that rl and fst ended with on the target "
            "before, merged into a model of their own. The figure is the final score on the second "
            "rule from FST's weights minus that from the base."
        ),
        paper={"from base / RL / FST": "19.3 / 10.0 / 20.5 %"},
        measure="mean of final score from FST − from base",
        threshold=0.0,
        neutral=0.0,
    ),
    _plasticity_cells,
    _plasticity,
)


# -- F6 ---------------------------------------------------------------------------------------

STAGES = 3


def _chain(scope: Scope, target: Target) -> tuple[Target, ...]:
    """A target and those after it in the list; with fewer targets than stages, some return."""
    return tuple(scope.following(target, place) for place in range(STAGES))


def _continual_cell(scope: Scope, arm: Arm, target: Target, seed: int) -> Cell:
    budget = {"cycles": STAGES * STAGE_CYCLES, "enough": UNREACHABLE}
    return scope.cell(
        arm, target, seed, stages=Stages(_chain(scope, target), STAGE_CYCLES), budget=budget
    )


def _chains(scope: Scope) -> list[tuple[Target, int]]:
    """One chain per seed and target, but of a ring shorter than a chain only one."""
    starts = scope.targets if len(scope.targets) >= STAGES else scope.targets[:1]
    return [(target, seed) for target in starts for seed in scope.seeds]


def _continual_cells(scope: Scope) -> list[Cell]:
    runs = [
        _continual_cell(scope, arm, *chain) for chain in _chains(scope) for arm in ("fst", "rl")
    ]
    return runs + [
        scope.cell("fst", target, seed)
        for first, seed in _chains(scope)
        for target in _chain(scope, first)
    ]


def stage_peaks(curve: Curve, stage_rollouts: int, window: int) -> list[float]:
    """The highest smoothed share of right answers within each stage; 0 without a step in it.

    A window never reaches across a switch.
    """
    parts = (between(curve, k * stage_rollouts, (k + 1) * stage_rollouts) for k in range(STAGES))
    tops = (peak(smooth(part, window)) for part in parts)
    return [0.0 if top is None else top.exact for top in tops]


def _continual(scope: Scope, found: Lookup) -> Answer:
    size = STAGE_CYCLES * cycle_rollouts(scope.base)
    window = scope.base.slow.steps_per_cycle

    def peaks(arm: Arm, target: Target, seed: int) -> list[float] | None:
        record = found(_continual_cell(scope, arm, target, seed))
        return None if record is None else stage_peaks(record.curve, size, window)

    def alone(target: Target, seed: int) -> float | None:
        curve = curve_of(scope, found(scope.cell("fst", target, seed)))
        top = None if curve is None else peak(curve)
        return None if top is None else top.exact

    def worst(arm: Arm, target: Target, seed: int) -> float | None:
        """The least share, over the stages, of what a run on that rule alone reaches."""
        reached = peaks(arm, target, seed)
        singles = [alone(t, seed) for t in _chain(scope, target)]
        if reached is None or None in singles:
            return None
        shares = [r / s for r, s in zip(reached, singles, strict=True) if s]
        return min(shares) if shares else None

    rows: list[tuple[str, ...]] = []
    for target, seed in _chains(scope):
        chain = _chain(scope, target)
        by_arm = {arm: peaks(arm, target, seed) for arm in ("fst", "rl")}
        for stage, own in enumerate(chain):
            single = alone(own, seed)
            shown = [by_arm[arm][stage] if by_arm[arm] else None for arm in ("fst", "rl")]  # pyright: ignore
            cells = ("–" if v is None else percent(v) for v in (single, *shown))
            rows.append((f"stage {stage + 1}: {name_of(own)}, seed {seed}", *cells))
    theirs = [v for chain in _chains(scope) if (v := worst("rl", *chain)) is not None]
    rl = fmean(theirs) if theirs else None
    by_target: dict[Target, list[float]] = {}
    for target, seed in _chains(scope):
        value = worst("fst", target, seed)
        if value is not None:
            by_target.setdefault(target, []).append(value)
    cells = [_continual_cell(scope, a, *c) for c in _chains(scope) for a in ("fst", "rl")]
    return Answer(
        groups=list(by_target.values()),
        words="RL has no result." if rl is None else f"RL, by the same measure: {percent(rl)}.",
        grid=Grid(("stage", "FST alone", "FST", "RL"), tuple(rows)),
        figures=curves_figure(scope, found, "continual", cells),
        neutral=rl,
        more={"rl": rl},
    )


CONTINUAL = Study(
    "continual",
    Protocol(
        finding="F6",
        question="Does an uninterrupted run keep learning when its task changes?",
        procedure=(
            f"One run of fst and one of rl over three rules, {STAGE_CYCLES} cycles' rollouts on "
            "each. Only the problems change; population, weights and optimizers go on, and nothing "
            "tells them. Of each stage the highest smoothed share of right answers is divided by "
            "what a run of fst on that rule alone reaches; the figure is the worst stage of a run. "
            "Rules that such a run never gets right are left out of it."
        ),
        paper={"HoVer → CodeIO → Physics": "near the peak at every stage; RL about 10 % on CodeIO"},
        measure="mean over runs of the worst stage's share of its peak, FST",
        threshold=0.9,
        neutral=0.5,
    ),
    _continual_cells,
    _continual,
)
