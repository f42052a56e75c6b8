"""What the process of one cell does.

Most cells are ``fst train``, to the letter. Two kinds are not: those that start from the weights of
another cell, and those whose task changes on the way.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from multiprocessing import parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console

from experiments.command import command, speak_to
from experiments.studies.cells import Stages
from experiments.studies.provenance import stamp
from fst_agents.config import RunConfig, TaskConfig
from fst_agents.run_file import parse
from fst_agents.stream import ProblemStream, StagedStream
from fst_agents.types import Policy, Problem
from optimizers.plan import batches_of
from programs.task import Task


def work(request: dict[str, Any], log: Path) -> NoReturn:
    """Run a cell and end this process with the exit code of ``fst train``; it speaks to ``log``.

    See :meth:`experiments.studies.processes.Processes.request`.
    """
    speak_to(log, "wb")
    try:
        with command(False):
            threading.Thread(target=_end_with_parent, daemon=True, name="fst-parent").start()
            import_module("experiments.studies.warm")  # loaded already where forks are safe
            run(request, Console(stderr=True))
    except typer.Exit as end:
        sys.exit(end.exit_code)
    sys.exit(0)


def _end_with_parent() -> None:
    """Stop this process, as Ctrl-C would, once the one that asked for it is gone: killed, say.

    It would go on unseen, and keep the run from whoever asks for it again.
    """
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


def run(request: dict[str, Any], console: Console) -> dict[str, Any]:
    """Run a cell in this process.

    Raises:
        FstError: the run failed, or its configuration is wrong.
    """
    from experiments.train import train

    config = parse(request["config"])
    assert config.run_dir is not None
    stamp(config.run_dir.parent)
    resume = config.run_dir if request["resume"] else None
    if request["start"] is None and request["stages"] is None:
        return train(config, console, resume=resume)
    start = None if request["start"] is None else Path(request["start"])
    given = request["stages"]
    stages = None
    if given is not None:
        stages = Stages(tuple(tuple(t) for t in given["targets"]), given["cycles"])
    return _train(config, console, start, stages, resume)


def _train(
    config: RunConfig,
    console: Console,
    start: Path | None,
    stages: Stages | None,
    resume: Path | None,
) -> dict[str, Any]:
    """What :func:`experiments.train.train` does, from other weights and with other problems."""
    from experiments.progress import Bar
    from experiments.report import write_report
    from experiments.tasks import build_task, model_path, policy_adapter
    from optimizers.arms import ARM_CLASSES
    from optimizers.merge import merged_policy
    from optimizers.reflection import build_reflection

    base = Policy(model_path(config.policy.model))
    assert config.run_dir is not None
    folder = config.run_dir.with_name("start")
    policy = base if start is None else merged_policy(base, start, folder)
    task = build_task(config) if stages is None else staged_task(config, stages)
    reflection = None
    if config.arm != "rl":
        fast = config.fast
        reflection = build_reflection(fast.reflection_lm, fast.reflection_args, task.reflect)
    with Bar(console) as bar:
        optimizer = ARM_CLASSES[config.arm](
            metric=task.metric,
            policy=policy,
            reflection_lm=reflection,
            config=config,
            adapter=policy_adapter(config),
            eval_metric=task.eval_metric,
            skills=task.skills,
            observer=bar,
            report=write_report,
            task=config.task.name,
            resume=resume,
            stream=None if stages is None else lambda p: staged_stream(config, stages, p),
        )
        tuned: Any = optimizer.compile(task.program, trainset=task.trainset, valset=task.valset)
    return tuned.fst.summary


def staged_task(config: RunConfig, stages: Stages) -> Task:
    """The training problems of all stages, one after another; all else is the last stage's.

    Every stage has the same lists of digits under another rule, so that no training problem of any
    stage is a validation problem of the last.
    """
    from experiments.tasks import build_task

    def of(target: tuple[str, ...]) -> Task:
        task = TaskConfig.model_validate({**config.task.model_dump(), "target": target})
        return build_task(config.model_copy(update={"task": task}))

    tasks = [of(target) for target in stages.targets]
    examples = [
        example.copy(id=f"stage-{number}-{example.id}")
        for number, task in enumerate(tasks, start=1)
        for example in task.trainset
    ]
    return replace(tasks[-1], trainset=examples)


def staged_stream(config: RunConfig, stages: Stages, problems: Sequence[Problem]) -> ProblemStream:
    """The problems in the order of their stages, each for ``stages.cycles`` cycles' rollouts."""
    size = len(problems) // len(stages.targets)
    parts = [problems[k * size : (k + 1) * size] for k in range(len(stages.targets))]
    return StagedStream(
        parts, config.slow.batch_size, config.seed, batches=batches_of(config, stages.cycles)
    )
