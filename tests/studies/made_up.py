"""Cells that are made up instead of run: every arm learns as fast, and as far, as it is told."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.studies.cells import FINAL, Cell, Record
from experiments.studies.curves import Point
from experiments.studies.scope import Changes, Scope, make_scope
from fst_agents.config import FastConfig, SlowConfig
from fst_agents.errors import ServingError
from optimizers.plan import batches_of

QUICK = ("track.enabled=false",)

TINY: Changes = {
    "task": {"train_size": 16, "val_size": 4},
    "fast": {"population": 1, "rollouts": 12, "minibatch": 2},
    "slow": {"steps_per_cycle": 1, "batch_size": 4, "group_size": 4, "learning_rate": 1e-3},
    "budget": {"cycles": 2, "enough": 2.0},
    "eval": {"samples": 2},
}
"""Settings of a real cell that takes seconds."""

_SLOW = SlowConfig()
STEP = FastConfig().rollouts + _SLOW.steps_per_cycle * _SLOW.batch_size * _SLOW.group_size
"""Rollouts from one point of a made-up curve to the next: one cycle of default settings."""


@dataclass(frozen=True)
class Arm:
    """How a made-up arm learns: linearly to ``top`` in ``cycles`` cycles, then no further."""

    top: float
    cycles: int
    kl: float = 0.1
    lost: float = 0.0


ARMS: Mapping[str, Arm] = {
    "fst": Arm(top=0.9, cycles=2, kl=0.1),
    "rl": Arm(top=0.6, cycles=8, kl=2.0, lost=0.2),
    "gepa": Arm(top=0.4, cycles=2, kl=0.0),
    "sequential": Arm(top=0.8, cycles=4),
    "distill": Arm(top=0.5, cycles=3, kl=1.0, lost=0.5),
}


@dataclass
class MadeUp:
    """Stands for the processes that run cells. ``broken`` labels fail; ``ran`` counts calls."""

    arms: Mapping[str, Arm] = field(default_factory=lambda: dict(ARMS))
    broken: tuple[str, ...] = ()
    ran: list[str] = field(default_factory=list[str])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, cell: Cell, folder: Path) -> Record:
        with self.lock:
            self.ran.append(cell.key)
        if any(text in cell.label for text in self.broken):
            raise ServingError("the server\ndied")
        return record(cell, self.arms[cell.config.arm])


def record(cell: Cell, arm: Arm) -> Record:
    """What an arm like this would have left behind."""
    config = cell.config
    cycles = config.budget.cycles
    shares = [min(1.0, (k + 1) / arm.cycles) * arm.top for k in range(cycles)]
    steps = batches_of(config, cycles)
    at = (shares[step * cycles // steps] for step in range(steps))
    curve = [
        Point(STEP * cycles * step // steps, share, share, arm.kl * share, step)
        for step, share in enumerate(at, start=1)
    ]
    validation = [
        Point(STEP * (k + 1), share, share, None, steps * (k + 1) // cycles)
        for k, share in enumerate(shares)
    ]
    others: dict[str, dict[str, float]] = {
        "rl": {},
        "gepa": {},
        "distill": {"base_evolved": 0.4, "trained_evolved": 0.5},
        "fst": {"base_evolved": 0.4, "trained_seed": 0.1},
        "sequential": {"base_evolved": 0.4, "trained_seed": 0.1},
    }
    cells = ("base_seed", "base_evolved", "trained_seed", "trained_evolved")
    scores = dict.fromkeys(cells) | {"base_seed": 0.0} | others[config.arm]
    scores[FINAL[config.arm]] = shares[-1]
    result: dict[str, Any] = {
        "arm": config.arm,
        "target": list(config.task.options["target"]),
        "scores": scores,
        "kl": arm.kl,
        "retention": {"base": 0.98, "final": 0.98 - arm.lost},
        "rollouts": {"fast": 100, "slow": STEP * cycles - 100, "eval": 10},
        "steps": steps,
        "seconds": 60.0,
        "seconds_total": 70.0,
        "stopped": "done",
    }
    last = shares[-1]
    return Record(
        key=cell.key,
        label=cell.label,
        arm=config.arm,
        seed=config.seed,
        result=result,
        curve=tuple(curve),
        validation=tuple(validation) if config.eval.every else (),
        problems={"val-1": last, "val-2": last, "val-3": min(1.0, last + 0.01 * config.seed)},
    )


def quick_scope(seeds: int = 1) -> Scope:
    """Of eight cycles, which made-up arms are made for."""
    return make_scope([*QUICK, "budget.cycles=8"], quick=True, seeds=seeds)
