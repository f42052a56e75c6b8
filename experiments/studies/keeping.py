"""What learning costs: F3 (drift), F4 (forgetting) and F5 (plasticity)."""

from __future__ import annotations

from statistics import fmean

from experiments.charts import number, percent
from experiments.studies.cells import Cell
from experiments.studies.curves import Curve, kl_ratio, measured
from experiments.studies.figures import learning_figure
from experiments.studies.inference import median
from experiments.studies.learning import (
    LEARNS,
    curve_of,
    learned,
    pair_of_arms,
    training_of,
)
from experiments.studies.page import Grid, points
from experiments.studies.protocol import Answer, Lookup, Protocol, Study
from experiments.studies.scope import Scope, Target, name_of
from fst_agents.config import Arm
from fst_agents.errors import ConfigError


def rates(scope: Scope) -> str:
    """At which rates the weights of both arms learn, in a sentence."""
    fst = scope.base.slow.learning_rate
    rl = fst if scope.rl_learning_rate is None else scope.rl_learning_rate
    return f"Weights learn at {rl:g} in rl and at {fst:g} in fst."


# -- F3 ---------------------------------------------------------------------------------------


def _drift(scope: Scope, found: Lookup) -> Answer:
    def ratio(target: Target, seed: int) -> float | None:
        fst, rl = (
            training_of(scope, found(scope.cell(arm, target, seed))) for arm in ("fst", "rl")
        )
        return None if fst is None or rl is None or not learned(rl) else kl_ratio(fst, rl)

    rows = [
        (f"{name_of(t)}, seed {s}", "–" if (r := ratio(t, s)) is None else f"{r:.3f}")
        for t, s in scope.units
    ]
    curves = {
        arm: [
            measured(c)
            for u in scope.units
            if (c := training_of(scope, found(scope.cell(arm, *u))))
        ]
        for arm in ("fst", "rl")
    }
    finals = {
        arm: [r.result["kl"] for u in scope.units if (r := found(scope.cell(arm, *u))) is not None]
        for arm in ("fst", "rl")
    }
    ends = ", ".join(f"{arm} {number(fmean(v))}" for arm, v in finals.items() if v)
    return Answer(
        groups=scope.each(ratio),
        words=f"Mean KL at the end of training, in nats per token: {ends}. {rates(scope)}",
        grid=Grid(("run", "KL of FST / KL of RL at matched reward"), tuple(rows)),
        figures=learning_figure(
            "drift",
            "Drift",
            "KL to the base in nats per token.",
            curves,
            lambda p: p.kl or 0.0,
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
            "The cells of sample-efficiency. KL(π_train ‖ π_base) per token, exact over the "
            "vocabulary, is measured in the last RL step of every cycle on all that it draws, each "
            "answer under the instruction that drew it. At the highest share of right training "
            "answers, averaged over a cycle, that both reach, the KL of FST is divided by RL's. "
            "Runs where RL never leaves zero have no such level."
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
        return None if record is None else record.retention_change

    rows: list[tuple[str, ...]] = []
    for target, seed in scope.units:
        both = [change(arm, target, seed) for arm in ("fst", "rl")]
        rows.append(
            (f"{name_of(target)}, seed {seed}", *("–" if v is None else points(v) for v in both))
        )
    theirs = [v for group in scope.each(lambda t, s: change("rl", t, s)) for v in group]
    loss = fmean(theirs) if theirs else None

    def gap(target: Target, seed: int) -> float | None:
        ours, rl = change("fst", target, seed), change("rl", target, seed)
        return None if ours is None or rl is None else ours - rl

    steps = {
        arm: [r.result["steps"] for u in scope.units if (r := found(scope.cell(arm, *u)))]
        for arm in ("fst", "rl")
    }
    taken = ", ".join(f"{arm} {number(fmean(v))}" for arm, v in steps.items() if v)
    said = "RL has no result." if loss is None else f"RL changes them by {points(loss)} points."
    return Answer(
        groups=scope.each(lambda t, s: change("fst", t, s)),
        words=(
            f"{said} Mean RL steps that moved weights, on equal rollouts: {taken}. {rates(scope)}"
        ),
        grid=Grid(("run", "FST, points", "RL, points"), tuple(rows)),
        differences=scope.each(gap),
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
            "evolved; every run has its own questions. The figure is the share right after minus "
            "before, with FST's weights; no effect is what RL's weights lose, run by run. Rollouts "
            "are equal, RL steps are not: the fast phases of FST take none."
        ),
        paper={"other tasks, seed prompt": "equal or better than RL"},
        measure="mean change of the share of other skills answered right, FST",
        threshold=-0.02,
        neutral=None,
    ),
    pair_of_arms,
    _forgetting,
)


# -- F5 ---------------------------------------------------------------------------------------

STARTS: tuple[Arm | None, ...] = (None, "rl", "fst")


def _second(scope: Scope, first: Arm | None, target: Target, seed: int) -> Cell:
    """Fresh RL on the target that follows, from the base or from what an arm made of the first."""
    start = None if first is None else scope.cell(first, target, seed)
    return scope.cell("rl", scope.second(target), seed, start=start)


def _plasticity_cells(scope: Scope) -> list[Cell]:
    if len(scope.targets) < 2:
        raise ConfigError("plasticity: a second rule needs at least two targets; got one")
    return [_second(scope, first, *unit) for unit in scope.units for first in STARTS]


def _plasticity(scope: Scope, found: Lookup) -> Answer:
    def final(first: Arm | None, target: Target, seed: int) -> float | None:
        record = found(_second(scope, first, target, seed))
        return None if record is None else record.final

    def gap(target: Target, seed: int) -> float | None:
        ends = [final(first, target, seed) for first in STARTS]
        base, _, ours = ends
        if ours is None or base is None or max(e for e in ends if e is not None) < LEARNS:
            return None  # where nothing learns there is no plasticity to lose
        return ours - base

    rows: list[tuple[str, ...]] = []
    for target, seed in scope.units:
        shown = (final(first, target, seed) for first in STARTS)
        name = f"{name_of(target)}, then {name_of(scope.second(target))}, seed {seed}"
        rows.append((name, *("–" if v is None else percent(v) for v in shown)))
    means = {
        name: [v for u in scope.units if (v := final(first, *u)) is not None]
        for name, first in zip(("base", "RL", "FST"), STARTS, strict=True)
    }
    curves: dict[str, list[Curve]] = {}
    for unit in scope.units:
        for name, first in zip(("base", "rl", "fst"), STARTS, strict=True):
            curve = curve_of(found(_second(scope, first, *unit)))
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
            "Share of held-out answers right, by where the weights came from.",
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
            "Fresh RL, with a new adapter and optimizer, on another target, from three starts: the "
            "base, and the weights that rl and fst ended with on the first, merged into a model of "
            "their own. Every target is the second of one other, with which it shares no operation "
            "wherever the list of targets allows that. The figure is the final score on the second "
            "rule from FST's weights minus that from the base. Runs in which no start gets 5 % "
            "right say nothing and are left out."
        ),
        paper={"from base / RL / FST": "19.3 / 10.0 / 20.5 %"},
        measure="mean of final score from FST − from base",
        threshold=0.0,
        neutral=0.0,
    ),
    _plasticity_cells,
    _plasticity,
)
