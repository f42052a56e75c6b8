"""A cell of a grid: one run, known by what it is asked to do, and what is kept of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from experiments.studies.curves import Point
from experiments.tasks import model_path
from fst_agents.config import RunConfig
from fst_agents.redaction import public_config

MACHINE = ("run_dir", "track", "checkpoint")
"""Sections that say where and how a run is kept, not what it is."""


@dataclass(frozen=True)
class Stages:
    """A run whose task changes: ``cycles`` cycles on each rule, the first one the config's own.

    The optimizers are told nothing: only the problems change.
    """

    targets: tuple[tuple[str, ...], ...]
    cycles: int


@dataclass(frozen=True)
class Cell:
    """One run. Two cells with equal keys are the same run, whichever study asks for it.

    ``start`` is a cell whose trained weights this one starts from, under a new optimizer.
    """

    config: RunConfig
    start: Cell | None = None
    stages: Stages | None = None

    @cached_property
    def key(self) -> str:
        """Twelve hex digits of everything that the result depends on but the code."""
        return digest(
            {
                "config": settings(self.config),
                "start": None if self.start is None else self.start.key,
                "stages": None
                if self.stages is None
                else [self.stages.targets, self.stages.cycles],
            }
        )

    @property
    def label(self) -> str:
        """What a person calls it."""
        target = self.config.task.options.get("target")
        task = self.config.task.name if target is None else " → ".join(target)
        more = "" if self.start is None else f" from {self.start.config.arm}"
        more += "" if self.stages is None else f" and {len(self.stages.targets) - 1} more rules"
        return f"{self.config.arm}{more}, {task}, seed {self.config.seed}"


def kept_by_the_grid(config: RunConfig) -> RunConfig:
    """A cell's configuration: the grid tracks it (:mod:`experiments.studies.track`), and a cell
    that is stopped need not lose less than a cycle."""
    track = config.track.model_copy(update={"enabled": False})
    every = max(config.checkpoint.every, config.slow.steps_per_cycle)
    checkpoint = config.checkpoint.model_copy(update={"every": every})
    return config.model_copy(update={"track": track, "checkpoint": checkpoint, "run_dir": None})


def settings(config: RunConfig) -> dict[str, Any]:
    """What of a configuration decides a result; secrets do not, and nobody should read them."""
    kept = {name: value for name, value in public_config(config).items() if name not in MACHINE}
    return {**kept, "serve": {"host": config.serve.host}}


def claimed(config: RunConfig) -> dict[str, Any]:
    """What a results folder is for: the settings, and what is in the files that they name.

    A changed file makes it another folder's, or scores of the old content would pass for new ones.
    """
    task = config.task
    files = {"model": Path(model_path(config.policy.model)), "data": task.data}
    found = {**files, "eval_data": task.eval_data}
    contents = {n: _content(p) for n, p in found.items() if p is not None and p.exists()}
    return {**settings(config), "contents": contents}


WHOLE = 100_000_000
"""Bytes up to which a file's content is looked at; of a larger one its size must do."""


def _content(path: Path) -> str:
    """Twelve hex digits of a file, or of the names and contents of those in a folder."""
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    found = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        found.update(f"{file.name} {size}\n".encode())
        if size <= WHOLE:
            found.update(file.read_bytes())
    return found.hexdigest()[:12]


def digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Record(BaseModel):
    """What is kept of a cell. A failed one has ``error`` and no ``result``.

    ``result`` is the run's JSON object, ``curve`` its RL steps, ``validation`` what would have
    shipped on the way on held-out problems, and ``problems`` the mean score of every held-out
    problem in the arm's last cell of the 2×2; ``commit`` is the checkout's that ran it.
    """

    model_config = ConfigDict(frozen=True)

    key: str
    label: str
    arm: str
    seed: int
    error: str | None = None
    result: dict[str, Any] = {}
    curve: tuple[Point, ...] = ()
    validation: tuple[Point, ...] = ()
    problems: dict[str, float] = {}
    commit: str | None = None

    @property
    def ok(self) -> bool:
        return self.error is None

    @property
    def final(self) -> float:
        """The score that the arm ends with: of what it has trained and evolved, all together."""
        return final_score(self.result)

    @property
    def retention_change(self) -> float | None:
        """How much better, or worse, other skills are after the run than before."""
        kept = self.result.get("retention", {})
        if kept.get("base") is None or kept.get("final") is None:
            return None
        return float(kept["final"]) - float(kept["base"])

    @property
    def summary(self) -> dict[str, Any]:
        """What ``--json`` says of a cell."""
        facts = {"key": self.key, "label": self.label, "arm": self.arm, "seed": self.seed}
        if not self.ok:
            return {**facts, "error": self.error}
        kept = ("target", "scores", "kl", "retention", "rollouts", "steps", "stopped", "seconds")
        return {**facts, **{name: self.result[name] for name in kept if name in self.result}}


FINAL: Mapping[str, str] = {
    "fst": "trained_evolved",
    "sequential": "trained_evolved",
    "rl": "trained_seed",
    "gepa": "base_evolved",
    "distill": "trained_seed",
}
"""The cell of the 2×2 that an arm is judged by: what it would ship."""


def final_score(result: Mapping[str, Any]) -> float:
    return float(result["scores"][FINAL[result["arm"]]])
