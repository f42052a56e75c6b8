"""What a run will cost, against numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.check import check
from experiments.forecast import forecast
from experiments.forecast_memory import parameters_by_name
from fst_agents.config import ARMS

QWEN3_8B = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
}
PARAMETERS = 8_190_735_360
"""What the model's card says, to the last one."""
ADAPTER = 36 * 32 * (2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 12288))
"""Rank 32: queries and outputs, keys and values, and the three of the feed-forward block."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A large model of which only the configuration has been fetched."""
    folder = tmp_path_factory.mktemp("Qwen3-8B")
    (folder / "config.json").write_text(json.dumps(QWEN3_8B))
    return folder


def told(*overrides: str, rate: float | None = None, **data: Any) -> dict[str, Any]:
    """The forecast of small phases: 2 cycles of 2 steps of 4 × 4, on 4 validation problems."""
    base: dict[str, Any] = {
        "task": {"name": "digits", "train_size": 64, "val_size": 4},
        "fast": {"population": 2, "rollouts": 40, "minibatch": 3},
        "slow": {"steps_per_cycle": 2, "batch_size": 4, "group_size": 4},
        "budget": {"cycles": 2},
        "eval": {"samples": 1},
    }
    return forecast(check({**base, **data}, overrides), rate)


def test_of_the_embedded_policy_everything_is_known() -> None:
    """2 × (40 + 2 · 16) rollouts; four cells of 4 problems, and ten skills of 32 twice."""
    found = told(rate=100.0)
    assert found["rollouts"] == {"limit": 144, "fast": 80, "slow": 64, "eval": 656}
    assert found["tokens"]["completion"]["value"] == 800 * 16
    assert 800 * 10 < found["tokens"]["prompt"]["value"] < 800 * 100
    # A phase scores its 8 problems at least once; 32 rollouts are left for proposals on 3.
    assert found["reflection"]["calls"]["value"] == 2 * ((40 - 8) // 3 + 1)
    assert found["reflection"]["cost"]["value"] == 0
    assert found["seconds"]["value"] == 8.0
    assert all(part["value"] is not None for part in found["memory"]["trainer"].values())
    assert all(part["value"] is not None for part in found["memory"]["host"].values())
    assert all(part["value"] > 0 for part in found["disk"].values())


def test_a_large_policy_by_its_configuration(large: Path) -> None:
    found = told(policy={"model": str(large), "dtype": "bfloat16"})
    trainer, host = found["memory"]["trainer"], found["memory"]["host"]
    assert {name: part["value"] for name, part in trainer.items() if "act" not in name} == {
        "parameters": 2 * PARAMETERS,
        "adapter": 4 * ADAPTER,
        "gradients": 4 * ADAPTER,
        "optimizer": 8 * ADAPTER,
        "reference": 0,
        "total": 2 * PARAMETERS + 16 * ADAPTER + trainer["activations"]["value"],
    }
    # Of each token and layer, in two bytes: 4 · 12288 in the feed-forward block, at least 6 · 4096
    # around it. In four bytes: the inputs of two norms.
    least = 36 * 8192 * (2 * (4 * 12288 + 6 * 4096) + 4 * 2 * 4096)
    assert least < trainer["activations"]["value"] < 2 * least
    assert host["parameters"]["value"] == 4 * PARAMETERS  # two while weights are swapped
    assert host["kv_cache"]["how"].startswith(f"{2 * 2 * 36 * 8 * 128:,} bytes a token")
    assert host["kv_cache"]["value"] is None  # its tokenizer is not there
    assert found["tokens"]["prompt"]["value"] is None
    assert found["disk"]["optimizer"]["value"] == 3 * 8 * ADAPTER
    assert found["disk"]["weights"]["value"] == 7 * 4 * ADAPTER


def test_half_the_tokens_at_once_take_half_of_the_activations(large: Path) -> None:
    policy = {"model": str(large), "dtype": "bfloat16"}
    whole, half = (
        told(f"slow.tokens_per_micro_batch={n}", policy=policy)["memory"]["trainer"]
        for n in (4096, 2048)
    )
    assert half["activations"]["value"] == pytest.approx(
        whole["activations"]["value"] / 2, rel=0.05
    )


def test_all_weights_trained_take_a_reference_and_float32(large: Path) -> None:
    policy = {"model": str(large), "dtype": "bfloat16", "train": "full"}
    trainer = told("slow.tokens_per_micro_batch=1024", policy=policy)["memory"]["trainer"]
    parts = ("parameters", "adapter", "gradients", "optimizer", "reference")
    assert [trainer[p]["value"] / PARAMETERS for p in parts] == [4, 0, 4, 8, 4]


def test_a_policy_that_has_not_been_fetched_is_unknown_and_says_so() -> None:
    found = told(policy={"model": "Qwen/Qwen3-8B", "dtype": "bfloat16"})
    if "unknown" not in found["memory"]["trainer"]["total"]["how"]:
        pytest.skip("the model is in the cache of this machine")
    assert found["memory"]["trainer"]["parameters"]["value"] == 16e9
    assert "until Qwen/Qwen3-8B is fetched" in found["memory"]["trainer"]["total"]["how"]
    assert found["disk"]["weights"]["value"] is None
    assert found["seconds"]["value"] is None


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("Qwen/Qwen3-8B", 8e9), ("Qwen/Qwen2.5-0.5B-Instruct", 5e8), ("x/smol-135M", 135e6),
     ("Qwen/Qwen3-30B-A3B", 30e9), ("gpt2", None), ("x/a-1B-of-2B", None)],
)  # fmt: skip
def test_what_a_name_says(name: str, parameters: float | None) -> None:
    assert parameters_by_name(name) == parameters


