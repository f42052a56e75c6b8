"""What is varied to choose a default: the settings side by side, and the runs that they need.

Only on the development rules, never on those that are reported: whoever chooses by a rule has
learnt something about it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, get_args

from experiments.studies.cells import Cell
from experiments.studies.scope import Changes, Scope, read_targets
from fst_agents.config import Acceptance, Arm, FastConfig, SlowConfig
from fst_agents.errors import ConfigError
from fst_agents.run_file import conflicts, least_fast_rollouts
from optimizers.plan import plan, total_rollouts
from programs.micro.phrasebook import VAGUE

RATES = (1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3)
"""Of the weights: what rl is swept over, and fst over those in the middle."""

POPULATIONS = (1, 2, 4, 8)

SPLITS = (480, 576, 864)
"""Rollouts of a fast phase: 5, 6 and 9 passes over its anchor set; K = 4 score the members."""

PENALTIES = (0.001, 0.02, 0.1)
"""Of the KL to the base model, the paper's first."""


@dataclass(frozen=True)
class Ablation:
    """Settings of one kind.

    Attributes:
        varied: what they are settings of.
        question: what is asked, in one sentence.
        variants: what each is called → what a cell of it has of its own.
        default: the one that the others are compared with: what a run has unless told otherwise.
        arm: whose runs they are.
    """

    name: str
    varied: str
    question: str
    variants: Mapping[str, Changes]
    default: str
    arm: Arm = "fst"

    def cells(self, scope: Scope) -> dict[str, list[Cell]]:
        """The runs of every variant: each rule and seed of the scope, in the same order.

        Raises:
            ConfigError: a variant cannot be run under these settings; a line for each reason.
        """
        table = {
            label: [scope.cell(self.arm, *unit, changes=own) for unit in scope.units]
            for label, changes in self.variants.items()
            for own in [_paid_alike(scope, _payable(scope, changes))]
        }
        lines = [
            f"{line} (study {self.name}, {label})"
            for label, own in table.items()
            for line in _faults(own[0])
        ]
        if lines:
            raise ConfigError(lines)
        return table


def _payable(scope: Scope, changes: Changes) -> Changes:
    """With a fast phase that pays for one proposal, where K makes that dearer than the scope's."""
    config = scope.cell("fst", *scope.units[0], changes=changes).config
    if "population" not in changes.get("fast", {}):
        return changes
    rollouts = max(config.fast.rollouts, least_fast_rollouts(config))
    return {**changes, "fast": {**changes["fast"], "rollouts": rollouts}}


def _paid_alike(scope: Scope, changes: Changes) -> Changes:
    """With the rollouts of the scope, where a setting makes its cycles dearer or cheaper."""
    total = total_rollouts(scope.base)
    if total_rollouts(scope.cell("fst", *scope.units[0], changes=changes).config) == total:
        return changes
    return {**changes, "budget": {**changes.get("budget", {}), "rollouts": total}}


def _faults(cell: Cell) -> list[str]:
    found = conflicts(cell.config)
    try:
        plan(cell.config)
    except ConfigError as error:
        found += error.problems
    return found


def _of(
    section: str, key: str, values: Sequence[object], name: Callable[[object], str]
) -> dict[str, Changes]:
    return {name(value): {section: {key: value}} for value in values}


def _words(value: object) -> str:
    return str(value).replace("_", " ")


def _k(value: object) -> str:
    return f"K = {value}"


def _rate(value: object) -> str:
    return f"{value:g}"


def _penalty(value: object) -> str:
    return f"β = {value:g}"


RATE: Final = Ablation(
    "rate",
    "the learning rate of the weights",
    "How fast should weights learn beside instructions?",
    _of("slow", "learning_rate", RATES[1:-1], _rate),
    _rate(SlowConfig().learning_rate),
)
SCHEDULE: Final = Ablation(
    "schedule",
    "the schedule of fast phases",
    "Is a fast phase in every cycle worth more than one where it pays?",
    _of("fast", "schedule", ("fixed", "adaptive"), _words),
    _words(FastConfig().schedule),
)
POPULATION: Final = Ablation(
    "population",
    "K, the members of Φ",
    "How many instructions should live side by side?",
    _of("fast", "population", POPULATIONS, _k),
    _k(FastConfig().population),
)
ACCEPTANCE: Final = Ablation(
    "acceptance",
    "when a proposal is scored on the anchor set",
    "How much better than its parent must a proposal be on its minibatch?",
    _of("fast", "acceptance", get_args(Acceptance), _words),
    _words(FastConfig().acceptance),
)
SPLIT: Final = Ablation(
    "split",
    "what a fast phase may spend",
    "How much of a cycle should evolve instructions, how much train weights?",
    _of("fast", "rollouts", SPLITS, str),
    str(FastConfig().rollouts),
)
PENALTY: Final = Ablation(
    "penalty",
    "β, the weight of the KL to the base",
    "Does a dearer drift keep other skills?",
    _of("slow", "kl_coefficient", PENALTIES, _penalty),
    _penalty(SlowConfig().kl_coefficient),
)
BASELINE: Final = Ablation(
    "baseline",
    "the seed instruction of the rl arm",
    "Under which instruction that gives nothing away does RL alone learn best?",
    {text: {"task": {"instruction": text}} for text in VAGUE},
    read_targets().rl_instruction,
    "rl",
)

ABLATIONS: Final[Mapping[str, Ablation]] = MappingProxyType(
    {one.name: one for one in (RATE, SCHEDULE, POPULATION, ACCEPTANCE, SPLIT, PENALTY, BASELINE)}
)
"""Name → ablation."""

TOGETHER = "ablations"
"""What asks for those that decide defaults of a run."""


def varied_keys(ablations: Sequence[Ablation]) -> set[str]:
    """The keys that ablations set themselves, ``section.key``."""
    return {
        f"{section}.{key}"
        for one in ablations
        for own in one.variants.values()
        for section, keys in own.items()
        for key in keys
    }


def asked_for(name: str) -> list[Ablation]:
    """The ablations of that name, none where it is something else's."""
    if name == TOGETHER:
        return [RATE, SCHEDULE, POPULATION, ACCEPTANCE, SPLIT, PENALTY]
    return [ABLATIONS[name]] if name in ABLATIONS else []
