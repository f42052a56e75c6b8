"""The shipped tasks, each as everything an arm needs. The composition root: plain Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dspy

from fst_agents.config import RunConfig, TaskConfig
from fst_agents.dspy_bridge import problems
from fst_agents.errors import ConfigError
from fst_agents.scoring import Metric
from fst_agents.types import Candidate
from optimizers.evaluation import Skill
from programs import micro
from programs.digits import Digits, other_skills
from programs.micro import phrasebook
from programs.micro.adapter import CompactAdapter
from programs.micro.reflector import OfflineReflector

MICRO = "micro"


@dataclass(frozen=True)
class Task:
    """A program, its data and its metrics.

    ``offline`` is the reflector that knows the task, ``adapter`` the one that the policy was
    trained to answer (``None``: DSPy's own).
    """

    program: dspy.Module
    trainset: Sequence[dspy.Example]
    valset: Sequence[dspy.Example]
    metric: Metric
    eval_metric: Metric
    skills: Sequence[Skill] = ()
    offline: Callable[[str], str] | None = None
    adapter: dspy.Adapter | None = None
    facts: dict[str, Any] = field(default_factory=dict[str, Any])


def build_task(config: RunConfig) -> Task:
    """The task that a run file names.

    Raises:
        ConfigError: an unknown task, or a rule it does not have.
    """
    builder = BUILDERS.get(config.task.name)
    if builder is None:
        raise ConfigError(
            f"task.name: no task {config.task.name!r}; there are {', '.join(sorted(BUILDERS))}"
        )
    return builder(config)


def _digits(config: RunConfig) -> Task:
    asked = config.task
    try:
        task = Digits(
            asked.target,
            reward=asked.reward,
            train_size=asked.train_size,
            val_size=0,
            test_size=asked.val_size,
            seed=config.seed,
        )
    except ValueError as error:
        raise ConfigError(f"task.target: {error}") from error
    return Task(
        program=task.program,
        trainset=task.trainset,
        valset=task.testset,
        metric=task.metric,
        eval_metric=task.exact_metric,
        skills=digits_skills(asked),
        offline=OfflineReflector(seed=config.seed),
        adapter=CompactAdapter() if config.policy.model == MICRO else None,
    )


def digits_skills(task: TaskConfig) -> list[Skill]:
    """The ten single operations, each under its own instruction."""
    return [
        Skill(instruction, Candidate({"solve": instruction}), problems(examples))
        for instruction, examples in other_skills(task.target)
    ]


def digits_facts() -> dict[str, Any]:
    """What ``fst tasks digits --json`` prints."""
    return {
        "operations": list(phrasebook.OPERATIONS),
        "trained": [list(pair) for pair in phrasebook.trained_pairs()],
        "held_out": [list(pair) for pair in phrasebook.held_out_pairs()],
    }


BUILDERS: dict[str, Callable[[RunConfig], Task]] = {"digits": _digits}
FACTS: dict[str, Callable[[], dict[str, Any]]] = {"digits": digits_facts}
SUMMARIES = {"digits": "a hidden rule of one or two operations on 4–6 digits (embedded policy)"}


def model_path(model: str) -> str:
    """A folder or Hugging Face name; ``micro`` is the embedded policy's folder.

    Raises:
        ConfigError: something that looks like a path and is not there.
    """
    if model == MICRO:
        return str(micro.path())
    path = Path(model).expanduser()
    looks_like_path = model.startswith((".", "/", "~")) or model.count("/") > 1
    if looks_like_path and not (path / "config.json").is_file():
        raise ConfigError(
            f"policy.model: {model!r} is no model folder (no config.json there); give 'micro', "
            "a folder saved by transformers, or a Hugging Face name such as 'Qwen/Qwen3-8B'"
        )
    return str(path) if path.is_dir() else model
