"""``slow-step``: one update of the slow optimizer against plain TRL on the same sequences."""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any, Literal

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from fst_agents.run_file import parse
from fst_agents.types import Policy, TrainingSample
from optimizers.plain_trl import time_plain_steps
from optimizers.slow_grpo import GrpoSlow

VOCABULARY = 384
SEQUENCES, GROUP = 128, 8
WARM_UP = 2


def run(
    pairs: int = 10, *, train: Literal["lora", "full"] = "full", rows: int = 32, kl: float = 0.001
) -> dict[str, Any]:
    """Interleaved pairs of steps on a random Qwen3 of 4 layers × 128, on 16 groups of 8.

    Both sides: float32, no gradient checkpointing, the same threads, CISPO, micro-batches of
    about ``rows`` sequences. Ours is timed whole, from samples to report; TRL from its first
    forward pass to the end of its optimizer step. The ratio is ours / TRL of each pair.
    """
    with tempfile.TemporaryDirectory(prefix="fst-bench-") as name:
        folder = Path(name)
        model = _model()
        model.save_pretrained(folder / "model")
        longest = max(len(s.prompt_ids) + len(s.completion_ids_T) for s in _sequences(0))
        config = parse(
            {
                "policy": {"train": train},
                "slow": {"kl_coefficient": kl, "tokens_per_micro_batch": rows * longest},
            }
        )
        ours: list[float] = []
        with closing(GrpoSlow(Policy(str(folder / "model")), config)) as slow:

            def our_step() -> None:
                samples = _sequences(slow.policy.version)
                started = time.perf_counter()
                slow.update(samples)
                ours.append(time.perf_counter() - started)

            peer = time_plain_steps(
                Qwen3ForCausalLM.from_pretrained(folder / "model"),
                _sequences(0),
                config,
                folder / "scratch",
                rows=rows,
                steps=WARM_UP + pairs,
                before_step=our_step,
            )
    return _result(ours[WARM_UP:], peer[WARM_UP:])


def _result(ours: list[float], peer: list[float]) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    return {
        "bench": "slow-step",
        "ratio": {"min": min(ratios), "median": statistics.median(ratios), "max": max(ratios)},
        "ours": statistics.median(ours),
        "peer": statistics.median(peer),
        "unit": "s/step",
        "pairs": len(ratios),
    }


def _model() -> Any:
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        eos_token_id=1,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    return Qwen3ForCausalLM(config)


def _sequences(version: int) -> list[TrainingSample]:
    """Groups on prompts of 22–28 tokens, with completions of 5–7; the same for every version."""
    random = Random(0)
    prompts = [_tokens(random, random.randint(22, 28)) for _ in range(SEQUENCES // GROUP)]
    return [_sequence(random, prompts[i // GROUP], i, version) for i in range(SEQUENCES)]


def _tokens(random: Random, count: int) -> tuple[int, ...]:
    return tuple(random.randrange(2, VOCABULARY) for _ in range(count))


def _sequence(random: Random, prompt: tuple[int, ...], index: int, version: int) -> TrainingSample:
    length = random.randint(5, 7)
    return TrainingSample(
        prompt_ids=prompt,
        completion_ids_T=_tokens(random, length),
        loss_mask_T=(1,) * length,
        logprobs_T=(-5.95,) * length,
        advantage=1.0 if index % 2 else -1.0,
        weight=1 / (SEQUENCES * length),
        policy_version=version,
        problem_id=str(index // GROUP),
        candidate_id="candidate",
        predictor="solve",
    )
