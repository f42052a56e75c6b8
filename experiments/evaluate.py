"""``fst eval RUN_DIR``: the 2×2 of a finished run, measured again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.tasks import build_task, model_path, policy_adapter, resolved
from fst_agents.config import least_score
from fst_agents.dspy_bridge import problems, seed_candidate
from fst_agents.dspy_fixed import fixed_models
from fst_agents.errors import RunDirError
from fst_agents.outcomes import FailureScores
from fst_agents.redaction import refuse_redacted
from fst_agents.rollouts import Limits, Runner
from fst_agents.run_dir import RunDir
from fst_agents.run_file import parse
from fst_agents.serving.choose import choose_host
from fst_agents.types import Candidate, Policy, Sampling
from optimizers.evaluation import Evaluator, evaluate_run
from optimizers.plan import shipped_cell, trains


def final_policy(run: RunDir) -> Policy:
    """The trained policy as ``result/`` holds it.

    Raises:
        RunDirError: the run has not finished.
    """
    if not run.finished:
        raise RunDirError(f"{run.path}: the run has not finished; there is no result to use")
    model = model_path(run.config().policy.model)
    version = int(run.result()["policy_version"])
    adapter, weights = run.result_folder / "adapter", run.result_folder / "weights"
    if adapter.is_dir():
        return Policy(model, adapter=adapter, version=version)
    if weights.is_dir():
        return Policy(model, weights=weights, version=version)
    return Policy(model)


def evaluate_again(run_dir: Path, overrides: Sequence[str], console: Console) -> dict[str, Any]:
    """Scores and intervals of every cell the run's arm has.

    Raises:
        ConfigError: an override is wrong, or a secret that serving needs has to be given again.
        RunDirError: the run has not finished.
        FstError: serving or a rollout failed.
    """
    run = RunDir.open(run_dir)
    config = resolved(parse(run.config().model_dump(mode="json"), overrides))
    refuse_redacted(config, "serve", "fixed")  # nothing is reflected upon
    trained, result = final_policy(run), run.result()
    task = build_task(config)
    host, why = choose_host(config, Policy(trained.model), run.path / "serve")
    console.print(why, markup=False)
    limits = Limits(config.sampling.concurrency, config.sampling.timeout, config.sampling.retries)
    metric = task.metric if task.eval_metric is None else task.eval_metric
    runner = Runner(
        task.program,
        metric,
        host,
        adapter=policy_adapter(config),
        limits=limits,
        fixed=fixed_models(config),
        failures=FailureScores(least_score(config)),
        score_range=config.task.score_range,
    )
    try:
        sampling = Sampling(config.eval.temperature, max_tokens=config.sampling.max_tokens)
        evaluation = evaluate_run(
            Evaluator(runner, problems(list(task.valset)), config.eval.samples, sampling),
            runner,
            seed=seed_candidate(task.program),
            champion=Candidate(result["instructions"]) if config.arm != "rl" else None,
            base=Policy(trained.model),
            trained=trained if trains(config) else None,
            skills=task.skills,
            ships=shipped_cell(config),
        )
    finally:
        runner.close()
        host.close()
    cells, kept = evaluation.cells, evaluation.retention
    return {
        "run_dir": str(run.path),
        "scores": {name: s.mean if s else None for name, s in cells.items()},
        "intervals": {name: [s.low, s.high] if s else None for name, s in cells.items()},
        "retention": {name: s.mean if s else None for name, s in kept.items()},
    }
