"""How fast and how high: F1, F2 and F7, read off the learning curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from experiments.charts import number, percent
from experiments.studies.cells import Cell, Record
from experiments.studies.curves import Curve, area, fewer_steps, peak, reaching, smooth, speed_up
from experiments.studies.figures import learning_figure
from experiments.studies.inference import median
from experiments.studies.page import Figure, Grid, points
from experiments.studies.protocol import Answer, Lookup, Protocol, Study
from experiments.studies.scope import Changes, Scope, Target, name_of
from experiments.studies.sigmoid import Sigmoid, fit
from fst_agents.config import Arm
from optimizers.plan import total_rollouts

LEARNS = 0.05
"""Share of right answers from which a run has left zero."""

SHARES = (0.25, 0.5, 0.75, 0.9, 0.95)
"""Shares of RL's peak that are reported beside the peak itself."""

CURVE = (
    "The learning curve is the paper's: at the end of every phase, what would ship then (the "
    "champion of fst, the seed instruction of rl) answers held-out problems, mean@n, under the "
    "weights of that moment; these answers are no part of the budget, and nothing learns from them."
)


def curve_of(record: Record | None) -> Curve | None:
    """A run's learning curve, on held-out problems; ``None`` of a failed run."""
    return None if record is None else record.validation


def training_of(scope: Scope, record: Record | None) -> Curve | None:
    """A run's training rollouts, averaged over the RL steps of one cycle; ``None`` of a failed
    run."""
    return None if record is None else smooth(record.curve, scope.base.slow.steps_per_cycle)


def learned(curve: Curve | None) -> bool:
    return curve is not None and reaching(curve, LEARNS) is not None


def pair_of_arms(scope: Scope) -> list[Cell]:
    return [scope.cell(arm, *unit) for unit in scope.units for arm in ("fst", "rl")]


def by_arm(
    found: Lookup, cells: Sequence[Cell], curve: Callable[[Record | None], Curve | None]
) -> dict[str, list[Curve]]:
    """The curves of some cells by arm, failed ones and empty ones left out."""
    curves: dict[str, list[Curve]] = {}
    for cell in cells:
        own = curve(found(cell))
        if own:
            curves.setdefault(cell.config.arm, []).append(own)
    return curves


def curves_figure(found: Lookup, name: str, cells: Sequence[Cell]) -> tuple[Figure, ...]:
    """The learning curves of some cells, a line per arm."""
    about = "Share of held-out answers right; mean over targets and seeds."
    curves = by_arm(found, cells, curve_of)
    return learning_figure(name, "Learning", about, curves, lambda p: p.exact, share=True)


def training_figure(
    scope: Scope, found: Lookup, name: str, cells: Sequence[Cell]
) -> tuple[Figure, ...]:
    """The training rollouts of some cells, a line per arm."""
    about = "Share of training answers exactly right; mean over targets and seeds."
    curves = by_arm(found, cells, lambda record: training_of(scope, record))
    return learning_figure(name, "Training", about, curves, lambda p: p.exact, share=True)


# -- F1 ---------------------------------------------------------------------------------------


def _both(scope: Scope, found: Lookup, target: Target, seed: int) -> tuple[Curve, Curve] | None:
    """The curves of RL and FST where RL ever learns."""
    rl = curve_of(found(scope.cell("rl", target, seed)))
    fst = curve_of(found(scope.cell("fst", target, seed)))
    return None if rl is None or fst is None or not learned(rl) else (rl, fst)


def _speed(
    scope: Scope, found: Lookup, target: Target, seed: int, share: float = 1.0
) -> float | None:
    both = _both(scope, found, target, seed)
    return None if both is None else speed_up(*both, share)


def _steps(scope: Scope, found: Lookup, target: Target, seed: int) -> float | None:
    both = _both(scope, found, target, seed)
    return None if both is None else fewer_steps(*both)


def _gain(scope: Scope, found: Lookup, target: Target, seed: int) -> float | None:
    """How much larger the area under FST's curve is, in shares of right answers."""
    both = _both(scope, found, target, seed)
    budget = total_rollouts(scope.base)
    return None if both is None else area(both[1], budget) - area(both[0], budget)


def _times(ratio: float) -> str:
    return f"{ratio:.1f}×" if ratio else "not reached"


