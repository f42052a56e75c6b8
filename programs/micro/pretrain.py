"""Train the micro policy from nothing: `python -m programs.micro.pretrain OUT_DIR`.

A Qwen3 of under a million parameters learns to follow the phrase book: single operations, the
trained pairs, and vague instructions that may mean any operation. It takes minutes on two cores.
The same seed on the same machine gives the same weights; elsewhere, the same quality.
"""

import argparse
import json
import logging
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Final

import torch
from torch.nn.functional import cross_entropy
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from programs.micro import phrasebook, tokenizer
from programs.micro.lessons import IGNORED, Encoder, Lesson, Mix, collate, draw, questions
from programs.micro.quality import QualityTable, measure, quality

log = logging.getLogger(__name__)

_BUCKETS: Final = 4
"""Into how many groups of similar length a batch is cut."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights.

    Attributes:
        seed: Of the initial weights and of the lessons.
        steps: Optimizer steps.
        batch_size: Lessons per step.
        learning_rate: At its peak; it warms up, then falls to a hundredth along a cosine.
        warmup: Steps to the peak.
        weight_decay: AdamW's.
        mix: What the lessons are made of.
        hidden, feedforward, layers, heads: The size of the network.
    """

    seed: int = 0
    steps: int = 1600
    batch_size: int = 256
    learning_rate: float = 2e-3
    warmup: int = 50
    weight_decay: float = 0.01
    mix: Mix = field(default_factory=Mix)
    hidden: int = 128
    feedforward: int = 384
    layers: int = 4
    heads: int = 4


def pretrain(out_dir: str | Path, recipe: Recipe | None = None) -> QualityTable:
    """Train a policy, save it with its tokenizer and quality table, and return the table."""
    recipe = recipe or Recipe()
    words = tokenizer.build()
    started = time.perf_counter()
    model = train(recipe, words)
    seconds = time.perf_counter() - started
    table = quality(model, words)
    save(Path(out_dir), model, words)
    record = {"recipe": asdict(recipe), "seconds": round(seconds), **table.to_dict()}
    (Path(out_dir) / "quality.json").write_text(json.dumps(record, indent=1) + "\n")
    return table


def train(recipe: Recipe, words: PreTrainedTokenizerBase) -> Qwen3ForCausalLM:
    """Train a fresh network on freshly drawn lessons."""
    model = new_model(recipe)
    encoder, rng = Encoder(words), Random(recipe.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), recipe.learning_rate, (0.9, 0.95), weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe))
    started = time.perf_counter()
    for step in range(1, recipe.steps + 1):
        lessons = [draw(rng, recipe.mix) for _ in range(recipe.batch_size)]
        optimizer.zero_grad()
        loss = _backward(model, encoder, lessons)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            _report(step, recipe, loss, time.perf_counter() - started, model, words)
    return model.eval()


def new_model(recipe: Recipe) -> Qwen3ForCausalLM:
    """Make an untrained network; the embeddings are untied, so that servers reload them exactly."""
    config = Qwen3Config(
        vocab_size=tokenizer.VOCAB_SIZE,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.feedforward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        head_dim=recipe.hidden // recipe.heads,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return Qwen3ForCausalLM(config).train()


def answer_loss(model: Qwen3ForCausalLM, encoder: Encoder, lessons: list[Lesson]) -> torch.Tensor:
    """Return the mean negative log-likelihood, in nats, of the answers' tokens; a scalar."""
    batch = collate(encoder, lessons)
    hidden = model.model(input_ids=batch.ids[:, :-1]).last_hidden_state
    answered = batch.targets != IGNORED
    return cross_entropy(model.lm_head(hidden[answered]), batch.targets[answered])


def _backward(model: Qwen3ForCausalLM, encoder: Encoder, lessons: list[Lesson]) -> float:
    """Add up the gradient of the mean loss over lessons, and return that loss.

    Lessons of similar length go together, which spares a third of the time spent on padding.
    """
    by_length = sorted(lessons, key=lambda lesson: len(encoder.prompt(lesson)))
    size = math.ceil(len(lessons) / _BUCKETS)
    total = 0.0
    for start in range(0, len(lessons), size):
        bucket = by_length[start : start + size]
        loss = answer_loss(model, encoder, bucket) * (len(bucket) / len(lessons))
        loss.backward()
        total += loss.item()
    return total


def save(out_dir: Path, model: Qwen3ForCausalLM, words: PreTrainedTokenizerBase) -> None:
    """Save a checkpoint whose generation config names the special tokens and nothing else."""
    model.generation_config = GenerationConfig(eos_token_id=1, pad_token_id=0)
    model.save_pretrained(out_dir)
    words.save_pretrained(out_dir)


def _rate(step: int, recipe: Recipe) -> float:
    """Return the learning rate of a step as a share of the peak."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


def _report(
    step: int,
    recipe: Recipe,
    loss: float,
    seconds: float,
    model: Qwen3ForCausalLM,
    words: PreTrainedTokenizerBase,
) -> None:
    shown = {
        name: measure(model, words, _sample(all_ops)).sampled
        for name, all_ops in (
            ("singles", [(op,) for op in phrasebook.OPERATIONS]),
            ("trained", phrasebook.trained_pairs()),
            ("held-out", phrasebook.held_out_pairs()),
        )
    }
    model.train()
    cells = "  ".join(f"{name} {value:.3f}" for name, value in shown.items())
    left = seconds / step * (recipe.steps - step)
    log.info(
        "step %d/%d  loss %.3f  %s  %.0f s, %.0f s left",
        *(step, recipe.steps, loss, cells, seconds, left),
    )


def _sample(all_ops: Sequence[phrasebook.Ops]) -> list[Lesson]:
    rng = Random(0)
    return [lesson for ops in all_ops for lesson in questions(ops, ops, 3, rng)]


def main() -> None:
    """Run `python -m programs.micro.pretrain OUT_DIR [--seed N] [--steps N] [--misheard P]`."""
    parser = argparse.ArgumentParser(description="Train the micro policy from nothing.")
    parser.add_argument("out_dir", type=Path, help="where to save the checkpoint")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument(
        "--misheard", type=float, default=Mix.misheard, help="share of pairs misheard"
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    recipe = Recipe(seed=args.seed, steps=args.steps, mix=Mix(misheard=args.misheard))
    table = pretrain(args.out_dir, recipe)
    print(json.dumps(table.summary(), indent=1))


if __name__ == "__main__":
    main()
