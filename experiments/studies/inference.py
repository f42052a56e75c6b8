"""Means with intervals, and tests of differences. Pure; equal input and seed, equal numbers.

Values come in groups that were drawn together (the seeds of one target, the problems of one seed).
A bootstrap resamples groups first and values within them second, so that the interval speaks of
new groups too and many problems cannot stand in for few seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
EXACT = 14
"""Most differences whose signs are flipped in every way; beyond, 2¹⁴ ways are drawn."""

Values = NDArray[np.float64]
Statistic = Callable[[Values], Values]
"""Takes values along the last axis, where NaN stands for no value."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic and its 95 % interval, by percentile bootstrap."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """How much larger the first of two arms is, over ``n`` pairs of runs with equal seeds.

    ``p`` is two-sided; with few pairs it cannot be small: at best 2 / 2ⁿ.
    """

    estimate: Estimate
    p: float
    n: int


def bootstrap(
    groups: Sequence[Sequence[float]], statistic: Statistic | None = None, *, seed: int = 0
) -> Estimate:
    """A statistic of all values together (the mean by default) and its interval.

    The interval is over groups and values; where a group has one value, over groups alone. Of one
    single value it is that value: nothing is known of its spread.

    Raises:
        ValueError: no group, or an empty one.
    """
    arrays = _arrays(groups)
    measure = mean if statistic is None else statistic
    redrawn = _redraw(arrays, np.random.default_rng(seed))
    drawn = measure(redrawn.reshape(RESAMPLES, -1))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(measure(np.concatenate(arrays))), float(low), float(high))


def paired(
    first: Sequence[Sequence[float]], second: Sequence[Sequence[float]], *, seed: int = 0
) -> Difference:
    """Compare two arms: group k of both comes from the same seed, value i from the same problem.

    Every group counts alike. The interval resamples seeds and problems, the same for both arms; the
    test flips the signs of the seeds' mean differences.

    Raises:
        ValueError: the arms do not have equal groups.
    """
    shapes = [len(a) for a in first], [len(b) for b in second]
    if shapes[0] != shapes[1]:
        raise ValueError(f"paired arms need the same seeds and problems; got {shapes}")
    arrays = [a - b for a, b in zip(_arrays(first), _arrays(second), strict=True)]
    means = [float(a.mean()) for a in arrays]
    drawn = mean(_redraw(arrays, np.random.default_rng(seed))).mean(axis=-1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    estimate = Estimate(float(np.mean(means)), float(low), float(high))
    return Difference(estimate, sign_flip(means, seed=seed), len(first))


def sign_flip(differences: Sequence[float], *, seed: int = 0) -> float:
    """Two-sided p of a mean difference: how often random signs give one at least as large.

    Raises:
        ValueError: there is no difference.
    """
    if not differences:
        raise ValueError("a test needs at least one difference; got none")
    values = np.abs(np.asarray(differences, dtype=np.float64))
    if len(values) <= EXACT:
        signs = np.array(list(product((1.0, -1.0), repeat=len(values))))
    else:
        signs = np.random.default_rng(seed).choice((1.0, -1.0), size=(2**EXACT, len(values)))
    sums = np.abs(signs @ values)
    seen = abs(sum(differences))
    extreme = int((sums >= seen * (1 - 1e-12)).sum())
    if len(values) <= EXACT:
        return extreme / len(sums)
    return (extreme + 1) / (len(sums) + 1)  # the observed signs are one of the ways


def mean(values: Values) -> Values:
    """A :data:`Statistic`."""
    return np.nanmean(values, axis=-1)


def median(values: Values) -> Values:
    """A :data:`Statistic`."""
    return np.nanmedian(values, axis=-1)


def _arrays(groups: Sequence[Sequence[float]]) -> list[Values]:
    if not groups or not all(len(group) for group in groups):
        raise ValueError("a bootstrap needs at least one group, and a value in every group")
    return [np.asarray(group, dtype=np.float64) for group in groups]


def _redraw(groups: Sequence[Values], rng: np.random.Generator) -> Values:
    """Groups with replacement, and values with replacement within each.

    Returns:
        :data:`RESAMPLES` × groups × values of the largest; a smaller one is filled up with NaN.
    """
    sizes = np.array([len(group) for group in groups])
    places = np.arange(sizes.max())
    table = np.full((len(groups), len(places)), np.nan)
    for row, group in zip(table, groups, strict=True):
        row[: len(group)] = group
    chosen = rng.integers(len(groups), size=(RESAMPLES, len(groups), 1))
    limits = sizes[chosen]
    drawn = table[chosen, rng.integers(limits, size=(*limits.shape[:2], len(places)))]
    return np.where(places < limits, drawn, np.nan)
