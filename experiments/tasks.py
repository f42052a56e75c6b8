"""From a run file to a task: a shipped one by its name, or a program of one's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
from huggingface_hub.utils import validate_repo_id

from experiments.own_task import own_task
from fst_agents.config import RunConfig, TaskConfig
from fst_agents.errors import ConfigError
from fst_agents.run_file import read_options
from programs import micro
from programs.catalog import TASKS
from programs.micro.adapter import CompactAdapter
from programs.task import Entry, Options, Task

MICRO = "micro"

OWN_KEYS = ("program", "metric", "eval_metric", "data", "eval_data", "inputs")
"""Keys of ``[task]`` that only a program of one's own has."""


def build_task(config: RunConfig) -> Task:
    """The task that a run file asks for.

    Raises:
        ConfigError: an unknown task, or options that it does not have.
    """
    asked = config.task
    if asked.program is not None:
        return _own(asked, config.seed)
    entry = _entry(asked)
    options = task_options(asked)
    try:
        task = entry.build(options, config.seed)
    except ValueError as error:
        raise ConfigError(f"task: {error}") from error
    return task if asked.score_range is None else replace(task, score_range=asked.score_range)


def task_options(asked: TaskConfig) -> Options:
    """The options of a shipped task, its own defaults filled in.

    Raises:
        ConfigError: an unknown task; every key that it does not have or that is wrong.
    """
    entry = _entry(asked)
    given = [key for key in OWN_KEYS if getattr(asked, key) is not None]
    lines = [
        f"task.{key}: only for a program of your own, but task.program is not set; set it, or "
        f"leave out {key}"
        for key in given
    ]
    try:
        options = read_options(entry.options, asked.options, "task")
    except ConfigError as error:
        raise ConfigError(lines + error.problems) from error
    if lines:
        raise ConfigError(lines)
    return options


def resolved(config: RunConfig) -> RunConfig:
    """The configuration with all that the task and the policy decide written out.

    A run file then says the same tomorrow, when a task may have other defaults. The embedded
    policy gets one CPU thread: on tensors that small a second one only spins. Another policy gets
    room for more than a list of digits.
    """
    task, built = config.task, build_task(config)
    known = task.model_dump() | {"score_range": built.score_range}
    if task.program is None:
        known |= task_options(task).model_dump()
    else:  # the run directory outlives the folder that the command was given in
        paths = {"data": task.data, "eval_data": task.eval_data}
        known |= {key: path.absolute() for key, path in paths.items() if path is not None}
        if "name" not in task.model_fields_set:
            known |= {"name": task.program.rpartition(":")[2]}
    budget, policy, sampling = config.budget, config.policy, config.sampling
    if budget.enough is None:
        budget = budget.model_copy(update={"enough": built.enough})
    embedded = is_embedded(policy.model)
    threads = 1 if embedded and policy.threads is None else policy.threads
    policy = policy.model_copy(update={"model": policy.model, "threads": threads})
    if not embedded and "max_tokens" not in sampling.model_fields_set:
        sampling = sampling.model_copy(update={"max_tokens": MAX_TOKENS})
    sections = {
        "task": TaskConfig.model_validate(known),
        "budget": budget,
        "policy": policy,
        "sampling": sampling,
    }
    return config.model_copy(update=sections)


def smoke(config: RunConfig) -> RunConfig:
    """The same run with the least of everything: it shows that all parts work, and learns nothing.

    One cycle of one RL step; two problems a batch, two candidates, four rollouts a problem.
    """
    no_test = {} if config.task.program is not None else {"test_size": 0}
    updates: dict[str, dict[str, Any]] = {
        "task": {"train_size": 8, "val_size": 4, **no_test},
        "fast": {"population": 2, "rollouts": 12, "minibatch": 2},
        "slow": {"steps_per_cycle": 1, "batch_size": 2, "group_size": 4},
        "sampling": {"max_tokens": min(config.sampling.max_tokens, SMOKE_TOKENS)},
        "budget": {"cycles": 1, "rollouts": None, "seconds": None},
        "eval": {"samples": 1},
    }
    return config.model_copy(
        update={
            name: getattr(config, name).model_copy(update=changes)
            for name, changes in updates.items()
        }
    )


MAX_TOKENS = 1024
"""Most completion tokens of a call, by default, of a policy other than the embedded one."""

SMOKE_TOKENS = 32
"""Most completion tokens of a call in a smoke run."""


def policy_adapter(config: RunConfig) -> dspy.Adapter | None:
    """The adapter that the policy was trained to answer; ``None``: DSPy's own."""
    return CompactAdapter() if is_embedded(config.policy.model) else None


def is_embedded(model: str) -> bool:
    """Whether that is the embedded policy, by its name or, as Python writes it, by its folder."""
    return model in (MICRO, str(micro.path()))


def describe(name: str) -> dict[str, Any]:
    """What ``fst tasks NAME`` prints: the summary, the task's own keys, and its facts."""
    entry = _entry(TaskConfig(name=name))
    options = entry.options().model_dump(mode="json")
    return {"name": entry.name, "summary": entry.summary, "options": options, **entry.facts()}


def _entry(asked: TaskConfig) -> Entry:
    if asked.name not in TASKS:
        raise ConfigError(
            f"task.name: no task {asked.name!r}; there are {', '.join(TASKS)}, or a program of "
            "your own by task.program"
        )
    return TASKS[asked.name]


def _own(asked: TaskConfig, seed: int) -> Task:
    absent = [key for key in ("metric", "data") if getattr(asked, key) is None]
    lines = [f"task.{key}: a program of your own needs it" for key in absent]
    lines += [
        f"task.{key}: unknown key; see docs/run-file.md for the keys there are"
        for key in asked.model_extra or {}
    ]
    if lines or asked.program is None or asked.metric is None or asked.data is None:
        raise ConfigError(lines)
    return own_task(
        program=asked.program,
        metric=asked.metric,
        data=asked.data,
        eval_metric=asked.eval_metric,
        eval_data=asked.eval_data,
        inputs=asked.inputs,
        train_size=asked.train_size,
        val_size=asked.val_size,
        score_range=asked.score_range,
        seed=seed,
    )


def model_path(model: str) -> str:
    """A folder or Hugging Face name; ``micro`` is the embedded policy's folder.

    Raises:
        ConfigError: something that looks like a path and is not there, or can be neither.
    """
    if model == MICRO:
        return str(micro.path())
    looks_like_path = model.startswith((".", "/", "~")) or model.count("/") > 1
    try:
        path = Path(model).expanduser()
        known = (path / "config.json").is_file()
        if not looks_like_path and not path.is_dir():
            validate_repo_id(model)
    except (OSError, ValueError, RuntimeError) as error:  # the latter: nobody has such a home
        raise ConfigError(f"policy.model: {model!r:.100} is no model: {error!s:.300}") from error
    if (looks_like_path or path.exists()) and not known:
        raise ConfigError(
            f"policy.model: {model!r} is no model folder (no config.json there); give 'micro', "
            "a folder saved by transformers, or a Hugging Face name such as 'Qwen/Qwen3-8B'"
        )
    return str(path) if path.is_dir() else model
