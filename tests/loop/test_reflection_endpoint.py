"""The same loop with a reflection model behind HTTP, and with other people's checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments.train import train
from fst_agents.errors import ReflectionError
from fst_agents.run_file import parse
from programs import micro
from programs.micro.reflector import OfflineReflector, UnknownTask
from tests.chat_endpoint import Asked, ChatEndpoint, chat_endpoint


def offline(asked: Asked) -> str:
    """The offline reflector answers what is asked."""
    try:
        return OfflineReflector(seed=0)(asked.text)
    except UnknownTask:  # random weights: no example shows digits
        return f"```\nrotate left, attempt {len(asked.text)}\n```"


@pytest.fixture
def endpoint() -> Iterator[ChatEndpoint]:
    with chat_endpoint(offline) as found:
        yield found


def run(folder: Path, **sections: Any) -> dict[str, Any]:
    data: dict[str, Any] = {
        "run_dir": str(folder / "run"),
        "task": {"train_size": 32, "val_size": 4},
        "serve": {"host": "local"},
        "fast": {"population": 2, "rollouts": 20, "minibatch": 2},
        "slow": {"steps_per_cycle": 1, "batch_size": 4, "group_size": 4},
        "budget": {"cycles": 1},
        "eval": {"samples": 1},
        "track": {"enabled": False},
    }
    for name, values in sections.items():
        data[name] = {**data.get(name, {}), **values} if isinstance(values, dict) else values
    return train(parse(data), Console(quiet=True))


def remote(url: str, key: str = "secret-key") -> dict[str, Any]:
    return {
        "reflection_lm": "openai/reflector",
        "reflection_args": {"api_base": url, "api_key": key, "num_retries": 0},
    }


def test_a_reflection_model_behind_http_drives_the_loop(
    tmp_path: Path, endpoint: ChatEndpoint
) -> None:
    answer = run(tmp_path, fast=remote(endpoint.url))
    assert {asked.headers["Authorization"] for asked in endpoint.requests} == {"Bearer secret-key"}
    assert "```" in endpoint.requests[0].text  # gepa's ordinary reflection prompt
    assert answer["rollouts"]["slow"] == 16
    written = [f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()]
    assert not any(b"secret-key" in content for content in written)


def test_a_reflection_endpoint_that_fails_stops_the_run(
    tmp_path: Path, endpoint: ChatEndpoint
) -> None:
    endpoint.answer = lambda _: (401, '{"error": {"message": "no"}}')
    with pytest.raises(ReflectionError):
        run(tmp_path, fast=remote(endpoint.url))


def save_random(folder: Path, family: str) -> Path:
    """A small checkpoint with random weights that speaks the micro policy's tokens."""
    import torch
    from transformers import (
        AutoConfig,
        AutoTokenizer,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen3ForCausalLM,
    )

    torch.manual_seed(0)
    base: Any = AutoConfig.from_pretrained(str(micro.path()))
    sizes: dict[str, Any] = {
        "vocab_size": base.vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 2048,
        "eos_token_id": base.eos_token_id,
        "pad_token_id": base.pad_token_id,
        "bos_token_id": None,
    }
    if family == "llama":
        model: Any = LlamaForCausalLM(LlamaConfig(**sizes))
    else:
        model = Qwen3ForCausalLM(type(base)(**sizes))
    model.save_pretrained(str(folder))
    AutoTokenizer.from_pretrained(str(micro.path())).save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("train_", ["lora", "full"])
def test_any_checkpoint_folder_can_be_the_policy(
    tmp_path: Path, endpoint: ChatEndpoint, family: str, train_: str
) -> None:
    model = save_random(tmp_path / "model", family)
    policy = {"model": str(model), "train": train_}
    answer = run(tmp_path, policy=policy, fast=remote(endpoint.url), sampling={"max_tokens": 4})
    assert answer["rollouts"]["slow"] == 16
    assert all(v is not None for v in answer["scores"].values())
