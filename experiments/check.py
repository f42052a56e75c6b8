"""``fst check``: everything that can be known before anything is spent."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dspy

from experiments.tasks import BUILDERS, Task, build_task, model_path
from fst_agents.config import RunConfig, TaskConfig, examine
from fst_agents.dspy_bridge import problems, seed_candidate
from fst_agents.errors import ConfigError, FstError
from fst_agents.run_dir import RunDir
from fst_agents.scoring import Metric, Scorer
from fst_agents.serving.choose import choose
from optimizers.plan import FastPhase, plan, total_rollouts


def check(data: Mapping[str, Any], overrides: Sequence[str] = ()) -> RunConfig:
    """Validate a run file's content and all that it refers to.

    Raises:
        ConfigError: every problem, one line each.
    """
    config, found = examine(data, overrides)
    attempts: list[Callable[[], object]] = [
        lambda: model_path(config.policy.model),
        lambda: plan(config),
        lambda: _port(config),
        lambda: _run_dir(config),
        lambda: choose(config),
    ]
    found += [line for attempt in attempts for line in _trouble(attempt)]
    found += _trouble(lambda: build_task(config))
    if config.task.name in BUILDERS:
        found += _task(_some_task(config), config)
    if found:
        raise ConfigError(list(dict.fromkeys(found)))
    return config


def forecast(config: RunConfig) -> dict[str, Any]:
    """What a run will spend at most: rollouts, completion tokens, RL steps, reflections."""
    phases = plan(config)
    fast = sum(p.rollouts for p in phases if isinstance(p, FastPhase))
    steps = sum(p.steps for p in phases if not isinstance(p, FastPhase))
    slow = steps * config.slow.batch_size * config.slow.group_size
    cells = {"fst": 4, "sequential": 4, "gepa": 2, "rl": 2}[config.arm]
    skills = sum(len(skill.problems) for skill in build_task(config).skills)
    evaluation = cells * config.task.val_size * config.eval.samples
    evaluation += skills * (1 if config.arm == "gepa" else 2)
    return {
        "rollouts": {
            "limit": total_rollouts(config),
            "fast": fast,
            "slow": slow,
            "eval": evaluation,
        },
        "cycles": len({p.cycle for p in phases}),
        "steps": steps,
        "completion_tokens_per_call_at_most": config.sampling.max_tokens,
        "host": choose(config)[1],
    }


def _trouble(attempt: Callable[[], object]) -> list[str]:
    try:
        attempt()
    except ConfigError as error:
        return error.problems
    except FstError as error:
        return [str(error)]
    return []


def _some_task(config: RunConfig) -> Task:
    """The task asked for, or with its own defaults where a wrong rule keeps it from being built:
    what else is wrong can still be found."""
    try:
        return build_task(config)
    except ConfigError:
        defaults = TaskConfig(name=config.task.name)
        return build_task(config.model_copy(update={"task": defaults}))


def _task(task: Task, config: RunConfig) -> list[str]:
    """Predictor names, example ids, and whether the metric scores at all."""
    found: list[str] = []
    names = seed_candidate(task.program).instructions
    for key, asked in (
        ("fast.predictors", config.fast.predictors),
        ("slow.predictors", config.slow.predictors),
    ):
        missing = [] if asked == "*" else sorted(set(asked) - set(names))
        found += [
            f"{key}: the program has no predictor {name!r}; it has {', '.join(names)}"
            for name in missing
        ]
    found += _trouble(lambda: problems([*task.trainset]))
    found += _trouble(lambda: scores_something(task.metric, task.trainset[0]))
    if config.fast.reflection_lm == "offline" and task.offline is None and config.arm != "rl":
        found.append(
            f"fast.reflection_lm: 'offline' does not know the task {config.task.name!r}; name a "
            "LiteLLM model, for example 'openai/gpt-5-mini'"
        )
    return found


def scores_something(metric: Metric, example: dspy.Example) -> None:
    """Ask the metric about the example's own labels: free, and it shows a metric without a score.

    Raises:
        ConfigError: the metric gives no score to what is right by definition.
    """
    prediction = dspy.Prediction(**example.labels().toDict())
    score = Scorer(metric)(example, prediction, []).score
    if score is None:
        raise ConfigError(
            "metric: returned no score for a training example's own labels; it must return a "
            "number, or a dspy.Prediction with `score`"
        )


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
                "for a free one"
            ) from error


def _run_dir(config: RunConfig) -> None:
    path = config.run_dir
    if path is not None and path.exists():
        RunDir(Path(path)).refuse_occupied()
