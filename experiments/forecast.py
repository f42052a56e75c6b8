"""What a run will cost at most, as far as that can be known before it: each figure says how."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import dspy

from experiments.forecast_memory import (
    Figure,
    Shape,
    host_memory,
    shape_of,
    trainer_memory,
    unknown_memory,
)
from experiments.tasks import Task, build_task, model_path, policy_adapter
from fst_agents.config import RunConfig
from fst_agents.dspy_bridge import named_predictors
from fst_agents.dspy_fixed import learning_predictors
from fst_agents.errors import FstError
from fst_agents.serving.choose import choose
from optimizers.plan import (
    FastPhase,
    adapts,
    cycle_rollouts,
    distill_rollouts,
    plan,
    slow_step_rollouts,
    total_rollouts,
    training_rollouts,
    trains,
)
from optimizers.reflection import DEFAULT_ARGS

MEASURED = 200
"""Training examples whose prompts are measured."""

PROMPT_BYTES, COMPLETION_BYTES = 12, 40
"""What a token takes in ``rollouts/``: its id and its text, of a completion also the
log-probability and the parsed answer."""


def forecast(config: RunConfig, rate: float | None = None) -> dict[str, Any]:
    """What a run will spend at most.

    Args:
        config: as :func:`experiments.check.check` returns it.
        rate: rollouts per second that the user has measured.
    """
    task = build_task(config)
    rollouts, cycles, steps = count_rollouts(config, task)
    kind, host = choose(config)
    lengths = prompt_lengths(task, config)
    longest = [max(own) for own in lengths.values() if own]
    tokens = None
    if len(longest) == len(lengths):
        tokens = max(longest, default=0) + config.sampling.max_tokens
    shape, memory = _memory(config, kind, tokens)
    training = sum(rollouts[name] for name in ("fast", "slow", "distill") if name in rollouts)
    run = min(training, rollouts["limit"]) + rollouts["eval"]
    spent = token_figures(config, lengths, run)
    figures = {
        "tokens": spent,
        "reflection": reflection_figures(config, task),
        "memory": memory,
        "disk": disk_figures(config, shape, spent),
        "seconds": _seconds(run, rate),
    }
    return {
        "rollouts": rollouts,
        "cycles": cycles,
        "steps": steps,
        "completion_tokens_per_call_at_most": config.sampling.max_tokens,
        "host": host,
        **{name: _plain(value) for name, value in figures.items()},
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Figure):
        return asdict(value)
    return {name: _plain(item) for name, item in value.items()}


def count_rollouts(config: RunConfig, task: Task) -> tuple[dict[str, int], int, int]:
    """Rollouts by what they are for (``limit`` is that of training), cycles, and RL steps."""
    phases = plan(config)
    fast = sum(p.rollouts for p in phases if isinstance(p, FastPhase))
    steps = sum(p.steps for p in phases if not isinstance(p, FastPhase))
    if adapts(config):  # each at its most: what the one does not spend, the other does
        limit = training_rollouts(config)
        fast = limit // cycle_rollouts(config) * config.fast.rollouts
        steps = (limit - config.fast.rollouts) // slow_step_rollouts(config)
    skills = sum(len(skill.problems) for skill in task.skills)
    weights, texts = 2 if trains(config) else 1, 1 if config.arm == "rl" else 2
    evaluation = weights * (texts * len(task.valset) * config.eval.samples + skills)
    if config.eval.every is not None:
        asked = min(len(task.valset), config.eval.problems) * config.eval.samples
        evaluation += asked * sum((p.cycle + 1) % config.eval.every == 0 for p in phases)
    counts = {
        "limit": total_rollouts(config),
        "fast": fast,
        "slow": steps * slow_step_rollouts(config),
        "eval": evaluation,
    }
    if distill_rollouts(config):
        counts["distill"] = distill_rollouts(config)
    return counts, len({p.cycle for p in phases}), steps


# -- tokens ---------------------------------------------------------------------------------------


def prompt_lengths(task: Task, config: RunConfig) -> dict[str, list[int]]:
    """Tokens of the prompts of each predictor that runs on the policy, under its own instruction.

    A predictor whose inputs are not all the example's has none: another one writes them.
    """
    from fst_agents.serving.tokenizer import HfChatTokenizer  # seconds to import

    predictors = named_predictors(task.program)
    named = {n: predictors[n] for n in learning_predictors(task.program, config.fixed)}
    try:
        path = model_path(config.policy.model)
        tokenizer = HfChatTokenizer(path, config.policy.trust_remote_code)
    except (FstError, OSError, ValueError):
        return {name: [] for name in named}
    own = policy_adapter(config)
    adapter = dspy.ChatAdapter() if own is None else own
    lengths: dict[str, list[int]] = {}
    for name, predictor in named.items():
        fields: list[str] = list(predictor.signature.input_fields)
        lengths[name] = []
        for example in task.trainset[:MEASURED]:
            inputs = example.inputs()
            if all(field in inputs for field in fields):
                given = {field: inputs[field] for field in fields}
                try:
                    messages = adapter.format(predictor.signature, predictor.demos, given)
                    lengths[name].append(len(tokenizer.render(messages)))
                except Exception:  # noqa: BLE001 - the program may make something else of them
                    continue
    return lengths


def token_figures(
    config: RunConfig, lengths: dict[str, list[int]], rollouts: int
) -> dict[str, Figure]:
    """Tokens of all rollouts, training and evaluation; every predictor called once in each."""
    once = f"{rollouts:,} rollouts, in which each of {len(lengths)} predictor(s) is called once"
    most = config.sampling.max_tokens
    unknown = [name for name, own in lengths.items() if not own]
    means = [sum(own) / len(own) for own in lengths.values() if own]
    prompt = Figure(
        rollouts * sum(means),
        "tokens",
        f"{once}, with {sum(means):.0f} tokens: measured with the policy's tokenizer on up to "
        f"{MEASURED} training examples under the seed instructions; evolved ones are longer",
    )
    if unknown:
        prompt = Figure(
            None,
            "tokens",
            f"unknown: {', '.join(unknown)} is given what another predictor writes, or the "
            "policy's tokenizer is not on this machine",
        )
    completion = Figure(
        rollouts * len(lengths) * most,
        "tokens",
        f"at most: {once}, with sampling.max_tokens = {most}",
    )
    return {"prompt": prompt, "completion": completion}


# -- reflection -----------------------------------------------------------------------------------


def reflection_figures(config: RunConfig, task: Task) -> dict[str, Figure]:
    """Calls of the reflection model and what they cost by LiteLLM's price list."""
    calls, how = _reflection_calls(config, task)
    model = config.fast.reflection_lm
    if not calls or model == "offline":
        free = "no reflection model is asked" if not calls else "the offline reflector is no model"
        return {"calls": Figure(calls, "calls", how), "cost": Figure(0, "USD", free)}
    each = {**DEFAULT_ARGS, **config.fast.reflection_args}["max_tokens"]
    prices = _prices(model)
    if not isinstance(each, int):
        cost = Figure(None, "USD", f"unknown: fast.reflection_args.max_tokens is {each!r}")
    elif prices is None:
        cost = Figure(None, "USD", f"unknown: LiteLLM's price list does not have {model!r}")
    else:
        read, written = prices
        cost = Figure(
            calls * each * written,
            "USD",
            f"at most, for what is written: {calls:,} calls of {each} tokens at "
            f"{written * 1e6:g} USD per million (LiteLLM's price list); how long prompts get is "
            f"not known, each 1,000 tokens more in all of them cost {calls * 1000 * read:.2f} USD",
        )
    return {"calls": Figure(calls, "calls", how), "cost": cost}