def test_reflections_have_the_price_that_litellm_lists() -> None:
    """24 or fewer calls of 4096 tokens at 2 USD per million."""
    found = told(fast={"population": 2, "rollouts": 40, "minibatch": 3,
                       "reflection_lm": "openai/gpt-5-mini"})["reflection"]  # fmt: skip
    assert found["calls"]["value"] == 22
    assert found["cost"]["value"] == pytest.approx(22 * 4096 * 2e-6)
    unknown = told(fast={"population": 2, "rollouts": 40, "minibatch": 3,
                         "reflection_lm": "hosted_vllm/mine"})["reflection"]  # fmt: skip
    assert unknown["cost"]["value"] is None
    assert "does not have 'hosted_vllm/mine'" in unknown["cost"]["how"]


def test_arms_without_a_phase_do_not_pay_for_it() -> None:
    assert told(arm="rl")["reflection"]["calls"]["value"] == 0
    prompts_only = told(arm="gepa")
    assert "trainer" not in prompts_only["memory"]
    assert set(prompts_only["disk"]) == {"rollouts"}
    distilled = told(arm="distill", budget={"cycles": 16})
    assert distilled["rollouts"]["distill"] == 96 * 4 * 2
    trainer = distilled["memory"]["trainer"]
    assert trainer["distill"]["value"] > 2 * trainer["parameters"]["value"]


ROLLOUTS = {
    "fst": (2, {"fast": 2 * 40, "slow": 2 * 32, "eval": 4 * 4 + 640}),
    "sequential": (2, {"fast": 2 * 40, "slow": 2 * 32, "eval": 4 * 4 + 640}),
    "rl": (2, {"fast": 0, "slow": 9 * 16, "eval": 2 * 4 + 640}),
    "gepa": (2, {"fast": 144, "slow": 0, "eval": 2 * 4 + 320}),
    "distill": (16, {"fast": 5 * 40, "slow": 5 * 32, "distill": 768, "eval": 4 * 4 + 640}),
}
"""Arm → cycles, and what a forecast has to say of them."""


@pytest.mark.parametrize("arm", ARMS)
def test_what_each_arm_makes_of_the_same_rollouts(
    arm: str,
) -> None:
    """A cycle is 40 + 2 · 16 = 72 rollouts. RL has 144 // 16 = 9 steps, GEPA nothing but phases.
    The finishing stage is paid for first, 96 · 4 · 2 = 768 of 1152: 384 are left, 5 cycles.
    Evaluation: cells of 4 problems, and ten skills of 32 before training and behind it."""
    cycles, rollouts = ROLLOUTS[arm]
    found = told(arm=arm, budget={"cycles": cycles})["rollouts"]
    assert found == {"limit": cycles * 72, **rollouts}


def test_prompts_only_pays_for_the_finishing_stage_that_it_is_given() -> None:
    """Two more cells of 4 problems, the ten skills of 32 again, and the stage's own models."""
    found = told(arm="gepa", distill={"steps": 2})
    assert found["rollouts"]["eval"] == 4 * 4 + 2 * 320
    trainer = found["memory"]["trainer"]
    assert set(trainer) == {"reference", "activations", "distill", "total"}
    assert (
        trainer["total"]["value"] == trainer["activations"]["value"] + (trainer["distill"]["value"])
    )
    assert set(found["disk"]) == {"weights", "optimizer", "rollouts"}
