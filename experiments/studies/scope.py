"""What the studies run on: the fixed targets, the seeds, and the settings that all cells share."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

from experiments.check import check
from experiments.studies.cells import Cell, Stages, claimed, kept_by_the_grid
from fst_agents.config import Arm, RunConfig, TrackConfig
from fst_agents.errors import ConfigError
from fst_agents.run_file import overridden
from programs.micro.phrasebook import equivalent

Target = tuple[str, ...]

Changes = Mapping[str, Mapping[str, Any]]
"""Keys of sections that a cell has of its own, by section."""

TARGETS = Path(__file__).parents[1] / "targets.toml"

SEEDS, QUICK_SEEDS = 5, 1
QUICK_CYCLES = 6
"""A quick study's budget in cycles of fst: enough for RL to leave zero, too little to finish."""
STAGE_CYCLES = 6
"""Cycles on each rule of a run whose task changes."""
SETTLED = {
    "arm": "a study runs the arms that it needs",
    "run_dir": "every run has a folder of its own in --out",
    "eval.every": "the learning curve has a point at the end of every phase",
    "task.target": "the rules are those of experiments/targets.toml; --targets takes fewer",
}
"""Keys that no study leaves to its caller, and why."""
UNREACHABLE = 2.0
"""``budget.enough`` of a run that must not end before its budget does."""


@dataclass(frozen=True)
class Fixed:
    """The content of targets.toml."""

    reported: tuple[Target, ...]
    quick: tuple[Target, ...]
    development: tuple[Target, ...]
    rl_learning_rate: float
    rl_instruction: str


def read_targets(file: Path = TARGETS) -> Fixed:
    """The targets that were fixed before any study was run."""
    data = tomllib.loads(file.read_text(encoding="utf-8"))

    def rules(name: str) -> tuple[Target, ...]:
        return tuple(tuple(target) for target in data[name])

    return Fixed(
        rules("reported"),
        rules("quick"),
        rules("development"),
        float(data["rl_learning_rate"]),
        data["rl_instruction"],
    )


