"""Samples as padded tensors: equal ones once, micro-batches by length, the keys of TRL's loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from fst_agents.types import TrainingSample


class Copies(NamedTuple):
    """A sample that stands for ``times`` samples of one sequence."""

    sample: TrainingSample
    times: int


def distinct(samples: Sequence[TrainingSample]) -> list[Copies]:
    """Samples of one sequence as one, in the order of their first.

    Rollouts of one prompt often say the same, the more so the more the policy has learnt. Where the
    sampler's log-probabilities are equal too, so is ρ, and the loss is linear in each sample's
    weight and in its weight × advantage: one sequence with their sums has the same loss and the
    same gradient, and is computed once.
    """
    equal: dict[object, list[TrainingSample]] = {}
    for sample in samples:
        sequence = (sample.prompt_ids, sample.completion_ids_T, sample.loss_mask_T)
        equal.setdefault((*sequence, sample.logprobs_T), []).append(sample)
    return [Copies(_sum(same), len(same)) for same in equal.values()]


def _sum(same: Sequence[TrainingSample]) -> TrainingSample:
    if len(same) == 1:
        return same[0]
    weight = math.fsum(s.weight for s in same)
    advantage = math.fsum(s.weight * s.advantage for s in same) / weight
    return replace(same[0], weight=weight, advantage=advantage)


def whole_lengths(sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[int]:
    """Lengths of (prompt, completion) by which :func:`micro_batches` does not part one prompt's.

    A prompt is computed once per micro-batch (:mod:`optimizers.shared_prefix`), so that each of its
    sequences counts as the longest of them.
    """
    longest: dict[tuple[int, ...], int] = {}
    for prompt, completion in sequences:
        longest[tuple(prompt)] = max(len(completion), longest.get(tuple(prompt), 0))
    return [len(prompt) + longest[tuple(prompt)] for prompt, _ in sequences]


def micro_batches(lengths: Sequence[int], padded_tokens: int) -> list[list[int]]:
    """Cut rows, longest first, so that rows × longest row stays within ``padded_tokens``.

    Returns positions in ``lengths``. A row beyond the budget gets a micro-batch of its own.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= padded_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def pad(rows: Sequence[Sequence[float]], dtype: torch.dtype) -> Tensor:
    """Rows as one tensor, filled up with zeros on the right."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=dtype)


def aligned(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, each (B, L), padded on the right."""
    return pad(sequences, torch.long), pad([[1] * len(s) for s in sequences], torch.long)


def collate(rows: Sequence[Copies]) -> dict[str, Tensor]:
    """The keys TRL's loss reads, with (B, P) prompts and (B, T) completions; and ``copies`` (B,).

    TRL joins the two blocks again. Sequences are aligned at the left and cut where the shortest
    prompt ends, so no row is padded twice and positions start at zero as they did in the
    sampler; the rest of longer prompts stands in the completion block with weight zero.
    """
    samples = [row.sample for row in rows]
    cut = min(len(s.prompt_ids) for s in samples)

    def completion(sample: TrainingSample, values: Sequence[float]) -> list[float]:
        return [*[0] * (len(sample.prompt_ids) - cut), *values]

    ids, mask = aligned([[*s.prompt_ids, *s.completion_ids_T] for s in samples])
    loss_mask = pad([completion(s, s.loss_mask_T) for s in samples], torch.float32)
    weights = torch.tensor([[s.weight] for s in samples])
    return {
        "prompt_ids": ids[:, :cut],
        "prompt_mask": mask[:, :cut],
        "completion_ids": ids[:, cut:],
        "completion_mask": mask[:, cut:],
        "tool_mask": loss_mask * weights,
        "advantages": torch.tensor([s.advantage for s in samples]),
        "old_per_token_logps": pad([completion(s, s.logprobs_T) for s in samples], torch.float32),
        "num_items_in_batch": torch.tensor(1.0),
        "copies": torch.tensor([row.times for row in rows]),
    }
