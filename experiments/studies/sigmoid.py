"""The curve of ScaleRL (arXiv 2510.13786): R = R₀ + (A − R₀) / (1 + (C_mid / C)^B).

Of its four parameters two, the start R₀ and the asymptote A, enter linearly. So the other two are
searched on a grid that is refined around its best point, and for each of its points the best R₀ and
A within their bounds are known in closed form. Nothing depends on a starting guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STEEPEST = 20.0
"""Largest B: steeper curves are steps, and data cannot tell them apart."""
POINTS, ROUNDS = 41, 6

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sigmoid:
    """A fitted curve. ``error`` is the root of the mean squared residual; ``rising`` says that the
    middle was found at the end of what was spent, so that half of the rise was never seen."""

    start: float
    asymptote: float
    middle: float
    steepness: float
    error: float
    rising: bool = False

    def at(self, spent: float) -> float:
        """The curve's value after ``spent`` rollouts, more than 0."""
        share = 1 / (1 + (self.middle / spent) ** self.steepness)
        return self.start + (self.asymptote - self.start) * share


def fit(
    spent: Sequence[float], reward: Sequence[float], bounds: tuple[float, float] = (0.0, 1.0)
) -> Sigmoid:
    """Least squares with R₀ and A in ``bounds`` and C_mid within what was spent.

    A curve whose middle lies beyond its end would have an asymptote that nothing has shown.

    Raises:
        ValueError: fewer than four points, points that were not paid for, or no finite numbers.
    """
    x, y = np.asarray(spent, dtype=np.float64), np.asarray(reward, dtype=np.float64)
    if len(x) != len(y) or len(x) < 4:
        raise ValueError(f"four parameters need at least four points; got {len(x)} and {len(y)}")
    if not (np.isfinite(x).all() and np.isfinite(y).all() and (x > 0).all()):
        raise ValueError("a curve needs finite rewards after more than 0 rollouts")
    middle = np.log(x.min() / 2), np.log(x.max())
    steepness = np.log(0.25), np.log(STEEPEST)
    best = (np.inf, 0.0, 0.0, 0.0, 0.0)
    spans = middle, steepness
    for _ in range(ROUNDS):
        best = min(best, _search(x, y, bounds, *spans))
        spans = _around(best[1], spans[0], middle), _around(best[2], spans[1], steepness)
    squares, log_middle, log_steepness, start, asymptote = best
    root = float(np.sqrt(max(0.0, squares) / len(x)))
    rising = bool(log_middle >= middle[1] - 1e-9)
    return Sigmoid(
        start, asymptote, float(np.exp(log_middle)), float(np.exp(log_steepness)), root, rising
    )


Span = tuple[float, float]


def _around(centre: float, span: Span, limits: Span) -> Span:
    """Two grid steps to either side of the best point."""
    reach = 2 * (span[1] - span[0]) / (POINTS - 1)
    return max(limits[0], centre - reach), min(limits[1], centre + reach)


def _search(
    x: Values, y: Values, bounds: Span, middles: Span, steeps: Span
) -> tuple[float, float, float, float, float]:
    """Best point of a grid: squared error, log C_mid, log B, R₀, A."""
    m, b = np.meshgrid(np.linspace(*middles, POINTS), np.linspace(*steeps, POINTS))
    m, b = m.ravel(), b.ravel()
    power = np.clip(np.exp(b)[:, None] * (m[:, None] - np.log(x)), -500, 500)
    share = 1 / (1 + np.exp(power))
    errors, starts, ends = _linear(share, y, bounds)
    i = int(np.argmin(errors))
    return float(errors[i]), float(m[i]), float(b[i]), float(starts[i]), float(ends[i])


def _linear(share: Values, y: Values, bounds: Span) -> tuple[Values, Values, Values]:
    """Row by row, the bounded least squares of y ≈ R₀ (1 − s) + A s: errors, R₀, A.

    The problem is convex: the optimum is the free one, or lies on one of the four edges.
    """
    low, high = bounds
    u, v = 1 - share, share
    uu, uv, vv = (u * u).sum(1), (u * v).sum(1), (v * v).sum(1)
    uy, vy = u @ y, v @ y
    determinant = uu * vv - uv * uv
    safe = np.where(determinant > 1e-12, determinant, 1.0)
    free = (uy * vv - vy * uv) / safe, (vy * uu - uy * uv) / safe
    inside = determinant > 1e-12
    for value in free:
        inside &= (value >= low) & (value <= high)
    candidates = [(np.where(inside, free[0], low), np.where(inside, free[1], low))]
    for edge in (low, high):
        fixed = np.full_like(uu, edge)
        candidates.append((fixed, np.clip((vy - edge * uv) / np.maximum(vv, 1e-12), low, high)))
        candidates.append((np.clip((uy - edge * uv) / np.maximum(uu, 1e-12), low, high), fixed))
    errors = np.stack([((a[:, None] * u + b[:, None] * v - y) ** 2).sum(1) for a, b in candidates])
    chosen = errors.argmin(0)
    rows = np.arange(len(chosen))
    starts = np.stack([a for a, _ in candidates])[chosen, rows]
    ends = np.stack([b for _, b in candidates])[chosen, rows]
    return errors[chosen, rows], starts, ends
