"""What an arm does, as a list of phases: the same rollouts for every arm, spent in another order.

One cycle of fast-slow training (arXiv 2605.12484) costs the rollouts of its fast phase plus
T · batch · G of its slow phase. The other arms get that total: ``rl`` turns all of it into RL
steps, ``gepa`` all of it into fast phases, ``sequential`` does all fast phases first and all RL
steps after them, and ``distill`` is fst with a finishing stage (:mod:`optimizers.distill_stage`)
that is paid for first and is no phase of the plan. Under an adaptive schedule
(:mod:`optimizers.schedule`) the plan has every phase that there may be: fast phases are passed
over, and the run ends where its rollouts do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fst_agents.config import RunConfig
from fst_agents.errors import ConfigError


@dataclass(frozen=True, slots=True)
class FastPhase:
    """Evolve Φ on the next ``batches`` batches (the anchor set) for at most ``rollouts``.

    ``passes`` says that no RL steps follow on these batches, so the stream moves past them.
    """

    cycle: int
    batches: int
    rollouts: int
    passes: bool


@dataclass(frozen=True, slots=True)
class SlowPhase:
    """``steps`` RL steps under the current Φ."""

    cycle: int
    steps: int


Phase = FastPhase | SlowPhase


def slow_step_rollouts(config: RunConfig) -> int:
    """Rollouts of one RL step: batch · G."""
    return config.slow.batch_size * config.slow.group_size


def cycle_rollouts(config: RunConfig) -> int:
    """Rollouts of one cycle of the fst arm."""
    return config.fast.rollouts + config.slow.steps_per_cycle * slow_step_rollouts(config)


def total_rollouts(config: RunConfig) -> int:
    """What every arm may spend on training."""
    if config.budget.rollouts is not None:
        return config.budget.rollouts
    return config.budget.cycles * cycle_rollouts(config)


MOST_CYCLES = 100_000
"""More is a slip of the pen: the plan alone would take gigabytes."""

DISTILL_STEPS = 96
"""Steps of the finishing stage in the distill arm."""


def distill_steps(config: RunConfig) -> int:
    """Steps of the finishing stage, 0 where there is none."""
    asked = config.distill.steps
    return (DISTILL_STEPS if config.arm == "distill" else 0) if asked is None else asked


def distill_rollouts(config: RunConfig) -> int:
    """Rollouts of the finishing stage."""
    return distill_steps(config) * config.slow.batch_size * config.distill.samples


def training_rollouts(config: RunConfig) -> int:
    """What an arm may spend on the phases of its plan."""
    return total_rollouts(config) - distill_rollouts(config)


def trains(config: RunConfig) -> bool:
    """Whether weights move: all but prompts only, and that too if its instruction is folded in."""
    return config.arm != "gepa" or distill_steps(config) > 0


def shipped_cell(config: RunConfig) -> str:
    """The cell of the 2×2 that ships: the finishing stage leaves its instruction to the weights."""
    text = "seed" if config.arm == "rl" or distill_steps(config) else "evolved"
    return f"{'trained' if trains(config) else 'base'}_{text}"


def adapts(config: RunConfig) -> bool:
    """Whether fast phases may be passed over; the other arms have nothing to choose between."""
    return config.fast.schedule == "adaptive" and config.arm in ("fst", "distill")


def batches_of(config: RunConfig, cycles: int) -> int:
    """Batches that an arm takes from the stream while it spends the rollouts of some cycles."""
    if config.arm == "rl":  # one batch per RL step, and no rollouts for anything else
        return cycles * cycle_rollouts(config) // slow_step_rollouts(config)
    return cycles * config.slow.steps_per_cycle


def plan(config: RunConfig) -> list[Phase]:
    """The phases of a run, in order. With those of the finishing stage, their rollouts never exceed
    :func:`total_rollouts`; under an adaptive schedule, those of the phases that are run do not.

    Raises:
        ConfigError: the budget does not pay for one cycle, or for one RL step, or for more than
            :data:`MOST_CYCLES`.
    """
    total = training_rollouts(config)
    cycle, step = cycle_rollouts(config), slow_step_rollouts(config)
    steps_per_cycle = config.slow.steps_per_cycle
    least = step if config.arm == "rl" else cycle
    if total < least:
        finish = distill_rollouts(config)
        beside = f", of which [distill] takes {finish}" if finish else ""
        unit = "RL step" if config.arm == "rl" else "cycle"
        raise ConfigError(
            f"budget.rollouts: got {total_rollouts(config)}{beside}, but one {unit} of these "
            f"settings costs {least}; raise it, or lower fast.rollouts, slow.steps_per_cycle, "
            "slow.batch_size or slow.group_size"
        )
    only_steps = config.arm == "rl" or adapts(config)
    cycles = total // (step * steps_per_cycle if only_steps else cycle)
    if cycles > MOST_CYCLES:
        raise ConfigError(
            f"budget: its {total} rollouts make {cycles:,} cycles, but a run has {MOST_CYCLES:,} "
            "at most; lower it, or raise what one cycle takes"
        )
    if config.arm == "rl":
        return _slow_phases(total // step, steps_per_cycle)
    if config.arm == "gepa":
        return [FastPhase(c, steps_per_cycle, cycle, passes=True) for c in range(cycles)]
    if adapts(config):  # at most: one fast phase, and all the rest in RL steps
        cycles = -(-(total - config.fast.rollouts) // (steps_per_cycle * step))
    apart = config.arm == "sequential"
    fast = [FastPhase(c, steps_per_cycle, config.fast.rollouts, apart) for c in range(cycles)]
    slow = [SlowPhase(c, steps_per_cycle) for c in range(cycles)]
    if apart:
        return [*fast, *slow]
    return [phase for pair in zip(fast, slow, strict=True) for phase in pair]


def phase_rollouts(phase: Phase, config: RunConfig) -> int:
    """The most rollouts a phase may pay for."""
    if isinstance(phase, FastPhase):
        return phase.rollouts
    return phase.steps * slow_step_rollouts(config)


def most_rollouts(phases: Sequence[Phase], config: RunConfig) -> int:
    """The most rollouts that some phases of a plan pay for together."""
    return min(sum(phase_rollouts(p, config) for p in phases), training_rollouts(config))


def _slow_phases(steps: int, per_cycle: int) -> list[Phase]:
    full, rest = divmod(steps, per_cycle)
    sizes = [per_cycle] * full + ([rest] if rest else [])
    return [SlowPhase(c, size) for c, size in enumerate(sizes)]
