"""Forward passes in which what rows have in common is computed once.

The rollouts of a group share their prompt, and all rollouts of a candidate its instruction: most
tokens of a batch are copies. A batch is run from left to right in stages. Each ends at a column,
runs only the rows that differ up to there, and leaves their keys and values to the next. Every
position attends to what it would attend to in one pass, and gradients flow through the cache: the
result is that of one pass. Prefix Grouper (arXiv 2506.05433) shares the prompt of a group so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from fst_agents.errors import TrainerError
from optimizers.slow_batches import aligned

STAGE = 256
"""What a further stage has to save, in tokens: every forward pass has costs of its own."""


def stages(ids_BL: NDArray[np.int64], limit: int) -> list[int]:
    """The columns where stages end, before the last stage; none where nothing would be saved.

    Args:
        ids_BL: token ids (B, L).
        limit: the last column, from 0 to L - 1, at which a stage may end.

    The choice that computes the fewest tokens. Where rows part company more of them have to be
    run, so that only these columns and ``limit`` come into question.
    """
    if limit == 0:
        return []
    rows, length = ids_BL.shape
    unlike = np.unique(ids_BL[:, :limit], axis=0)
    parting = (unlike[1:] != unlike[:-1]).argmax(axis=1)
    # column → (tokens up to there, where stages end)
    best: dict[int, tuple[int, list[int]]] = {0: (0, [])}
    for end in sorted({*parting.tolist(), limit} - {0}):
        run = 1 + int((parting < end).sum())
        tokens, ends = min((cost + run * (end - at), ends) for at, (cost, ends) in best.items())
        best[end] = tokens + STAGE, [*ends, end]
    return min((cost + rows * (length - at), ends) for at, (cost, ends) in best.items())[1]


def forward(
    model: Any,
    ids_BL: Tensor,
    mask_BL: Tensor,
    limit: int,
    *,
    labels_BL: Tensor | None = None,
    **head: Any,
) -> tuple[int, Any]:
    """Run a causal language model on rows padded at the right.

    Args:
        limit: the output begins here or earlier; no row is padded before.
        labels_BL: labels for the model, if any.
        head: arguments of the call that makes the output.

    Returns:
        The column at which the output begins, and the model's output from there on.

    Raises:
        TrainerError: the model overlooks the keys and values that it is handed.
    """
    cache: Any = DynamicCache(config=model.config)
    ids = ids_BL.numpy(force=True)
    # Other kinds of layers may forget, or overwrite in place, what the gradient needs.
    shared = all(type(layer) is DynamicLayer for layer in cache.layers)
    start, place = 0, np.zeros(len(ids), dtype=np.int64)  # a row's place among those run so far
    for end in stages(ids, limit) if shared else []:
        _, first, inverse = np.unique(ids[:, :end], axis=0, return_index=True, return_inverse=True)
        if start:
            cache.batch_select_indices(torch.from_numpy(place[first]).to(ids_BL.device))
        rows = torch.from_numpy(first).to(ids_BL.device)
        model(
            input_ids=ids_BL[rows, start:end],
            attention_mask=mask_BL[rows, :end],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        start, place = end, inverse.reshape(-1)
    if start:
        cache.batch_select_indices(torch.from_numpy(place).to(ids_BL.device))
        head["past_key_values"] = cache
    if labels_BL is not None:
        head["labels"] = labels_BL[:, start:]
    output = model(input_ids=ids_BL[:, start:], attention_mask=mask_BL, **head)
    if start and cache.get_seq_length() != ids_BL.shape[1]:
        raise TrainerError(
            f"a {type(model).__name__} was handed the keys and values of {start} tokens and used "
            "its own; its log-probabilities would be of other prompts"
        )
    return start, output


def completion_logits(
    model: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> list[Tensor]:
    """The logits that predict each completion's tokens, of every row (T, V) in float32."""
    ids, mask = aligned([[*p, *c] for p, c in zip(prompts, completions, strict=True)])
    limit = min(map(len, prompts)) - 1
    first, output = forward(model, ids.to(model.device), mask.to(model.device), limit)
    logits = output.logits.float()
    starts = [len(p) - 1 - first for p in prompts]
    return [
        logits[row, start : start + len(completion)]
        for row, (start, completion) in enumerate(zip(starts, completions, strict=True))
    ]
