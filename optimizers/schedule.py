"""When Φ evolves: in every cycle (the paper), or only in those where it pays.

The adaptive schedule looks at what the RL steps since the last fast phase have earned, and at
nothing else: a change of the task is announced to nobody. It evolves Φ where

- there is no fast phase yet: a policy under a seed instruction has everything to gain from one;
- groups are flat: a large share of a cycle's groups moved no weights, because they scored alike and
  not because they were solved; only another instruction can make them differ;
- the reward dropped: what Φ asks for does not earn what it did, because the task has changed or
  the weights have moved away from its texts;
- the reward stands still, short of the best score: the weights have learnt what these texts can
  teach them.

Otherwise the weights still learn, or all is solved, and the cycle's rollouts go to RL steps alone.
Φ is then scored by what its members earn there.

The thresholds are ``fast.adaptive_*``. Their defaults: the mean of a cycle (96 problems) has a
standard error of some 0.03, so a drop of 0.1 is no noise; a rise of 0.02 a cycle takes 50 cycles
from the worst score to the best; half of the groups flat means paying twice for every group that
teaches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean
from typing import Literal

from fst_agents.bridge_report import FLAT_SPREAD, Fate
from fst_agents.config import RunConfig
from fst_agents.stream import ProblemStream
from fst_agents.types import Pace, Pulse, RolloutGroup
from optimizers.fast_phase import refuse_above
from optimizers.plan import (
    adapts,
    cycle_rollouts,
    slow_step_rollouts,
    training_rollouts,
)

Reason = Literal[
    "first", "flat groups", "drop", "plateau", "solved", "learning", "no budget", "fixed"
]
REASONS: tuple[Reason, ...] = (
    "first", "flat groups", "drop", "plateau", "solved", "learning", "no budget",
)  # fmt: skip
"""Why a fast phase runs, the first four, or does not, in the order in which they are looked at."""

MEMORY = 50
"""Cycles of RL steps that are looked back on; a checkpoint holds them, and must not grow."""

SIGNALS = ("reward", "flat", "drop", "rise")
"""What is looked at: the mean reward of the last cycle, its share of flat groups, how far it fell
from the best cycle, and how far it rose over some; both since the last fast phase, or within the
last :data:`MEMORY` cycles."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Thresholds. ``best`` is the highest score there is; ``drop`` and ``rise`` are in scores,
    ``flat`` is a share of groups; ``cycle`` counts RL steps, ``patience`` cycles."""

    best: float
    flat: float
    drop: float
    rise: float
    patience: int
    cycle: int

    @staticmethod
    def of(config: RunConfig) -> Rules:
        """The thresholds of a run file; scores lie in ``task.score_range``, 0 to 1 by default."""
        low, best = config.task.score_range or (0.0, 1.0)
        fast, span = config.fast, best - low
        return Rules(
            best=best,
            flat=fast.adaptive_flat,
            drop=fast.adaptive_drop * span,
            rise=fast.adaptive_rise * span,
            patience=fast.adaptive_patience,
            cycle=config.slow.steps_per_cycle,
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a fast phase runs, why, and the signals it was decided by (absent: not measured)."""

    evolve: bool
    reason: Reason
    signals: Mapping[str, float]

    def metrics(self) -> dict[str, float]:
        """Flat numbers; the reason is the one ``fast/because/…`` that is 1."""
        reasons = {f"fast/because/{_slug(r)}": float(r == self.reason) for r in REASONS}
        signals = {f"fast/signal/{name}": value for name, value in self.signals.items()}
        return {"fast/evolves": float(self.evolve), **signals, **reasons}


def _slug(reason: str) -> str:
    return reason.replace(" ", "_")


def reason_of(metrics: Mapping[str, float]) -> Reason | None:
    """The reason that :meth:`Decision.metrics` wrote down, if it did."""
    return next((r for r in REASONS if metrics.get(f"fast/because/{_slug(r)}")), None)


def pulse(groups: Sequence[RolloutGroup], fates: Sequence[Fate], best: float) -> Pulse:
    """What one RL step says: its mean reward, and the share of its groups that are flat below
    ``best``. Masked and unscored rollouts say nothing.

    Args:
        fates: what the bridge made of each group. Where predictors have scores of their own, it
            may train on a group whose program scores are equal.

    Raises:
        ConfigError: a score lies above ``best``, so that nobody can say what is solved.
    """
    scored = [[r.score for r in g.rollouts_G if r.score is not None] for g in groups]
    every = [score for scores in scored for score in scores]
    refuse_above(best, every)
    whole = [(s, fate) for s, fate in zip(scored, fates, strict=True) if len(s) > 1]
    flat = [s for s, fate in whole if fate == "flat" and max(s) < best - FLAT_SPREAD]
    return Pulse(fmean(every) if every else 0.0, len(flat) / len(whole) if whole else 0.0)


