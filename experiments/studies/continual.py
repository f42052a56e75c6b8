"""F6, continual learning: one uninterrupted run whose task changes without a word."""

from __future__ import annotations

from random import Random
from statistics import fmean

from experiments.charts import percent
from experiments.studies.cells import Cell, Stages
from experiments.studies.curves import Curve, Point, peak, smooth
from experiments.studies.learning import LEARNS, UNWATCHED, training_figure, training_of
from experiments.studies.page import Grid
from experiments.studies.protocol import Answer, Lookup, Protocol, Study
from experiments.studies.scope import STAGE_CYCLES, Scope, Target, name_of
from fst_agents.config import Arm, RunConfig
from optimizers.plan import adapts, batches_of, cycle_rollouts, slow_step_rollouts

STAGES = 3


Chain = tuple[tuple[Target, ...], int]
"""The rules of a run in their order, and its seed."""


def _chains(scope: Scope) -> list[Chain]:
    """Of every seed as many chains as its targets fill, in an order of its own: no target is in two
    chains of a seed. With fewer targets than stages there is one, in which some return."""
    found: list[Chain] = []
    for seed in scope.seeds:
        order = Random(f"chains/{seed}").sample(scope.targets, len(scope.targets))
        if len(order) < STAGES:
            order = [order[stage % len(order)] for stage in range(STAGES)]
        ends = range(STAGES, len(order) + 1, STAGES)
        found += [(tuple(order[end - STAGES : end]), seed) for end in ends]
    return found


def _continual_cell(scope: Scope, arm: Arm, chain: Chain) -> Cell:
    rules, seed = chain
    budget = {"cycles": STAGES * STAGE_CYCLES, "rollouts": None}
    changes = {"budget": budget, **UNWATCHED}  # held-out problems are the last rule's
    return scope.cell(arm, rules[0], seed, stages=Stages(rules, STAGE_CYCLES), changes=changes)


def _continual_cells(scope: Scope) -> list[Cell]:
    chains = _chains(scope)
    runs = [_continual_cell(scope, arm, chain) for chain in chains for arm in ("fst", "rl")]
    return runs + [scope.cell("fst", rule, seed) for rules, seed in chains for rule in rules]


def by_stage(curve: Curve, config: RunConfig, cycles: int) -> list[Curve]:
    """The RL steps of every stage: as many as the batches of ``cycles`` cycles, after which the
    task changed.

    Where fast phases may be passed over, tasks change by rollouts that the plan had committed to,
    not by batches: a point belongs to the stage in which its batch was drawn.
    """
    if not adapts(config):
        size = batches_of(config, cycles)
        return [curve[k * size : (k + 1) * size] for k in range(STAGES - 1)] + [
            curve[(STAGES - 1) * size :]
        ]
    step, fast, parts = slow_step_rollouts(config), 0, [list[Point]() for _ in range(STAGES)]
    for n, point in enumerate(curve):
        # A fast phase that ends early leaves rollouts unspent; one has run wherever more was spent
        # than an RL step costs.
        fast += point.rollouts - (curve[n - 1].rollouts if n else 0) > step
        drawn = fast * config.fast.rollouts + n * step
        parts[min(drawn // (cycles * cycle_rollouts(config)), STAGES - 1)].append(point)
    return [tuple(part) for part in parts]


def stage_peaks(curve: Curve, config: RunConfig, cycles: int) -> list[float]:
    """The highest smoothed share of right answers within each stage; 0 without a step in it.

    A window never reaches across a switch.
    """
    window = config.slow.steps_per_cycle
    tops = (peak(smooth(part, window)) for part in by_stage(curve, config, cycles))
    return [0.0 if top is None else top.exact for top in tops]


def _continual(scope: Scope, found: Lookup) -> Answer:
    def peaks(arm: Arm, chain: Chain) -> list[float] | None:
        cell = _continual_cell(scope, arm, chain)
        record = found(cell)
        if record is None:
            return None
        return stage_peaks(record.curve, cell.config, STAGE_CYCLES)

    def alone(target: Target, seed: int) -> float | None:
        curve = training_of(scope, found(scope.cell("fst", target, seed)))
        top = None if curve is None else peak(curve)
        return None if top is None else top.exact

    def worst(arm: Arm, chain: Chain) -> float | None:
        """The least share, over the stages, of what a run on that rule alone reaches."""
        reached = peaks(arm, chain)
        singles = [alone(rule, chain[1]) for rule in chain[0]]
        if reached is None or None in singles:
            return None
        shares = [r / s for r, s in zip(reached, singles, strict=True) if s and s >= LEARNS]
        return min(shares) if shares else None

    chains = _chains(scope)
    rows: list[tuple[str, ...]] = []
    for chain in chains:
        fst, rl_peaks = peaks("fst", chain), peaks("rl", chain)
        for stage, rule in enumerate(chain[0]):
            reached = (None if p is None else p[stage] for p in (fst, rl_peaks))
            shown = [alone(rule, chain[1]), *reached]
            cells = ("–" if v is None else percent(v) for v in shown)
            rows.append((f"stage {stage + 1}: {name_of(rule)}, seed {chain[1]}", *cells))
    shares: dict[int, list[float]] = {seed: [] for seed in scope.seeds}
    differences: dict[int, list[float]] = {seed: [] for seed in scope.seeds}
    theirs: list[float] = []
    for chain in chains:
        ours, rl = worst("fst", chain), worst("rl", chain)
        if ours is None or rl is None:
            continue
        shares[chain[1]].append(ours)
        differences[chain[1]].append(ours - rl)
        theirs.append(rl)
    mean = fmean(theirs) if theirs else None
    cells = [_continual_cell(scope, arm, chain) for chain in chains for arm in ("fst", "rl")]
    return Answer(
        groups=list(shares.values()),
        words="RL has no result." if mean is None else f"RL, by the same measure: {percent(mean)}.",
        grid=Grid(("stage", "FST alone", "FST", "RL"), tuple(rows)),
        figures=training_figure(scope, found, "continual", cells),
        differences=list(differences.values()),
        targets=len({rule for rules, _ in chains for rule in rules}),
        more={"rl": mean, "chains": len(theirs)},
    )


CONTINUAL = Study(
    "continual",
    Protocol(
        finding="F6",
        question="Does an uninterrupted run keep learning when its task changes?",
        procedure=(
            f"Runs of fst and of rl over three rules, {STAGE_CYCLES} cycles' rollouts on each, in "
            "an order drawn for every seed; no rule is in two runs of a seed (of fewer than three "
            "rules, some return). Only the problems change; population, weights and optimizers go "
            "on, and nothing tells them. Of each stage the highest share of right training "
            "answers, averaged over a cycle's RL steps, is divided by what a run of fst on that "
            "rule alone reaches in its whole budget, which is longer than a stage; the figure is "
            "the worst stage of a run, and no effect is that of rl's run over the same rules. "
            f"Rules that fst alone never gets {LEARNS:.0%} right are left out. The interval "
            "resamples seeds, and runs within them."
        ),
        paper={"HoVer → CodeIO → Physics": "near the peak at every stage; RL about 10 % on CodeIO"},
        measure="mean over runs of the worst stage's share of its peak, FST",
        threshold=0.9,
        neutral=None,
    ),
    _continual_cells,
    _continual,
)
