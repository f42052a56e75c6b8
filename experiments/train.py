"""One run from one configuration: what ``fst train`` and ``fst demo`` do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.progress import Bar
from experiments.report import write_report
from experiments.tasks import build_task, model_path, policy_adapter
from fst_agents.config import RunConfig
from fst_agents.errors import ConfigError
from fst_agents.run_dir import RunDir
from fst_agents.run_file import parse, read
from fst_agents.types import Policy
from optimizers.arms import ARM_CLASSES
from optimizers.reflection import StandInReflection, build_reflection
from optimizers.resume import FREE, may_change


def resume(run_dir: Path, overrides: Sequence[str], console: Console) -> dict[str, Any]:
    """Go on with a stopped run as its ``run.toml`` describes it; returns what :func:`train` does.

    Raises:
        RunDirError: no run directory, or the run has finished.
        ConfigError: an override that would make it another run.
        FstError: as :func:`train`.
    """
    run = RunDir.open(run_dir)
    run.refuse_finished()
    lines = [
        f"--set {text}: a run goes on as it began, only {', '.join(FREE)} may be set"
        for text in overrides
        if not may_change(text.partition("=")[0].strip())
    ]
    if lines:
        raise ConfigError(lines)
    config = parse(read(run.path / "run.toml"), overrides)
    # Only a smoke run can have begun without a reflection model that knows the task.
    return train(config, console, stand_in=True, resume=run.path)


def train(
    config: RunConfig, console: Console, *, stand_in: bool = False, resume: Path | None = None
) -> dict[str, Any]:
    """Run an arm on a task; returns the JSON object of the run, its report's path included.

    Args:
        config: as :func:`experiments.check.check` returns it.
        stand_in: where no reflection model knows the task, take one that proves nothing but that
            the parts fit together (``--smoke``).
        resume: the directory of a stopped run to go on with.

    Raises:
        FstError: see :meth:`optimizers.arms.FastSlow.compile`.
    """
    task = build_task(config)
    offline = task.reflect
    if offline is None and stand_in:
        offline = StandInReflection()
    reflection = None
    if config.arm != "rl":
        reflection = build_reflection(
            config.fast.reflection_lm, config.fast.reflection_args, offline
        )
    with Bar(console) as bar:
        optimizer = ARM_CLASSES[config.arm](
            metric=task.metric,
            policy=Policy(model_path(config.policy.model)),
            reflection_lm=reflection,
            config=config,
            adapter=policy_adapter(config),
            eval_metric=task.eval_metric,
            skills=task.skills,
            observer=bar,
            report=write_report,
            task=config.task.name,
            resume=resume,
        )
        tuned: Any = optimizer.compile(task.program, trainset=task.trainset, valset=task.valset)
    summary: dict[str, Any] = tuned.fst.summary
    return {**summary, "report": str(Path(summary["run_dir"]) / "report.html")}
