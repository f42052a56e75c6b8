"""``fst eval --task``: a task's program as it is shipped, on a policy or on any LiteLLM model."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.tasks import build_task, model_path, policy_adapter, resolved
from fst_agents.config import RunConfig, least_score
from fst_agents.dspy_bridge import problems, seed_candidate
from fst_agents.dspy_fixed import fixed_models
from fst_agents.errors import ConfigError, ServingError
from fst_agents.outcomes import FailureScores
from fst_agents.rollouts import Limits, Runner
from fst_agents.run_file import parse
from fst_agents.scoring import Metric, Scorer
from fst_agents.serving.choose import choose_host
from fst_agents.types import Feedback, Outcome, Policy, Sampling
from optimizers.evaluation import interval
from programs.task import Task

LM_THREADS = 16
"""Requests to a LiteLLM model that are open at once, at most ``sampling.concurrency``."""


@dataclass(frozen=True)
class _Run:
    """One example's run: what the metric said and how it ended."""

    example: str
    feedback: Feedback
    outcome: Outcome


def evaluate_task(
    data: Mapping[str, Any], overrides: Sequence[str], lm: str | None, console: Console
) -> dict[str, Any]:
    """Score the seed program on the task's validation split, each example ``eval.samples`` times.

    With ``lm`` the program runs on that LiteLLM model, its key taken from the environment; else on
    the policy of ``data``.

    Raises:
        ConfigError: the task or an option of it does not exist, LiteLLM does not know ``lm``, or
            predictors have models of their own beside it.
        ServingError: the model could not be asked, or the program failed on an answer of it.
    """
    asked = parse(data, overrides)
    config = resolved(asked)
    task = build_task(config)
    if lm is None:
        runs = _on_policy(task, config, console)
    else:
        limited = "max_tokens" in asked.sampling.model_fields_set
        limit = {"max_tokens": config.sampling.max_tokens} if limited else {}
        runs = _on_lm(task, config, lm, limit)
    return _summary(config, lm, runs)


def _on_policy(task: Task, config: RunConfig, console: Console) -> list[_Run]:
    policy, s = Policy(model_path(config.policy.model)), config.sampling
    with tempfile.TemporaryDirectory(prefix="fst-eval-") as folder:
        host, why = choose_host(config, policy, Path(folder))
        console.print(why, markup=False)
        try:
            runner = Runner(
                task.program,
                _metric(task),
                host,
                adapter=policy_adapter(config),
                limits=Limits(s.concurrency, s.timeout, s.retries),
                fixed=fixed_models(config),
                failures=FailureScores(least_score(config)),
                score_range=task.score_range,
            )
            seed = seed_candidate(task.program)
            jobs = [
                (problem, seed)
                for problem in problems(list(task.valset))
                for _ in range(config.eval.samples)
            ]
            rollouts = runner.collect(
                jobs, Sampling(config.eval.temperature, max_tokens=s.max_tokens)
            )
            runner.close()
        finally:
            host.close()
    return [_Run(r.problem_id, r.feedback, r.outcome) for r in rollouts]


def _on_lm(task: Task, config: RunConfig, name: str, limit: Mapping[str, int]) -> list[_Run]:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm
    from litellm.exceptions import BadRequestError

    if config.fixed:
        raise ConfigError(
            [
                f"fixed.{one}: with --lm all predictors ask {name}; leave it out"
                for one in config.fixed
            ]
        )
    args = config.fast.reflection_args  # api_base and the like: there is one place for them
    try:
        litellm.get_llm_provider(name, api_base=args.get("api_base"))
    except BadRequestError as error:
        raise ConfigError(
            f"--lm: {name!r} is not a LiteLLM model name; expected '<provider>/<model>', for "
            "example 'openai/gpt-5-mini'; a policy of this machine is --model"
        ) from error
    settings: dict[str, Any] = {"cache": False, "temperature": config.eval.temperature, **limit}
    try:
        model = dspy.LM(name, **{**settings, **args})
    except Exception as error:  # DSPy raises what its clients do
        raise ConfigError(f"fast.reflection_args: {name!r} with {sorted(args)}: {error}") from error
    scorer = Scorer(_metric(task), score_range=task.score_range)

    def ask(job: tuple[str, dspy.Example]) -> _Run:
        name, example = job
        with dspy.context(lm=model, disable_history=True):
            try:
                prediction = task.program(**example.inputs())
            except AdapterParseError as error:
                return _Run(name, Feedback(least_score(config), str(error)), Outcome.PARSE_FAILURE)
            except Exception as error:
                raise ServingError(
                    f"example {name!r} could not be run on {model.model}: "
                    f"{type(error).__name__}: {error}"
                ) from error
        return _Run(name, scorer(example, prediction, []), Outcome.OK)

    jobs = [
        (problem.id, problem.example)
        for problem in problems(list(task.valset))
        for _ in range(config.eval.samples)
    ]
    with ThreadPoolExecutor(min(LM_THREADS, config.sampling.concurrency)) as pool:
        return list(pool.map(ask, jobs))


def _metric(task: Task) -> Metric:
    """The score of the 2×2, beside the training reward and its objectives."""
    if task.eval_metric is None:
        return task.metric
    strict, reward = Scorer(task.eval_metric), Scorer(task.metric)

    def both(gold: dspy.Example, pred: dspy.Prediction, trace: object = None) -> dspy.Prediction:
        said = reward(gold, pred, [])
        objectives = {**said.objectives, "reward": said.score}
        score = strict(gold, pred, []).score
        return dspy.Prediction(score=score, feedback=said.text, objective_scores=objectives)

    return both


def _summary(config: RunConfig, lm: str | None, runs: Sequence[_Run]) -> dict[str, Any]:
    scores: dict[str, list[float]] = {}
    for run in runs:
        if run.feedback.score is not None:
            scores.setdefault(run.example, []).append(run.feedback.score)
    if not scores:
        raise ServingError(
            f"none of {len(runs)} runs could be scored: "
            f"{dict(Counter(str(run.outcome) for run in runs))}"
        )
    objectives: dict[str, list[float]] = {}
    for run in runs:
        for name, value in run.feedback.objectives.items():
            objectives.setdefault(name, []).append(value)
    score = interval([fmean(own) for own in scores.values()])
    return {
        "task": config.task.name,
        "model": config.policy.model if lm is None else lm,
        "score": score.mean,
        "interval": [score.low, score.high],
        "objectives": {name: fmean(values) for name, values in sorted(objectives.items())},
        "outcomes": dict(sorted(Counter(str(run.outcome) for run in runs).items())),
        "examples": len({run.example for run in runs}),
        "runs": len(runs),
    }


def task_table(result: Mapping[str, Any]) -> Table:
    """What a person wants to know of the evaluation of a seed program."""
    grid = Table(
        title=f"{result['task']}, seed program on {result['model']} (mean, 95 % interval)",
        title_justify="left",
        show_header=False,
    )
    low, high = result["interval"]
    grid.add_row("score", f"{result['score']:.1%}  [{low:.1%}, {high:.1%}]")
    for name, value in result["objectives"].items():
        grid.add_row(Text(name), f"{value:.1%}")
    for name, count in result["outcomes"].items():
        grid.add_row(f"runs: {name}", str(count))
    return grid
