"""Tiny random checkpoints with a lossless tokenizer, made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
SIZES: dict[str, Any] = {
    "vocab_size": 258,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "eos_token_id": 256,
    "bos_token_id": None,
    "pad_token_id": 257,
}


def save_tokenizer(folder: Path, template: str | None = TEMPLATE) -> None:
    """One token per byte; 256 ends a sequence, 257 pads."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", chat_template=template
    )
    tokenizer.save_pretrained(str(folder))


def save_model(
    folder: Path, *, tied: bool = True, family: str = "qwen3", seed: int = 0, context: int = 256
) -> Path:
    """A random checkpoint whose logits are far from uniform, so that stale weights show."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = SIZES | {"max_position_embeddings": context}
    if family == "qwen3":
        model: Any = Qwen3ForCausalLM(Qwen3Config(**sizes, tie_word_embeddings=tied))
    else:
        model = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=tied))
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.normal_(0, 0.15)
    model.save_pretrained(str(folder))
    save_tokenizer(folder)
    return folder


def save_perturbed(source: Path, folder: Path, seed: int) -> Path:
    """Full weights of ``source``, every one of them moved (embeddings too)."""
    torch.manual_seed(seed)
    model: Any = AutoModelForCausalLM.from_pretrained(str(source), dtype=torch.float32)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(str(folder))
    return folder


def save_adapter(source: Path, folder: Path, seed: int, rank: int = 8) -> Path:
    """A random LoRA adapter on every linear layer of ``source``."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    base: Any = AutoModelForCausalLM.from_pretrained(str(source), dtype=torch.float32)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    model: Any = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.1)
    model.save_pretrained(str(folder))
    return folder


def logprobs_of(
    source: Path,
    prompt: tuple[int, ...],
    completion: tuple[int, ...],
    temperature: float,
    adapter: Path | None = None,
) -> list[float]:
    """Log-probabilities of a completion by one plain forward pass in float32."""
    model: Any = AutoModelForCausalLM.from_pretrained(str(source), dtype=torch.float32)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter))
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    table = (logits / temperature).log_softmax(-1)
    return table.gather(1, torch.tensor(completion)[:, None])[:, 0].tolist()