def take_targets(
    accuracy: Mapping[str, float], development: Sequence[Target], count: int
) -> list[Target]:
    """The middles of ``count`` equal parts of the held-out rules in order of their accuracy.

    A rule is a function of the digits. Of the pairs of operations that are the same function, the
    one whose instruction the policy follows best stands for it: an optimizer may find any.

    Args:
        accuracy: under the right instruction, by pair (``"reverse > double"``).
        development: pairs to leave out, in whichever order.
    """
    rules: list[Target] = []
    for name in sorted(accuracy, key=lambda name: (-accuracy[name], name)):
        pair = tuple(name.split(" > "))
        if not any(equivalent(pair, known) for known in (*development, *rules)):
            rules.append(pair)
    rules.reverse()
    return [rules[(2 * part + 1) * len(rules) // (2 * count)] for part in range(count)]


@dataclass(frozen=True)
class Scope:
    """What a study is run on. ``base`` is a checked configuration; cells differ from it only in
    what a study changes, and the ``rl`` arm by a learning rate and a seed instruction of its
    own."""

    base: RunConfig
    targets: tuple[Target, ...]
    seeds: tuple[int, ...]
    rl_learning_rate: float | None = None
    rl_instruction: str | None = None
    track: TrackConfig = field(default_factory=TrackConfig)

    def cell(
        self,
        arm: Arm,
        target: Target,
        seed: int,
        *,
        start: Cell | None = None,
        stages: Stages | None = None,
        changes: Changes | None = None,
    ) -> Cell:
        """A cell of this scope."""
        keys: dict[str, dict[str, Any]] = {"task": {"target": target}}
        if arm == "rl" and self.rl_learning_rate is not None:
            keys["slow"] = {"learning_rate": self.rl_learning_rate}
        if arm == "rl" and self.rl_instruction is not None:
            keys["task"]["instruction"] = self.rl_instruction
        if arm != "distill":  # [distill] is for the arm of that name, as in fst compare
            keys["distill"] = {"steps": None}
        for name, more in (changes or {}).items():
            keys[name] = {**keys.get(name, {}), **more}
        sections = {
            name: getattr(self.base, name).model_copy(update=own) for name, own in keys.items()
        }
        config = self.base.model_copy(update={"arm": arm, "seed": seed, **sections})
        return Cell(config, start, stages)

    def each(self, value: Callable[[Target, int], float | None]) -> list[list[float]]:
        """A value of every target and seed, grouped by target; ``None`` is left out."""
        return [
            [v for seed in self.seeds if (v := value(target, seed)) is not None]
            for target in self.targets
        ]

    @property
    def claim(self) -> dict[str, Any]:
        """What a results folder of this scope is for; more targets or seeds go into the same."""
        return {"study": True, **claimed(self.base)}

    @property
    def units(self) -> list[tuple[Target, int]]:
        """Every target with every seed."""
        return [(target, seed) for target in self.targets for seed in self.seeds]

    def second(self, target: Target) -> Target:
        """The target that is learnt after this one, where two are."""
        return self.targets[_seconds(self.targets)[self.targets.index(target)]]


@cache
def _seconds(targets: tuple[Target, ...]) -> tuple[int, ...]:
    """Whom each target is followed by: every one follows one other, and where that can be had none
    shares an operation with the one before. The first such order; else the list as a ring."""

    def strange(one: Target, other: Target) -> bool:
        return not set(one) & set(other)

    places = range(len(targets))
    for order in permutations(places):
        if all(strange(targets[at], targets[to]) for at, to in zip(places, order, strict=True)):
            return order
    return tuple((at + 1) % len(targets) for at in places)


def name_of(target: Target) -> str:
    """``reverse → decrement``."""
    return " → ".join(target)


def make_scope(
    overrides: Sequence[str] = (),
    *,
    quick: bool = False,
    targets: int | None = None,
    seeds: int | None = None,
    development: bool = False,
    varied: Collection[str] = (),
) -> Scope:
    """The reported targets, or the first ``targets`` of them, under checked settings.

    Args:
        development: take the rules that are never reported instead.
        varied: keys that the study sets itself, so that nobody else may.

    Raises:
        ConfigError: everything wrong with the counts and the overrides.
    """
    fixed = read_targets()
    offered = fixed.quick if quick else fixed.reported
    if development:
        offered = fixed.development
    wanted = len(offered) if targets is None else targets
    problems: list[str] = []
    if not 1 <= wanted <= len(offered):
        problems.append(f"--targets: got {targets}, expected 1 to {len(offered)}")
    if seeds is not None and seeds < 1:
        problems.append(f"--seeds: got {seeds}, expected at least 1")
    given = overridden(overrides)
    why = {**SETTLED, **dict.fromkeys(varied, "it is what the study varies")}
    problems += [f"--set {key}: {why[key]}; leave it out" for key in why if key in given]
    # An arm that stops when its task is solved would drift less for having stopped, and could not
    # reach the highest point of another's noise: in a study every arm spends its whole budget.
    budget = {"enough": UNREACHABLE, **({"cycles": QUICK_CYCLES} if quick else {})}
    data: dict[str, Any] = {
        "task": {"name": "digits"},
        "serve": {"host": "local"},
        "budget": budget,
        "eval": {"every": 1},
    }
    config: RunConfig | None = None
    try:
        config = check(data, overrides)
    except ConfigError as error:
        problems += error.problems
    if config is not None and config.task.name != "digits":
        problems.append(f"task.name: the targets are rules of 'digits'; got {config.task.name!r}")
    if problems or config is None:
        raise ConfigError(problems)
    default = QUICK_SEEDS if quick else SEEDS
    count = default if seeds is None else seeds
    return Scope(
        base=kept_by_the_grid(config),
        targets=offered[:wanted],
        seeds=tuple(range(config.seed, config.seed + count)),
        rl_learning_rate=None if "slow.learning_rate" in given else fixed.rl_learning_rate,
        rl_instruction=None if "task.instruction" in given else fixed.rl_instruction,
        track=config.track,
    )