def decide(pulses: Sequence[Pulse], rules: Rules) -> Decision:
    """Whether it is time to evolve, by the RL steps since the last fast phase, oldest first.

    The smoothed reward is the mean of a cycle's steps; cycles are counted back from the newest.
    """
    whole = len(pulses) // rules.cycle
    cycles = [
        pulses[len(pulses) - k * rules.cycle : len(pulses) - (k - 1) * rules.cycle]
        for k in range(whole, 0, -1)
    ]
    if not cycles:  # the last fast phase has been no cycle ago
        return Decision(False, "learning", {})
    rewards = [fmean(p.reward for p in cycle) for cycle in cycles]
    now, flat = rewards[-1], fmean(p.flat for p in cycles[-1])
    fallen = max(rewards) - now
    signals = {"reward": now, "flat": flat, "drop": fallen}
    window = rewards[-rules.patience :]
    rise = None if len(window) < rules.patience else now - window[0]
    if rise is not None:
        signals["rise"] = rise
    if flat >= rules.flat:
        return Decision(True, "flat groups", signals)
    if fallen >= rules.drop:
        return Decision(True, "drop", signals)
    if rules.best - now <= rules.rise:  # no such rise is left
        return Decision(False, "solved", signals)
    if rise is not None and rise < rules.rise:
        return Decision(True, "plateau", signals)
    return Decision(False, "learning", signals)


class Schedule:
    """Which phases of the plan a run really has. ``pace`` is all that it remembers.

    Its books are in rollouts a phase *may* pay for, as the plan's are: fixed or adaptive, a run
    commits the same total, and what a fast phase leaves unused is used by neither.
    """

    def __init__(self, config: RunConfig, pace: Pace | None = None) -> None:
        self.adaptive = adapts(config)
        self.pace = Pace() if pace is None else pace
        self._config = config
        self._rules = Rules.of(config)

    def decide(self, step: int) -> Decision:
        """Whether a fast phase runs, behind ``step`` RL steps."""
        if not self.adaptive:
            return Decision(True, "fixed", {})
        if not self.pace.evolved:
            return Decision(True, "first", {})
        decision = decide(self.pace.pulses, self._rules)
        if decision.evolve and self._left(step) < cycle_rollouts(self._config):
            return Decision(False, "no budget", decision.signals)
        return decision

    def evolves(self) -> None:
        """A fast phase is about to run: what was seen under the Φ before it is forgotten."""
        self.pace = Pace(self.pace.evolved + 1)

    def learnt(self, groups: Sequence[RolloutGroup], fates: Sequence[Fate]) -> None:
        """An RL step has been taken; ``fates`` as :func:`pulse` takes them.

        Raises:
            ConfigError: see :func:`pulse`.
        """
        if self.adaptive:
            seen = pulse(groups, fates, self._rules.best)
            steps = max(MEMORY, self._rules.patience) * self._rules.cycle
            self.pace = Pace(self.pace.evolved, (*self.pace.pulses, seen)[-steps:])

    def spent_up(self, step: int) -> bool:
        """Whether an adaptive run cannot pay for an RL step more; a fixed plan ends by itself."""
        return self.adaptive and self._left(step) < slow_step_rollouts(self._config)

    def recent(self, step: int) -> range:
        """The RL steps of a cycle behind which no fast phase has scored Φ; none before they are
        whole, and none of a fixed schedule."""
        cycle = self._rules.cycle
        whole = self.adaptive and len(self.pace.pulses) >= cycle
        return range(step - cycle + 1, step + 1) if whole else range(0)

    def keep_time(self, stream: ProblemStream, step: int) -> None:
        """Tell the stream which batch a fixed schedule would stand at: where problems change on the
        way, they change after the same rollouts, whatever these were spent on."""
        if not self.adaptive:
            return
        batches = Fraction(self._config.slow.steps_per_cycle, cycle_rollouts(self._config))
        stream.keep_time(
            self._committed(step) * batches, slow_step_rollouts(self._config) * batches
        )

    def _committed(self, step: int) -> int:
        fast = self.pace.evolved * self._config.fast.rollouts
        return fast + step * slow_step_rollouts(self._config)

    def _left(self, step: int) -> int:
        return training_rollouts(self._config) - self._committed(step)
