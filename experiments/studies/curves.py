"""What a learning curve says: its peak, when it reached a level, the KL it had paid by then. Pure.

A curve is smoothed over a whole number of RL steps first. Every smoothed point stands at the end of
its window, so that no arm is credited with rollouts before they were paid for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Point(NamedTuple):
    """One RL step, or one validation.

    Attributes:
        rollouts: of both phases, spent so far.
        reward: its mean; of a validation the mean score.
        exact: share of answers that were exactly right; the reward, where the metric names no such
            objective, and in a validation.
        kl: to the base in nats per token under the instructions in use, measured in the last RL
            step of a cycle.
        steps: RL steps taken so far.
    """

    rollouts: int
    reward: float
    exact: float
    kl: float | None
    steps: int


Curve = tuple[Point, ...]


def smooth(curve: Sequence[Point], window: int) -> Curve:
    """Means over ``window`` steps, of the KL over those that measured it; one window over all steps
    where there are fewer.

    Raises:
        ValueError: the window is not positive.
    """
    if window < 1:
        raise ValueError(f"window: got {window}, expected at least 1")
    size = min(window, len(curve))
    return tuple(_mean(curve[i - size : i]) for i in range(size, len(curve) + 1) if i)


def _mean(points: Sequence[Point]) -> Point:
    n = len(points)
    reward, exact = sum(p.reward for p in points) / n, sum(p.exact for p in points) / n
    measured = [p.kl for p in points if p.kl is not None]
    kl = sum(measured) / len(measured) if measured else None
    return Point(points[-1].rollouts, reward, exact, kl, points[-1].steps)


def peak(curve: Sequence[Point]) -> Point | None:
    """Where the share of right answers was highest, the first such place; ``None`` of no curve."""
    return max(curve, key=lambda p: p.exact, default=None)


def reaching(curve: Sequence[Point], level: float) -> Point | None:
    """The first point whose share of right answers is at least ``level``."""
    return next((p for p in curve if p.exact >= level), None)


def area(curve: Sequence[Point], budget: int) -> float:
    """Mean share of right answers from no rollout to ``budget``: 0 before the first point, that of
    a point until the next one, and of the last until the budget ends.

    Raises:
        ValueError: the budget is not positive.
    """
    if budget < 1:
        raise ValueError(f"budget: got {budget}, expected at least 1")
    ends = [*(p.rollouts for p in curve[1:]), budget]
    return sum(
        p.exact * max(0, min(end, budget) - p.rollouts) / budget
        for p, end in zip(curve, ends, strict=False)
    )


def speed_up(slow: Sequence[Point], fast: Sequence[Point], share: float = 1.0) -> float | None:
    """Rollouts of ``slow`` to its own peak, or to a share of it, over those of ``fast`` to that
    level.

    0 where ``fast`` never gets there; ``None`` where ``slow`` has no curve.
    """
    top = peak(slow)
    if top is None:
        return None
    level = share * top.exact
    own, there = reaching(slow, level), reaching(fast, level)
    return 0.0 if own is None or there is None else own.rollouts / there.rollouts


def fewer_steps(slow: Sequence[Point], fast: Sequence[Point]) -> float | None:
    """RL steps of ``slow`` to its own peak, over those of ``fast`` to that level.

    This is the paper's count, in which the rollouts of a fast phase cost nothing. A level that is
    reached before the first RL step counts as reached with it.

    0 where ``fast`` never gets there; ``None`` where ``slow`` has no curve.
    """
    top = peak(slow)
    if top is None:
        return None
    there = reaching(fast, top.exact)
    return 0.0 if there is None else top.steps / max(1, there.steps)


def measured(curve: Sequence[Point]) -> Curve:
    """The points that have a KL."""
    return tuple(p for p in curve if p.kl is not None)


def kl_ratio(first: Sequence[Point], second: Sequence[Point]) -> float | None:
    """KL of ``first`` over that of ``second`` at the highest level that both reach.

    ``None`` where there is no such level above 0, or no KL of either there.
    """
    tops = peak(first), peak(second)
    if tops[0] is None or tops[1] is None:
        return None
    level = min(tops[0].exact, tops[1].exact)
    ours, theirs = reaching(first, level), reaching(second, level)
    if level <= 0 or ours is None or theirs is None or ours.kl is None or not theirs.kl:
        return None
    return ours.kl / theirs.kl
