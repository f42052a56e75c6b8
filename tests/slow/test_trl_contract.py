"""What we rely on in TRL and transformers. A failure here means: read their new code first."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from optimizers.slow_batches import collate, distinct
from optimizers.slow_thread import Desk
from optimizers.trl_bridge import SampleTrainer, add_lora, save_adapter, trainer_args
from tests.slow.oracle import random_sample, run_config, write_model


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> SampleTrainer:
    folder = tmp_path_factory.mktemp("contract")
    model = AutoModelForCausalLM.from_pretrained(write_model(folder / "m"), dtype=torch.float32)
    return SampleTrainer(model, None, run_config(kl_coefficient=0.0), folder / "scratch", Desk())


def batch() -> dict[str, torch.Tensor]:
    random = Random(0)
    return collate(distinct([random_sample(random) for _ in range(4)]))


def loss(trainer: SampleTrainer, inputs: dict[str, torch.Tensor]) -> float:
    # As the library does at every step of its loop.
    trainer.current_gradient_accumulation_steps = 1
    return trainer.compute_loss(trainer.model, inputs).item()


def test_epsilon_high_is_the_cap_and_would_default_to_epsilon(tmp_path: Path) -> None:
    plain = GRPOConfig(output_dir=str(tmp_path), bf16=False)
    assert (plain.epsilon, plain.epsilon_high) == (0.2, None)
    ours = trainer_args(run_config(cispo_cap=4.0), tmp_path)
    assert (ours.loss_type, ours.epsilon_high) == ("cispo", 4.0)


def test_what_we_leave_alone_is_off(tmp_path: Path) -> None:
    """Each of these would change the loss that the oracle test pins down."""
    args = trainer_args(run_config(), tmp_path)
    assert args.num_iterations == 1
    assert args.steps_per_generation == args.gradient_accumulation_steps == 1
    assert args.off_policy_mask_threshold is None
    assert args.top_entropy_quantile == 1.0
    assert args.entropy_coef == 0.0
    assert not args.use_vllm
    assert not args.use_adaptive_entropy


def test_nothing_is_saved_printed_or_reported(tmp_path: Path) -> None:
    args: Any = trainer_args(run_config(), tmp_path)
    assert args.save_strategy == "no"
    assert args.report_to in ([], ["none"])
    assert args.disable_tqdm
    assert [args.bf16, args.fp16, args.gradient_checkpointing] == [False] * 3


def test_the_normaliser_is_the_one_we_hand_in(trainer: SampleTrainer) -> None:
    one, two = batch(), batch()
    two["num_items_in_batch"] = torch.tensor(2.0)
    assert loss(trainer, two) == pytest.approx(loss(trainer, one) / 2)


def test_the_tool_mask_weighs_tokens_and_may_be_a_fraction(trainer: SampleTrainer) -> None:
    one, half = batch(), batch()
    half["tool_mask"] = half["tool_mask"] / 2
    assert loss(trainer, half) == pytest.approx(loss(trainer, one) / 2)


def test_no_row_is_dropped(trainer: SampleTrainer) -> None:
    """Rows one by one sum to the batch: TRL neither splits nor floors what it is handed."""
    random = Random(0)
    samples = [random_sample(random) for _ in range(5)]
    rows = sum(loss(trainer, collate(distinct([sample]))) for sample in samples)
    assert loss(trainer, collate(distinct(samples))) == pytest.approx(rows, abs=1e-5)


def test_the_model_argument_of_compute_loss_is_only_called(trainer: SampleTrainer) -> None:
    """We pass a function that notes the outputs; they have log_probs and entropy."""
    seen: list[Any] = []
    model: Any = trainer.model

    def observed(**kwargs: Any) -> Any:
        seen.append(model(**kwargs))
        return seen[-1]

    trainer.current_gradient_accumulation_steps = 1
    GRPOTrainer.compute_loss(trainer, observed, batch())
    (output,) = seen
    assert output.log_probs.shape == output.entropy.shape


def test_an_adapter_is_written_as_peft_writes_it(tmp_path: Path) -> None:
    """All of ``save_pretrained`` but the model card, byte by byte."""
    model = AutoModelForCausalLM.from_pretrained(write_model(tmp_path / "m"), dtype=torch.float32)
    wrapped = add_lora(model, run_config(), None)
    save_adapter(wrapped, tmp_path / "ours")
    wrapped.save_pretrained(str(tmp_path / "theirs"), save_embedding_layers=False)
    files = {p.name: p.read_bytes() for p in (tmp_path / "theirs").iterdir()}
    files.pop("README.md")
    assert {p.name: p.read_bytes() for p in (tmp_path / "ours").iterdir()} == files
    assert not wrapped.peft_config["default"].inference_mode, "training goes on"