def _middle(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(median(np.asarray(known))) if known else None


def _sample_efficiency(scope: Scope, found: Lookup) -> Answer:
    rows: list[tuple[str, ...]] = []
    never = 0
    for target in scope.targets:
        records = [found(scope.cell("rl", target, s)) for s in scope.seeds]
        curves = [curve_of(record) for record in records if record is not None]
        learns = [c for c in curves if learned(c)]
        never += bool(curves) and not learns
        tops = [top.exact for c in learns if c is not None and (top := peak(c)) is not None]
        speeds = [_speed(scope, found, target, s) for s in scope.seeds]
        shares = [
            _middle([_speed(scope, found, target, s, share) for s in scope.seeds])
            for share in SHARES
        ]
        rows.append(
            (
                name_of(target),
                ", ".join(map(percent, tops)) or "never leaves zero",
                ", ".join(_times(s) for s in speeds if s is not None) or "–",
                *("–" if s is None else _times(s) for s in shares),
            )
        )
    words = f"On {never} of {len(scope.targets)} targets RL never gets {percent(LEARNS)} right."
    more: dict[str, Any] = {"rl_never_leaves_zero": never / len(scope.targets)}
    steps = _middle([_steps(scope, found, *unit) for unit in scope.units])
    gains = [g for unit in scope.units if (g := _gain(scope, found, *unit)) is not None]
    if steps is not None:
        shares = {s: _middle([_speed(scope, found, *u, s) for u in scope.units]) for s in SHARES}
        to_share = {f"{s:.0%}": value for s, value in shares.items() if value is not None}
        more |= {"fewer_steps": steps, "to_share": to_share, "area": fmean(gains)}
        words += (
            f" How many times fewer, in the median: RL steps to RL's peak, which leave out the "
            f"fast phases, {_times(steps)}; rollouts to a share of RL's peak, "
            + ", ".join(f"{_times(value)} to {share}" for share, value in to_share.items())
            + f". The area under the curve over the whole budget is {points(fmean(gains))} points "
            "with FST."
        )
    columns = ("target", "RL's peak, by seed", "fewer rollouts, by seed")
    return Answer(
        groups=scope.each(lambda target, seed: _speed(scope, found, target, seed)),
        words=words,
        grid=Grid((*columns, *(f"to {share:.0%} of it" for share in SHARES)), tuple(rows)),
        figures=curves_figure(found, "sample-efficiency", pair_of_arms(scope)),
        statistic=median,
        more=more,
    )


SAMPLE_EFFICIENCY = Study(
    "sample-efficiency",
    Protocol(
        finding="F1",
        question="How many fewer rollouts does FST need to reach RL's running peak?",
        procedure=(
            "fst and rl on every target and seed. Both may spend the same rollouts, and no run "
            "ends because its task is solved; what a fast phase leaves unspent, because a text "
            f"was right on the whole anchor set, nobody spends. {CURVE} RL's peak is the highest "
            "point of its curve; the figure is the rollouts RL had spent there over the rollouts, "
            "fast phase included, that FST had spent when it first reached that level. Runs where "
            f"RL never gets {LEARNS:.0%} right have no peak to reach: they are counted apart."
        ),
        paper={"CodeIO": "3.0×", "Polaris math": "1.4×", "HoVer-hard": "3.0×"},
        measure="median of rollouts RL / rollouts FST",
        threshold=3.0,
        neutral=1.0,
    ),
    pair_of_arms,
    _sample_efficiency,
)


# -- F2 ---------------------------------------------------------------------------------------


def _asymptote(record: Record | None) -> Sigmoid | None:
    curve = curve_of(record)
    if curve is None or len(curve) < 4:
        return None
    return fit([p.rollouts for p in curve], [p.exact for p in curve])


def _marked(fitted: Sigmoid) -> str:
    return f"{percent(fitted.asymptote)}{' *' if fitted.rising else ''}"


def _ceiling(scope: Scope, found: Lookup) -> Answer:
    fits = {
        (arm, *unit): _asymptote(found(scope.cell(arm, *unit)))
        for unit in scope.units
        for arm in ("fst", "rl")
    }

    def gap(target: Target, seed: int) -> float | None:
        ours, theirs = fits["fst", target, seed], fits["rl", target, seed]
        return None if ours is None or theirs is None else ours.asymptote - theirs.asymptote

    rows = [
        (
            f"{name_of(target)}, seed {seed}",
            *(
                cell
                for arm in ("fst", "rl")
                for f in [fits[arm, target, seed]]
                for cell in (("–", "–") if f is None else (_marked(f), f"{f.error:.3f}"))
            ),
        )
        for target, seed in scope.units
    ]
    sure = [
        value
        for unit in scope.units
        if (value := gap(*unit)) is not None
        and not any((f := fits[arm, *unit]) is not None and f.rising for arm in ("fst", "rl"))
    ]
    return Answer(
        groups=scope.each(gap),
        words=(
            "A curve that still rises when its budget ends, marked *, has an uncertain asymptote: "
            "its middle was found at the end of the budget, where it is bounded."
            + (
                f" Mean difference over the {len(sure)} runs without such a curve: "
                f"{number(fmean(sure))}."
                if sure
                else ""
            )
        ),
        grid=Grid(("run", "A of FST", "residual", "A of RL", "residual"), tuple(rows)),
        more={"without_rising": fmean(sure) if sure else None},
        figures=curves_figure(found, "ceiling", pair_of_arms(scope)),
    )


CEILING = Study(
    "ceiling",
    Protocol(
        finding="F2",
        question="Does FST's learning curve end higher than RL's?",
        procedure=(
            "The cells of sample-efficiency. R − R₀ = (A − R₀) / (1 + (C_mid / C)^B) is fitted to "
            "every curve by least squares, with R₀ and A between 0 and 1 and C_mid within the "
            f"budget; the figure is A of FST minus A of RL, run by run. {CURVE}"
        ),
        paper={
            "CodeIO": "A above RL's",
            "Polaris math": "A above RL's",
            "HoVer-hard": "A above RL's",
        },
        measure="mean of A(FST) − A(RL)",
        threshold=0.0,
        neutral=0.0,
    ),
    pair_of_arms,
    _ceiling,
)


# -- F7 ---------------------------------------------------------------------------------------

NO_PARTIAL: Changes = {
    "task": {"reward": "exact"},
    "sampling": {"failure_score": 0.0, "partial_credit": 0.0},
}
"""All or nothing: what is not exactly right earns 0, like what cannot be read."""


UNWATCHED: Changes = {"eval": {"every": None}}
"""For cells whose learning curve nobody asks for."""


def _exact_cell(scope: Scope, arm: Arm, target: Target, seed: int) -> Cell:
    return scope.cell(arm, target, seed, changes={**NO_PARTIAL, **UNWATCHED})


def _exact_pair(scope: Scope) -> list[Cell]:
    return [_exact_cell(scope, arm, *unit) for unit in scope.units for arm in ("fst", "rl")]


def _signal(scope: Scope, found: Lookup, arm: Arm, target: Target, seed: int) -> float | None:
    """Rollouts to the first signal; infinite where there is none; ``None`` of a failed run."""
    curve = training_of(scope, found(_exact_cell(scope, arm, target, seed)))
    if curve is None:
        return None
    there = reaching(curve, LEARNS)
    return float("inf") if there is None else float(there.rollouts)


def _zero_reward(scope: Scope, found: Lookup) -> Answer:
    limit = float(total_rollouts(scope.base))

    def sooner(target: Target, seed: int) -> float | None:
        rl, fst = (_signal(scope, found, arm, target, seed) for arm in ("rl", "fst"))
        if rl is None or fst is None or rl == fst == float("inf"):
            return None
        # Where RL sees nothing within its budget, the budget is the least it would have taken.
        return 0.0 if fst == float("inf") else min(rl, limit) / fst

    silent: dict[Arm, int] = {"fst": 0, "rl": 0}
    rows: list[tuple[str, ...]] = []
    for target, seed in scope.units:
        shown: list[str] = []
        for arm in silent:
            after = _signal(scope, found, arm, target, seed)
            silent[arm] += after == float("inf")
            shown.append(
                "–" if after is None else "never" if after == float("inf") else number(after)
            )
        ratio = sooner(target, seed)
        rows.append(
            (f"{name_of(target)}, seed {seed}", *shown, "–" if ratio is None else f"{ratio:.1f}×")
        )
    runs = len(scope.units)
    return Answer(
        groups=scope.each(sooner),
        words=(
            f"RL saw no signal at all in {silent['rl']} of {runs} runs, FST in {silent['fst']}; "
            "where RL saw none, its whole budget stands for it, so the figure is a lower bound."
        ),
        grid=Grid(("run", "FST: rollouts to 5 %", "RL: rollouts to 5 %", "sooner"), tuple(rows)),
        figures=training_figure(scope, found, "zero-reward", _exact_pair(scope)),
        statistic=median,
        more={"rl_silent": silent["rl"] / runs, "fst_silent": silent["fst"] / runs},
    )


ZERO_REWARD = Study(
    "zero-reward",
    Protocol(
        finding="F7",
        question="How much sooner does FST find a signal where the base policy earns nothing?",
        procedure=(
            "fst and rl with all-or-nothing reward: under the seed instruction the base policy is "
            "right less than once in a hundred answers. The first signal is where the share of "
            f"right training answers, averaged over a cycle's RL steps, reaches {LEARNS:.0%}; the "
            "figure is RL's rollouts to it over FST's. Runs where neither finds one are left out "
            "and counted."
        ),
        paper={
            "star-graph search": "signal at step ~50 against ~250",
            "at step 300": "0.8 against 0.4",
        },
        measure="median of rollouts RL / rollouts FST to the first signal",
        threshold=5.0,
        neutral=1.0,
    ),
    _exact_pair,
    _zero_reward,
)