def _reflection_calls(config: RunConfig, task: Task) -> tuple[int, str]:
    phases = [p for p in plan(config) if isinstance(p, FastPhase)]
    if not phases:
        return 0, "the rl arm has no fast phase"
    count = len(phases)
    if adapts(config):
        count = training_rollouts(config) // cycle_rollouts(config)
    problems = min(phases[0].batches * config.slow.batch_size, len(task.trainset))
    minibatch = min(config.fast.minibatch, problems)
    tried = (phases[0].rollouts - problems) // minibatch + 1
    asked = 1
    if config.fast.components == "all":
        evolve = config.fast.evolve
        learn = learning_predictors(task.program, config.fixed)
        asked = len(learn if evolve == "*" else evolve)
    return count * tried * asked, (
        f"at most: {count} fast phase(s) of {phases[0].rollouts} rollouts, of which the "
        f"{problems} problems of the anchor set are scored at least once and a proposal is tried "
        f"on {minibatch}"
        + (f", each for {asked} predictors" if asked > 1 else "")
        + "; answers that cannot be used are asked for again and not counted here"
    )


def _prices(model: str) -> tuple[float, float] | None:
    """USD for a token read and for one written, ``None`` where LiteLLM does not know."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    name = model.partition("/")[2]
    known = litellm.model_cost.get(model) or litellm.model_cost.get(name)
    if known is None or not {"input_cost_per_token", "output_cost_per_token"} <= known.keys():
        return None
    return float(known["input_cost_per_token"]), float(known["output_cost_per_token"])


# -- memory, disk and time ------------------------------------------------------------------------


def _memory(
    config: RunConfig, kind: str, tokens: int | None
) -> tuple[Shape | None, dict[str, dict[str, Figure]]]:
    try:
        # A sequence that is longer than a micro-batch may be is one by itself.
        together = max(config.slow.tokens_per_micro_batch, tokens or 0)
        policy: Any = config.policy  # it has a hash, as it is frozen; pyright does not know
        shape = shape_of(model_path(policy.model), policy, together)
    except (OSError, ValueError):
        unknown = unknown_memory(config.policy.model)
        return None, {"trainer": unknown, "host": unknown}
    host = host_memory(shape, config, kind, tokens)
    if not trains(config):
        return shape, {"host": host}
    return shape, {"trainer": trainer_memory(shape, config), "host": host}


def disk_figures(
    config: RunConfig, shape: Shape | None, tokens: dict[str, Figure]
) -> dict[str, Figure]:
    """What the run directory grows to. Weights are linked between its folders, not copied."""
    parts: dict[str, Figure] = {}
    if trains(config):
        parts |= _weights_on_disk(config, shape)
    prompt, completion = tokens["prompt"].value, tokens["completion"].value
    if prompt is None or completion is None:
        parts["rollouts"] = Figure(None, "bytes", f"unknown, as {tokens['prompt'].how}")
    else:
        parts["rollouts"] = Figure(
            PROMPT_BYTES * prompt + COMPLETION_BYTES * completion,
            "bytes",
            f"about {PROMPT_BYTES} bytes for each token of a prompt and {COMPLETION_BYTES} for "
            "each of a completion, all completions as long as they may be",
        )
    return parts


def _weights_on_disk(config: RunConfig, shape: Shape | None) -> dict[str, Figure]:
    keep = config.checkpoint.keep
    if shape is None:
        rest = "unknown until the model is fetched"
        return {"weights": Figure(None, "bytes", rest), "optimizer": Figure(None, "bytes", rest)}
    versions = 4 + keep + 1
    return {
        "weights": Figure(
            versions * 4 * shape.trained,
            "bytes",
            f"at most {versions} versions of {shape.trained:,} parameters of 4 bytes: three in "
            f"policy/ and the one being written, those of checkpoint.keep = {keep} checkpoints, "
            "and what ships",
        ),
        "optimizer": Figure(
            (keep + 1) * 8 * shape.trained,
            "bytes",
            f"AdamW's two moments in checkpoint.keep = {keep} checkpoints and the one being "
            "written",
        ),
    }


def _seconds(rollouts: int, rate: float | None) -> Figure:
    if rate is None:
        return Figure(
            None,
            "seconds",
            "unknown: it depends on the machine; give --rate, the rollouts per second that you "
            "have measured ('fst bench rollouts', or a run of one cycle)",
        )
    return Figure(
        rollouts / rate,
        "seconds",
        f"of sampling alone: {rollouts:,} rollouts at {rate:g} a second, as given; training, "
        "reflection and start come on top",
    )
