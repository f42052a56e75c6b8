"""What a fault is, and what none of them may ever do: train on a rollout that does not count."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from fst_agents.run_dir import RunDir
from fst_agents.types import Call, Rollout, TrainingSample

FAULT = "fault"
"""Under which name a test hands the line of the table on: number, name, where, what was seen."""

Tokens = tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]]
"""Prompt ids, completion ids and log-probabilities of one call."""


@dataclass(frozen=True)
class Seen:
    """What a fault led to: a line of the table."""

    happened: str
    lost: str = "nothing"


@dataclass
class Shared:
    """What faults of one session share: a folder, and things that are made once (``once``)."""

    folder: Path
    stack: ExitStack = field(default_factory=ExitStack)
    _made: dict[str, Any] = field(default_factory=dict[str, Any])

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]


@dataclass(frozen=True)
class Workshop:
    """Where a fault is driven: an empty folder of its own, and what all share."""

    folder: Path
    shared: Shared


Drive = Callable[[Workshop], Seen]


@dataclass(frozen=True)
class Fault:
    """One thing that can go wrong. ``drive`` injects it, asserts what is promised, and tells."""

    name: str
    where: str
    drive: Drive
    marks: Sequence[pytest.MarkDecorator] = ()


# -- no wrong gradient ----------------------------------------------------------------------------

EPSILON = 1e-4
"""``slow.advantage_epsilon`` by default."""


def tokens(thing: Call | TrainingSample) -> Tokens:
    """What identifies a call; completions of these tests are all different."""
    if isinstance(thing, Call):
        return thing.prompt_ids, thing.completion_ids, thing.logprobs
    return thing.prompt_ids, thing.completion_ids_T, thing.logprobs_T


def refuse_wrong_gradient(
    run_dir: RunDir, batches: Iterable[Sequence[TrainingSample]], honest: set[Tokens] | None = None
) -> None:
    """Every sample of the trainer is, token for token, a call of a rollout that counts, with the
    advantage among those that count: computed here once more, from the scores as written.

    ``honest``: what was really sampled.
    """
    for number, samples in enumerate(batches, start=1):
        wanted = _advantages(run_dir.rollouts(run_dir.rollout_file(number)))
        got = {tokens(sample): sample.advantage for sample in samples}
        assert len(got) == len(samples)
        assert got.keys() == wanted.keys(), f"step {number}"
        assert got == pytest.approx(wanted), f"step {number}"
        assert honest is None or got.keys() <= honest


def _advantages(rollouts: Iterable[Rollout]) -> dict[Tokens, float]:
    """Call → advantage, over the groups that are not flat; single-predictor programs only."""
    groups = defaultdict[str, list[Rollout]](list)
    for rollout in rollouts:
        if rollout.score is not None and not rollout.outcome.masked:
            groups[rollout.problem_id].append(rollout)
    found: dict[Tokens, float] = {}
    for group in groups.values():
        scores = [float(r.score or 0.0) for r in group]
        if len(set(scores)) < 2:
            continue
        for rollout, score in zip(group, scores, strict=True):
            advantage = (score - mean(scores)) / (stdev(scores) + EPSILON)
            found |= {tokens(call): advantage for call in rollout.calls}
    return found


def outcomes(run_dir: RunDir) -> Mapping[str, int]:
    """How many rollouts of a run came to which outcome, and ``"all"``."""
    counts = defaultdict[str, int](int)
    for file in run_dir.rollout_files():
        for rollout in run_dir.rollouts(file):
            counts[rollout.outcome.value] += 1
            counts["all"] += 1
    return counts
