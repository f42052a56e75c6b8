"""What a policy takes in memory, from its configuration alone: no weight is read or made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fst_agents.config import PolicyConfig, RunConfig
from optimizers.plan import distill_steps

WIDTH = {"float32": 4, "bfloat16": 2}
"""Bytes of a number."""


@dataclass(frozen=True)
class Figure:
    """A number, its unit, and how it was come by; ``None`` where it cannot be known."""

    value: float | None
    unit: str
    how: str


@dataclass(frozen=True)
class Shape:
    """What memory depends on. Counts of numbers; ``saved`` in bytes, ``None``: see ``unsaved``.

    ``trained`` are the parameters that move, ``cached`` the keys and values of one token,
    ``saved`` what the forward pass of ``tokens``, a micro-batch, keeps for its backward pass.
    """

    parameters: int
    trained: int
    cached: int
    tokens: int
    saved: int | None
    unsaved: str = ""


@cache
def shape_of(folder: str, policy: PolicyConfig, tokens: int) -> Shape:
    """The shape of a model whose ``config.json`` is in a folder or in the Hugging Face cache.

    Args:
        tokens: what a micro-batch holds at most.

    Raises:
        OSError, ValueError: it is in neither, or transformers cannot read it.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    trust = policy.trust_remote_code
    settings: Any = AutoConfig.from_pretrained(
        folder, local_files_only=True, trust_remote_code=trust
    )
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(settings, trust_remote_code=trust)
    text = settings.get_text_config()
    heads = text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // heads
    groups = getattr(text, "num_key_value_heads", None) or heads
    parameters = sum(p.numel() for p in model.parameters())
    trained = adapter_parameters(model, policy) if policy.train == "lora" else parameters
    try:
        saved, why = saved_bytes(settings, policy, tokens), ""
    except Exception as error:  # noqa: BLE001 - a model's own code raises what it likes
        saved, why = None, f"{type(error).__name__}: {error}"[:200]
    cached = 2 * text.num_hidden_layers * groups * size
    return Shape(parameters, trained, cached, tokens, saved, why)


def adapter_parameters(model: Any, policy: PolicyConfig) -> int:
    """Numbers in the LoRA adapter: rank · (inputs + outputs) for each linear layer that gets one.

    "all-linear" are all but the output layer, as PEFT has it.
    """
    import torch

    targets, output = policy.lora_targets, model.get_output_embeddings()
    count = 0
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        if targets == "all-linear":
            chosen = module is not output
        else:
            chosen = any(name == target or name.endswith(f".{target}") for target in targets)
        count += chosen * policy.lora_rank * (module.in_features + module.out_features)
    return count


def saved_bytes(settings: Any, policy: PolicyConfig, tokens: int) -> int:
    """What the forward pass of so many tokens keeps for the backward pass.

    torch runs it on fake tensors, which have shapes and no content. Every linear layer keeps its
    input, as it has to under an adapter. Logits are not counted: the trainer takes them in pieces.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AutoModelForCausalLM

    half = policy.dtype == "bfloat16"
    held = torch.bfloat16 if half and policy.train == "lora" else torch.float32
    with FakeTensorMode():
        model: Any = AutoModelForCausalLM.from_config(
            settings, dtype=held, trust_remote_code=policy.trust_remote_code
        )
        # torch's own name for which storage it is: those of fake tensors have no address.
        own: set[int] = {_storage(p)._cdata for p in model.parameters()}
        kept: dict[int, Any] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = _storage(tensor)
            if storage._cdata not in own:
                kept[storage._cdata] = storage
            return tensor

        ids = torch.ones((1, tokens), dtype=torch.long)
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=half):
            model.get_decoder()(input_ids=ids, use_cache=False)
        return sum(storage.nbytes() for storage in kept.values())


def _storage(tensor: Any) -> Any:
    return tensor.untyped_storage()


def parameters_by_name(model: str) -> float | None:
    """Parameters as a name such as "Qwen/Qwen3-8B" tells them, ``None`` if it does not."""
    told = re.findall(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([BM])(?![A-Za-z0-9])", Path(model).name)
    return float(told[0][0]) * {"B": 1e9, "M": 1e6}[told[0][1]] if len(told) == 1 else None


def trainer_memory(shape: Shape, config: RunConfig) -> dict[str, Figure]:
    """The peak of the trainer's process, part by part."""
    lora = config.policy.train == "lora"
    base = WIDTH[config.policy.dtype] if lora else WIDTH["float32"]
    parts = {
        "parameters": Figure(
            shape.parameters * base,
            "bytes",
            f"{shape.parameters:,} parameters of {base} bytes"
            + ("" if lora else "; what is trained is float32"),
        ),
        "adapter": Figure(
            4 * shape.trained if lora else 0,
            "bytes",
            f"{shape.trained:,} parameters of 4 bytes (rank {config.policy.lora_rank})"
            if lora
            else "none: policy.train = 'full'",
        ),
        "gradients": Figure(4 * shape.trained, "bytes", "4 bytes for each trained parameter"),
        "optimizer": Figure(
            8 * shape.trained, "bytes", "AdamW: two moments of 4 bytes for each trained parameter"
        ),
        "reference": _reference(shape, config),
        "activations": Figure(
            shape.saved,
            "bytes",
            f"at least: a forward pass of {shape.tokens} tokens (slow.tokens_per_micro_batch, or "
            "one sequence if that may be longer) on tensors without content; casts for adapters "
            "and working memory of kernels come on top. Half the tokens take half of it"
            if shape.saved is not None
            else f"unknown: the model cannot be run without its weights ({shape.unsaved})",
        ),
    }
    if distill_steps(config):
        parts["distill"] = Figure(
            2 * shape.parameters * base + 16 * shape.trained,
            "bytes",
            "[distill] has two models of its own, the one that is trained and its frozen teacher",
        )
    if config.arm == "gepa":  # the finishing stage alone
        parts = {name: parts[name] for name in ("reference", "activations", "distill")}
    return {**parts, "total": _sum(parts)}


