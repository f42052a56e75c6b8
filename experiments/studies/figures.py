"""Learning curves of several runs as one line per arm. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from experiments.charts import Series, line_chart
from experiments.studies.curves import Curve, Point
from experiments.studies.page import COLORS, Figure

POINTS = 40


def mean_curve(
    curves: Sequence[Curve], value: Callable[[Point], float]
) -> list[tuple[float, float]]:
    """(rollouts, mean over the runs) at some 40 places.

    A run that has ended, because its task was solved or its budget spent, stays where it was; the
    line begins where every run has begun. Runs without a curve are left out.
    """
    known = [curve for curve in curves if curve]
    if not known:
        return []
    first = max(curve[0].rollouts for curve in known)
    last = max(curve[-1].rollouts for curve in known)
    places = sorted({first + round((last - first) * i / POINTS) for i in range(POINTS + 1)})
    return [(float(x), fmean(value(_at(curve, x)) for curve in known)) for x in places]


def _at(curve: Curve, rollouts: int) -> Point:
    """The last point that had been paid for by then."""
    return next((p for p in reversed(curve) if p.rollouts <= rollouts), curve[0])


def learning_figure(
    name: str,
    title: str,
    about: str,
    curves: Mapping[str, Sequence[Curve]],
    value: Callable[[Point], float],
    *,
    share: bool,
    colors: Mapping[str, str] = COLORS,
) -> tuple[Figure, ...]:
    """A figure with one line per arm, or none where no arm has a curve.

    ``share`` says that values lie in 0..1; ``colors`` has one for each name.
    """
    series = tuple(
        Series(arm, tuple(points), colors.get(arm, "rest"), "line")
        for arm, own in curves.items()
        if (points := mean_curve(own, value))
    )
    if not series:
        return ()
    svg = line_chart(series, title=title, x="rollouts, both phases", unit_interval=share)
    return (Figure(name, title, about, svg, series),)
