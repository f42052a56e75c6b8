"""The loss of the slow phase in plain torch, one sample at a time: what the trainer must equal.

Written from the paper's formula, not from any trainer: no padding, no micro-batches, no fused
head. Plus the tiny models and samples the tests of the slow optimizer share.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from fst_agents.config import RunConfig
from fst_agents.run_file import parse
from fst_agents.types import TrainingSample

VOCABULARY = 17
CONTEXT = 32


def logps(model: Any, sample: TrainingSample, temperature: float) -> Tensor:
    ids = torch.tensor([[*sample.prompt_ids, *sample.completion_ids_T]])
    logits = model(input_ids=ids).logits[0, len(sample.prompt_ids) - 1 : -1] / temperature
    return logits.log_softmax(-1)[range(len(logits)), ids[0, len(sample.prompt_ids) :]]


def loss(
    model: Any,
    base: Any,
    samples: Sequence[TrainingSample],
    temperature: float,
    cap: float,
    beta: float,
) -> Tensor:
    """``Σ weight · Σ_T mask · (−sg(min(ρ, cap)) · A · log π + β · ρ · k3)``."""
    total = torch.zeros(())
    for sample in samples:
        ours = logps(model, sample, temperature)
        gap = logps(base, sample, temperature).detach() - ours
        ratio = torch.exp(ours - torch.tensor(sample.logprobs_T))
        policy = -ratio.clamp(max=cap).detach() * sample.advantage * ours
        kl = ratio * (torch.exp(gap) - gap - 1)
        mask = torch.tensor(sample.loss_mask_T)
        total = total + sample.weight * (mask * (policy + beta * kl)).sum()
    return total


def write_model(folder: Path, *, llama: bool = False, seed: int = 0) -> Path:
    """A random model of two layers; Qwen3 with tied embeddings or Llama without."""
    shared: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": not llama,
        "initializer_range": 0.4,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = (
            LlamaForCausalLM(LlamaConfig(**shared))
            if llama
            else Qwen3ForCausalLM(Qwen3Config(**shared))
        )
    model.save_pretrained(folder)
    return folder


def random_sample(
    random: Random, *, version: int = 0, weight: float | None = None
) -> TrainingSample:
    """Unequal lengths, a masked token in longer completions, sampler log-probs far and near."""
    length = random.randint(1, 6)
    return TrainingSample(
        prompt_ids=tuple(random.randrange(VOCABULARY) for _ in range(random.randint(1, 9))),
        completion_ids_T=tuple(random.randrange(VOCABULARY) for _ in range(length)),
        loss_mask_T=tuple(int(t != 2) for t in range(length)),
        logprobs_T=tuple(random.uniform(-6.0, -0.5) if t != 2 else 0.0 for t in range(length)),
        advantage=random.gauss(0.0, 1.0),
        weight=random.uniform(0.01, 0.1) if weight is None else weight,
        policy_version=version,
        problem_id="p",
        candidate_id="c",
        predictor="solve",
    )


def run_config(
    train: str = "full",
    temperature: float = 1.0,
    seed: int = 0,
    dtype: str = "float32",
    **slow: float,
) -> RunConfig:
    """A run file for the tiny models; neither warm-up nor clipping unless asked for."""
    return parse(
        {
            "seed": seed,
            "policy": {"train": train, "lora_rank": 2, "lora_alpha": 4, "dtype": dtype},
            "sampling": {"temperature": temperature},
            "slow": {"warmup_steps": 0, "max_grad_norm": 1e9, **slow},
        }
    )