def _reference(shape: Shape, config: RunConfig) -> Figure:
    if config.policy.train == "lora":
        return Figure(0, "bytes", "none: the adapter is switched off to get the base model")
    if not config.slow.kl_coefficient:
        return Figure(0, "bytes", "none: slow.kl_coefficient = 0")
    return Figure(4 * shape.parameters, "bytes", "the base model beside the one that is trained")


def host_memory(
    shape: Shape, config: RunConfig, kind: str, tokens: int | None
) -> dict[str, Figure]:
    """What serving takes. ``tokens``: the longest that a sequence may become, if that is known."""
    width = WIDTH[config.policy.dtype]
    models = 2 if kind == "local" else 1
    cached, batch = shape.cached * width, config.serve.max_batch
    cache = Figure(
        None if tokens is None else cached * tokens * batch,
        "bytes",
        f"{cached:,} bytes a token; "
        + (
            "unknown: how long sequences become is not known"
            if tokens is None
            else f"serve.max_batch = {batch} sequences of {tokens} tokens: the longest prompt "
            "measured, and sampling.max_tokens"
        )
        + ("; vLLM takes what it gets, and lets the rest wait" if kind == "vllm" else ""),
    )
    parts = {
        "parameters": Figure(
            models * shape.parameters * width,
            "bytes",
            f"{shape.parameters:,} parameters of {width} bytes"
            + (", twice while weights are swapped" if models == 2 else ""),
        ),
        "kv_cache": cache,
    }
    if kind == "local":
        return {**parts, "total": _sum(parts)}
    share = Figure(
        None,
        "bytes",
        f"serve.gpu_memory = {config.serve.gpu_memory:g} of the accelerator, whatever is needed",
    )
    return {**parts, "total": share}


def _sum(parts: dict[str, Figure]) -> Figure:
    values = [figure.value for figure in parts.values()]
    if any(value is None for value in values):
        unknown = ", ".join(name for name, figure in parts.items() if figure.value is None)
        return Figure(None, "bytes", f"unknown, as {unknown} is")
    return Figure(sum(value or 0 for value in values), "bytes", "the sum of these")


def unknown_memory(model: str) -> dict[str, Figure]:
    """What can be said of a model that has still to be fetched."""
    told = parameters_by_name(model)
    weights = Figure(
        None if told is None else told * WIDTH["bfloat16"],
        "bytes",
        "unknown until the model is fetched"
        if told is None
        else f"{told:g} parameters, as its name says, in bfloat16",
    )
    rest = f"unknown until {model} is fetched: its config.json is neither a file nor in the cache"
    return {"parameters": weights, "total": Figure(None, "bytes", rest)}
