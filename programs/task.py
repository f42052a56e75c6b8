"""What a task is: a DSPy program, its data, and a metric with feedback.

A task package has one module-level :class:`Entry`; :mod:`programs.catalog` lists them. Options are
a strict pydantic model: its fields are keys of ``[task]`` in a run file, with their descriptions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy
from pydantic import BaseModel, ConfigDict, Field

from fst_agents.scoring import Metric
from fst_agents.types import Skill


class Options(BaseModel):
    """Keys of ``[task]`` that every task has; a task adds its own by inheriting."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    train_size: int = Field(default=512, ge=2, description="Training problems.")
    val_size: int = Field(default=128, ge=1, description="Validation problems of the 2×2.")
    test_size: int = Field(
        default=128, ge=0, description="Problems of the test split, for what is reported."
    )


@dataclass(frozen=True)
class Task:
    """Everything an arm needs to learn a task.

    Attributes:
        program: the program with its seed instructions.
        trainset, valset, testset: examples with declared inputs and ids that are unique over all
            three; no example of one split occurs in another.
        metric: GEPA's five arguments, answering ``dspy.Prediction(score=…, feedback=…)``; what
            both phases learn on.
        eval_metric: what the 2×2 is scored with, ``metric`` if absent (exact beside partial).
        score_range: the least and the most a metric may return; outside is an error of the metric.
        enough: mean training reward at which the task counts as solved, if there is one.
        skills: what should not be forgotten while learning.
        reflect: an offline reflection model that knows this task, if there is one.
    """

    program: dspy.Module
    trainset: Sequence[dspy.Example]
    valset: Sequence[dspy.Example]
    testset: Sequence[dspy.Example]
    metric: Metric
    eval_metric: Metric | None = None
    score_range: tuple[float, float] | None = (0.0, 1.0)
    enough: float | None = None
    skills: Sequence[Skill] = ()
    reflect: Callable[[str], str] | None = None


@dataclass(frozen=True)
class Entry:
    """A task as the catalogue lists it.

    Attributes:
        name: how a run file and the command line call it.
        summary: one line, lower case, no full stop.
        options: the keys it takes in ``[task]``.
        build: options and a seed → the task. Raises ``ValueError`` (message: what, got, expected,
            how to mend) or :class:`~fst_agents.errors.ConfigError` for options that do not fit.
        facts: more about the task for ``fst tasks NAME``, JSON types only.
    """

    name: str
    summary: str
    options: type[Options]
    build: Callable[[Any, int], Task]
    facts: Callable[[], Mapping[str, Any]] = dict
