"""The yardstick of the slow step: an unmodified ``GRPOTrainer`` on given token sequences.

Fed through TRL's public ``rollout_func``. Its clock starts at the first forward pass of a step,
the reference model's included, and stops after the optimizer step: what TRL does between having
sequences and training on them (decoding, rewards, padding) is not held against it.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback

from fst_agents.config import RunConfig
from fst_agents.types import TrainingSample
from optimizers.trl_bridge import (
    GRPOTrainer,
    lora_config,
    placeholder_tokenizer,
    trainer_args,
)


class _Clock(TrainerCallback):
    """Seconds from the first forward pass to the end of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.started: float | None = None

    def start(self, *_: Any) -> None:
        if self.started is None:
            self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.started is not None:
            self.seconds.append(time.perf_counter() - self.started)
        self.started = None


def time_plain_steps(
    model: PreTrainedModel,
    sequences: Sequence[TrainingSample],
    config: RunConfig,
    folder: Path,
    *,
    rows: int,
    steps: int,
    before_step: Callable[[], object],
) -> list[float]:
    """Seconds of each of ``steps`` steps on the same sequences, in micro-batches of ``rows``.

    ``before_step`` runs off the clock, with the trainer idle. ``rows`` divides the sequences.
    """
    clock = _Clock()
    count = len(sequences)

    def rollouts(prompts: Sequence[Any], trainer: Any) -> dict[str, list[list[int]] | None]:
        before_step()
        return {
            "prompt_ids": [[*s.prompt_ids] for s in sequences],
            "completion_ids": [[*s.completion_ids_T] for s in sequences],
            "logprobs": None,
        }

    def alternating(prompts: Sequence[Any], **_: Any) -> list[float | None]:
        return [float(i % 2) for i in range(len(prompts))]

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You are using 'rollout_func'")
        trainer = GRPOTrainer(
            model=model,
            args=trainer_args(
                config,
                folder,
                beta=config.slow.kl_coefficient,
                max_steps=steps,
                per_device_train_batch_size=rows,
                gradient_accumulation_steps=count // rows,
                num_generations=count,
            ),
            reward_funcs=[alternating],
            train_dataset=Dataset.from_dict({"prompt": ["x"] * count}),
            processing_class=placeholder_tokenizer(model),
            peft_config=lora_config(config) if config.policy.train == "lora" else None,
            rollout_func=rollouts,
            callbacks=[clock],
        )
    trainer.remove_callback(PrinterCallback)
    models: list[Any] = [model, trainer.ref_model]
    for scored in models:
        if scored is not None:
            scored.register_forward_pre_hook(clock.start)
    trainer.train()
    return clock.seconds
