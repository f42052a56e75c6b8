"""The arms as DSPy optimizers: change one word to compare them.

``FastSlow`` evolves instructions and trains weights, ``Grpo`` only trains, ``Gepa`` only evolves,
``Sequential`` evolves first and trains after, ``Distill`` is ``FastSlow`` with a last stage that
folds the instruction into the weights. All spend the same rollouts
(:mod:`optimizers.plan`), learn on the same metric and leave the same run directory.
"""

from __future__ import annotations

from fst_agents.config import Arm
from optimizers.arm_base import ArmBase


class FastSlow(ArmBase):
    """Fast-slow training (arXiv 2605.12484): instructions evolve, weights follow, in cycles."""

    arm = "fst"


class Grpo(ArmBase):
    """RL only: the student's own instructions, all rollouts spent on weights."""

    arm = "rl"


class Gepa(ArmBase):
    """Prompts only: the base weights, all rollouts spent on instructions."""

    arm = "gepa"


class Distill(ArmBase):
    """Fast-slow training, then the champion's instruction folded into the weights."""

    arm = "distill"


class Sequential(ArmBase):
    """Prompts first, then weights under the population that was found."""

    arm = "sequential"


ARM_CLASSES: dict[Arm, type[ArmBase]] = {
    c.arm: c for c in (FastSlow, Grpo, Gepa, Sequential, Distill)
}
