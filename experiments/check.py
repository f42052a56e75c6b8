"""``fst check``: everything that can be known before anything is spent."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.tasks import (
    Task,
    build_task,
    model_path,
    policy_adapter,
    resolved,
    smoke,
)
from fst_agents.config import RunConfig, TaskConfig
from fst_agents.errors import ConfigError, FstError, RunDirError
from fst_agents.run_dir import RunDir
from fst_agents.run_file import examine
from fst_agents.serving.choose import attached_key, choose
from fst_agents.serving.vllm_settings import refuse_ours
from optimizers.plan import plan
from optimizers.reflection import build_reflection
from optimizers.request import request_faults
from programs.catalog import TASKS


def check(
    data: Mapping[str, Any], overrides: Sequence[str] = (), *, small: bool = False
) -> RunConfig:
    """Validate a run file's content and all that it refers to.

    Args:
        small: the least of everything (``--smoke``), with a stand-in for the reflection model.

    Returns:
        The configuration with all that the task and the policy decide written out.

    Raises:
        ConfigError: every problem, one line each.
    """
    config, found = examine(data, overrides)
    config = smoke(config) if small else config
    attempts: list[Callable[[], object]] = [
        lambda: model_path(config.policy.model),
        lambda: plan(config),
        lambda: _port(config),
        lambda: _run_dir(config),
        lambda: choose(config),
        lambda: refuse_ours(config.serve.extra_args),
        lambda: config.serve.url and attached_key(config.serve.api_key_env),
        lambda: _reflection(config),
        lambda: build_task(config),
    ]
    found += [line for attempt in attempts for line in _trouble(attempt)]
    task = _some_task(config)
    if task is not None:
        found += _faults(task, config, offline_needed=not small)
    if found:
        raise ConfigError(list(dict.fromkeys(found)))
    return resolved(config)


def _trouble(attempt: Callable[[], object]) -> list[str]:
    try:
        attempt()
    except ConfigError as error:
        return error.problems
    except FstError as error:
        return [str(error)]
    return []


def _some_task(config: RunConfig) -> Task | None:
    """The task asked for, or with its own defaults where a wrong rule keeps it from being built:
    what else is wrong can still be found."""
    try:
        return build_task(config)
    except FstError:
        if config.task.program is not None or config.task.name not in TASKS:
            return None
        try:
            task = TaskConfig(name=config.task.name)
            return build_task(config.model_copy(update={"task": task}))
        except FstError:  # its data are not on this machine
            return None


def _faults(task: Task, config: RunConfig, *, offline_needed: bool) -> list[str]:
    """What is wrong between a task and the rest of the run file."""
    try:
        model = model_path(config.policy.model)
    except ConfigError:  # said elsewhere; what else is wrong can still be found
        model = None
    found = request_faults(
        task.program,
        config,
        task.metric,
        trainset=task.trainset,
        valset=task.valset,
        eval_metric=task.eval_metric,
        adapter=policy_adapter(config),
        policy=model,
        score_range=task.score_range,
    )
    offline = config.fast.reflection_lm == "offline" and config.arm != "rl"
    if offline and task.reflect is None and offline_needed:
        found.append(
            f"fast.reflection_lm: 'offline' does not know the task {config.task.name!r}; name a "
            "LiteLLM model, for example 'openai/gpt-5-mini'"
        )
    return found


def _reflection(config: RunConfig) -> None:
    name, args = config.fast.reflection_lm, config.fast.reflection_args
    if config.arm != "rl":
        build_reflection(name, args, offline=lambda _: "")  # whether it knows the task: see below


def _port(config: RunConfig) -> None:
    port = config.serve.port
    if port is None or config.serve.url is not None or choose(config)[0] != "vllm":
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"serve.port: {port} is in use ({error.strerror}); name another, or leave it out "
                "for a private socket"
            ) from error


def _run_dir(config: RunConfig) -> None:
    if config.run_dir is None:
        return
    try:
        RunDir(config.run_dir).refuse_unusable()
    except RunDirError as error:
        raise ConfigError(f"run_dir: {error}") from error
