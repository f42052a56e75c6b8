"""``rollouts`` and ``rollouts-local``: program rollouts through ``collect`` against bare sampling.

Ours is everything a training run pays: DSPy, the recorder, exact tokens, the metric. The peers do
no more than sample: a bare asyncio client on the same vLLM server with the same requests, n = 1;
or transformers' ``generate`` on the same batch in this process.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp

from experiments.tasks import build_task, model_path, policy_adapter
from fst_agents.config import RunConfig
from fst_agents.dspy_bridge import problems, seed_candidate
from fst_agents.errors import ServingError
from fst_agents.rollouts import Limits, Runner
from fst_agents.run_file import parse
from fst_agents.serving.choose import choose_host
from fst_agents.serving.vllm_client import connection
from fst_agents.serving.vllm_host import VllmHost
from fst_agents.types import Candidate, Policy, Population, Rollout, Sampling
from programs.task import Task

PROBLEMS, GROUP = 64, 8
IN_FLIGHT = 128
"""Requests that the bare client keeps open at once; more were not faster."""

INSTRUCTIONS = (
    "rotate the list to the left, then swap the first and last digits.",
    "move the first digit to the end, then exchange the two ends.",
    "shift left by one place, then trade the outer digits.",
    "rotate the list to the left, then exchange the two ends.",
)


def run_vllm(pairs: int) -> dict[str, Any]:
    """Rollouts per second on a vLLM server of our own against a bare client."""
    return _run("rollouts", "vllm", pairs)


def run_local(pairs: int) -> dict[str, Any]:
    """Rollouts per second in this process against bare ``generate``."""
    return _run("rollouts-local", "local", pairs)


def _run(bench: str, kind: str, pairs: int) -> dict[str, Any]:
    config = parse({"serve": {"host": kind}, "policy": {"train": "full"}})
    task = build_task(config)
    sampling = Sampling(config.sampling.temperature, max_tokens=config.sampling.max_tokens)
    ours: list[float] = []
    peer: list[float] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fst-bench-")))
        host, _ = choose_host(config, Policy(model_path("micro")), folder)
        stack.callback(host.close)
        runner = Runner(
            task.program,
            task.metric,
            host,
            adapter=policy_adapter(config),
            limits=Limits(concurrency=config.sampling.concurrency),
        )
        stack.callback(runner.close)
        prompts = [r.calls[0].prompt_ids for r in _collect(runner, task, sampling)]
        bare = _bare_client(host) if isinstance(host, VllmHost) else _bare_generate(config)
        for pair in range(pairs + 1):
            a = _rate(lambda: len(_collect(runner, task, sampling)))
            b = _rate(lambda: bare(prompts, sampling))
            if pair:  # the first pair warms both up
                ours.append(a)
                peer.append(b)
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    return {
        "bench": bench,
        "ratio": {"min": min(ratios), "median": statistics.median(ratios), "max": max(ratios)},
        "ours": statistics.median(ours),
        "peer": statistics.median(peer),
        "unit": "rollouts/s",
        "pairs": pairs,
    }


def _collect(runner: Runner, task: Task, sampling: Sampling) -> list[Rollout]:
    """What one slow step of four batches asks for: problems × population × G/K."""
    names = seed_candidate(task.program).instructions
    population = Population(tuple(Candidate(dict.fromkeys(names, i)) for i in INSTRUCTIONS))
    chosen = problems(list(task.trainset)[:PROBLEMS])
    groups = runner.collect_groups(chosen, population, GROUP, sampling)
    rollouts = [r for group in groups for r in group.rollouts_G]
    failed = [r for r in rollouts if r.outcome.masked]
    if failed:
        raise ServingError(f"{len(failed)} rollouts failed: {failed[0].error}")
    return rollouts


def _rate(work: Callable[[], int]) -> float:
    started = time.perf_counter()
    return work() / (time.perf_counter() - started)


def _bare_client(host: VllmHost) -> Callable[[Sequence[Sequence[int]], Sampling], int]:
    """The same requests by aiohttp alone: token ids and log-probabilities asked for, n = 1."""
    server = host.server
    assert server is not None

    async def ask(prompts: Sequence[Sequence[int]], sampling: Sampling) -> int:
        gate = asyncio.Semaphore(IN_FLIGHT)
        headers = {"Authorization": f"Bearer {server.key}"}
        connector, base = connection(server.url, limit=IN_FLIGHT)
        async with aiohttp.ClientSession(headers=headers, connector=connector) as session:

            async def one(prompt: Sequence[int]) -> int:
                body = {
                    "model": server.name,
                    "prompt": list(prompt),
                    "max_tokens": sampling.max_tokens,
                    "temperature": sampling.temperature,
                    "logprobs": 0,
                    "return_token_ids": True,
                }
                async with gate, session.post(f"{base}/v1/completions", json=body) as reply:
                    reply.raise_for_status()
                    answer = await reply.json()
                    return len(answer["choices"])

            return sum(await asyncio.gather(*map(one, prompts)))

    return lambda prompts, sampling: asyncio.run(ask(prompts, sampling))


def _bare_generate(config: RunConfig) -> Callable[[Sequence[Sequence[int]], Sampling], int]:
    """``model.generate`` on the same prompts in batches of ``serve.max_batch``, scores returned."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(model_path("micro"), dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(model_path("micro"), padding_side="left")

    def generate(prompts: Sequence[Sequence[int]], sampling: Sampling) -> int:
        done, size = 0, config.serve.max_batch
        for start in range(0, len(prompts), size):
            rows = [{"input_ids": list(p)} for p in prompts[start : start + size]]
            batch = tokenizer.pad(rows, return_tensors="pt")
            with torch.inference_mode():
                out = model.generate(
                    **batch,
                    do_sample=True,
                    temperature=sampling.temperature,
                    max_new_tokens=sampling.max_tokens,
                    output_scores=True,
                    return_dict_in_generate=True,
                )
            done += len(out.sequences)
        return done

    return generate
