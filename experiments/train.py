"""One run from one configuration: what ``fst train`` and ``fst demo`` do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.progress import Bar
from experiments.report import write_report
from experiments.tasks import MICRO, build_task, model_path
from fst_agents.config import RunConfig
from fst_agents.types import Policy
from optimizers.arms import ARM_CLASSES
from optimizers.reflection import build_reflection

ENOUGH = 0.98
"""Mean reward at which a digits run is solved: some 95 % of answers exactly right."""


def with_defaults(config: RunConfig) -> RunConfig:
    """Fill in what depends on the task and the policy.

    One CPU thread for the embedded policy: on tensors that small a second one only spins. An end
    for digits, where a perfect reward is 1.
    """
    policy, budget = config.policy, config.budget
    if policy.threads is None and policy.model == MICRO:
        policy = policy.model_copy(update={"threads": 1})
    if budget.enough is None and config.task.name == "digits":
        budget = budget.model_copy(update={"enough": ENOUGH})
    return config.model_copy(update={"policy": policy, "budget": budget})


def train(config: RunConfig, console: Console) -> dict[str, Any]:
    """Run an arm on a task; returns the JSON object of the run, its report's path included.

    Raises:
        FstError: see :meth:`optimizers.arms.FastSlow.compile`.
    """
    config = with_defaults(config)
    task = build_task(config)
    reflection = None
    if config.arm != "rl":
        reflection = build_reflection(
            config.fast.reflection_lm, config.fast.reflection_args, task.offline
        )
    with Bar(console) as bar:
        optimizer = ARM_CLASSES[config.arm](
            metric=task.metric,
            policy=Policy(model_path(config.policy.model)),
            reflection_lm=reflection,
            config=config,
            adapter=task.adapter,
            eval_metric=task.eval_metric,
            skills=task.skills,
            observer=bar,
            report=write_report,
            task=config.task.name,
        )
        tuned: Any = optimizer.compile(task.program, trainset=task.trainset, valset=task.valset)
    summary: dict[str, Any] = tuned.fst.summary
    return {**summary, "report": str(Path(summary["run_dir"]) / "report.html")}
