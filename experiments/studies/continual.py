"""F6, continual learning: one uninterrupted run whose task changes without a word."""

from __future__ import annotations

from statistics import fmean

from experiments.charts import percent
from experiments.studies.cells import Cell, Stages
from experiments.studies.curves import Curve, Point, between, peak, smooth
from experiments.studies.learning import curve_of, curves_figure
from experiments.studies.page import Grid
from experiments.studies.protocol import Answer, Lookup, Protocol, Study
from experiments.studies.scope import STAGE_CYCLES, Scope, Target, name_of
from fst_agents.config import Arm, RunConfig
from optimizers.plan import adapts, cycle_rollouts, slow_step_rollouts

STAGES = 3


def _chain(scope: Scope, target: Target) -> tuple[Target, ...]:
    """A target and those after it in the list; with fewer targets than stages, some return."""
    return tuple(scope.following(target, place) for place in range(STAGES))


def _continual_cell(scope: Scope, arm: Arm, target: Target, seed: int) -> Cell:
    changes = {"budget": {"cycles": STAGES * STAGE_CYCLES}}
    return scope.cell(
        arm, target, seed, stages=Stages(_chain(scope, target), STAGE_CYCLES), changes=changes
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


def committed(curve: Curve, config: RunConfig) -> Curve:
    """The curve with every point where its batch was drawn: behind the rollouts that the plan had
    committed to by then, after which the task changes.

    A fast phase that ends early leaves some unspent; counted as they were spent, the first steps of
    a stage would be taken for the last of the one before. Where fast phases may be passed over, one
    has run wherever more was spent than an RL step costs.
    """
    if config.arm == "rl":  # spends what it has committed to
        return tuple(curve)
    step, fast, found = slow_step_rollouts(config), 0, list[Point]()
    for n, point in enumerate(curve):
        if adapts(config):
            fast += point.rollouts - (curve[n - 1].rollouts if n else 0) > step
        else:
            fast = n // config.slow.steps_per_cycle + 1
        found.append(point._replace(rollouts=fast * config.fast.rollouts + n * step + 1))
    return tuple(found)


def _continual(scope: Scope, found: Lookup) -> Answer:
    size = STAGE_CYCLES * cycle_rollouts(scope.base)
    window = scope.base.slow.steps_per_cycle

    def peaks(arm: Arm, target: Target, seed: int) -> list[float] | None:
        cell = _continual_cell(scope, arm, target, seed)
        record = found(cell)
        if record is None:
            return None
        return stage_peaks(committed(record.curve, cell.config), size, window)

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
        fst, rl_peaks = peaks("fst", target, seed), peaks("rl", target, seed)
        for stage, own in enumerate(_chain(scope, target)):
            shown = [alone(own, seed), *(None if p is None else p[stage] for p in (fst, rl_peaks))]
            cells = ("–" if v is None else percent(v) for v in shown)
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
