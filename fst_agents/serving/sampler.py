"""Sampling from a causal language model, with the log-probabilities that were sampled from.

``transformers``' ``generate`` would do, but it prefills every copy of a prompt anew, keeps the
logits of all steps, and draws from torch's global generator. This loop prefills each distinct
prompt once, keeps one float per token, and draws from a generator of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from fst_agents.types import Sampling


@dataclass(slots=True)
class Row:
    """A completion in the making. ``finish_reason`` stays ``None`` where time ran out."""

    token_ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    finish_reason: str | None = None


def draw(
    logits_BV: Tensor, sampling: Sampling, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One token per row and its log-probability: ids (B,) and float32 log-probabilities (B,).

    The log-probability is that of the distribution the token was drawn from: temperature and
    ``top_p`` applied. At temperature 0 the likeliest token is taken, and its log-probability is
    that of the untempered distribution.
    """
    logits_BV = logits_BV.float()
    if sampling.temperature == 0:
        logprobs_BV = logits_BV.log_softmax(-1)
        ids_B1 = logprobs_BV.argmax(-1, keepdim=True)
        return ids_B1[:, 0], logprobs_BV.gather(1, ids_B1)[:, 0]
    logprobs_BV = (logits_BV / sampling.temperature).log_softmax(-1)
    if sampling.top_p < 1:
        logprobs_BV = nucleus(logprobs_BV, sampling.top_p)
    ids_B1 = torch.multinomial(logprobs_BV.exp(), 1, generator=generator)
    return ids_B1[:, 0], logprobs_BV.gather(1, ids_B1)[:, 0]


def nucleus(logprobs_BV: Tensor, top_p: float) -> Tensor:
    """Keep the likeliest tokens up to probability ``top_p``, at least one, and renormalise."""
    sorted_BV, order_BV = logprobs_BV.sort(descending=True, dim=-1)
    before_BV = sorted_BV.exp().cumsum(-1) - sorted_BV.exp()
    kept_BV = sorted_BV.masked_fill(before_BV >= top_p, float("-inf"))
    return torch.empty_like(logprobs_BV).scatter_(1, order_BV, kept_BV).log_softmax(-1)


def left_pad(prompts: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, each (prompts, longest), padded on the left."""
    longest = max(map(len, prompts))
    ids = [[pad] * (longest - len(p)) + list(p) for p in prompts]
    mask = [[0] * (longest - len(p)) + [1] * len(p) for p in prompts]
    return torch.tensor(ids), torch.tensor(mask)


@torch.inference_mode()
def sample(
    model: Any,
    prompts: Sequence[tuple[int, ...]],
    sampling: Sampling,
    *,
    eos_token_ids: Sequence[int],
    decode: Callable[[Sequence[int]], str],
    generator: torch.Generator,
    deadline: float,
) -> list[Row]:
    """Sample one completion per prompt, all under the same ``sampling``.

    Rows end at an end-of-sequence token, at ``max_tokens``, or when the text has a stop string
    (whose tokens stay in the row). ``deadline`` is a reading of :func:`time.monotonic`.
    """
    distinct = list(dict.fromkeys(prompts))
    where = {prompt: i for i, prompt in enumerate(distinct)}
    state = _Decoding(model, distinct)
    state.select([where[p] for p in prompts])
    rows = [Row() for _ in prompts]
    alive = list(range(len(rows)))
    while alive and time.monotonic() < deadline:
        ids_B, logprobs_B = draw(state.logits_BV, sampling, generator)
        for i, token, logprob in zip(alive, ids_B.tolist(), logprobs_B.tolist(), strict=True):
            _extend(rows[i], token, logprob, sampling, eos_token_ids, decode)
        kept = [k for k, i in enumerate(alive) if rows[i].finish_reason is None]
        alive = [alive[k] for k in kept]
        if alive:
            state.select(kept)
            state.step(ids_B[kept])
    return rows


def _extend(
    row: Row,
    token: int,
    logprob: float,
    sampling: Sampling,
    eos_token_ids: Sequence[int],
    decode: Callable[[Sequence[int]], str],
) -> None:
    """Append a token and say whether the row ends with it."""
    row.token_ids.append(token)
    row.logprobs.append(logprob)
    stopped = token in eos_token_ids
    if not stopped and sampling.stop:
        text = decode(row.token_ids)
        stopped = any(stop in text for stop in sampling.stop)
    if stopped:
        row.finish_reason = "stop"
    elif len(row.token_ids) == sampling.max_tokens:
        row.finish_reason = "length"


class _Decoding:
    """The rows being decoded: key-value cache, attention mask, positions and last logits."""

    def __init__(self, model: Any, prompts: Sequence[tuple[int, ...]]) -> None:
        self._model = model
        self._cache: Any = DynamicCache(config=model.config)
        ids, mask = left_pad(prompts, pad=0)
        self._mask_BT = mask.to(model.device)
        self._position_B1 = self._mask_BT.sum(-1, keepdim=True) - 1
        positions = (self._mask_BT.cumsum(-1) - 1).clamp(min=0)
        self.logits_BV = self._forward(ids.to(model.device), positions)

    def select(self, rows: list[int]) -> None:
        """Keep these rows, in this order; a row may be taken more than once."""
        if rows == list(range(len(self._mask_BT))):
            return
        index = torch.tensor(rows, device=self._mask_BT.device, dtype=torch.long)
        self._cache.batch_select_indices(index)
        self._mask_BT, self.logits_BV = self._mask_BT[index], self.logits_BV[index]
        self._position_B1 = self._position_B1[index]

    def step(self, ids_B: Tensor) -> None:
        """Append one token to every row and compute the logits after it."""
        self._mask_BT = torch.cat([self._mask_BT, torch.ones_like(self._position_B1)], dim=1)
        self._position_B1 = self._position_B1 + 1
        self.logits_BV = self._forward(ids_B[:, None], self._position_B1)

    def _forward(self, ids_BT: Tensor, positions_BT: Tensor) -> Tensor:
        output = self._model(
            input_ids=ids_BT,
            attention_mask=self._mask_BT,
            position_ids=positions_BT,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]
