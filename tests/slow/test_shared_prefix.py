"""What rows share is computed once: which columns are cut, and that no number changes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from fst_agents.errors import TrainerError
from fst_agents.types import Policy, TrainingSample
from optimizers import shared_prefix
from optimizers.distill import Distiller
from optimizers.distill_pairs import Pair
from optimizers.shared_prefix import STAGE, forward, stages
from optimizers.slow_batches import aligned, micro_batches, whole_lengths
from optimizers.slow_grpo import GrpoSlow
from tests.slow.oracle import random_sample, run_config, write_model
from tests.slow.test_loss import assert_agrees

# -- where to cut ------------------------------------------------------------------------------


def batch(*widths: int, copies: int = 8) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Two texts, each with two problems, each with ``copies`` answers; widths of the three."""
    text, problem, answer = widths
    rows = [
        [t] * text + [10 + p] * problem + [20 + a] * answer
        for t in range(2)
        for p in range(2)
        for a in range(copies)
    ]
    return np.array(rows)


def test_a_text_and_its_problems_are_stages_of_their_own() -> None:
    """32 rows: 2 × 400 tokens of the texts, 4 × 15 of the problems, 32 × 5 of the answers. Of
    problems of 8 tokens 32 × 8 cost no more than 4 × 8 and a stage."""
    assert stages(batch(400, 15, 5), limit=414) == [400, 414]
    assert stages(batch(400, 8, 5), limit=407) == [400]


@pytest.mark.parametrize("limit", [0, 1])
def test_what_saves_too_little_is_not_done(limit: int) -> None:
    assert stages(batch(2, 2, 2), limit) == []


def test_rows_that_differ_from_the_start_share_nothing() -> None:
    assert stages(np.arange(8)[:, None].repeat(500, axis=1), limit=499) == []


def cost(ids: Any, ends: Sequence[int]) -> int:
    """Tokens computed, and what the stages cost."""
    run = [len({tuple(row[:end]) for row in ids.tolist()}) for end in ends]
    columns = [0, *ends, ids.shape[1]]
    widths = [end - at for at, end in pairwise(columns)]
    return STAGE * len(ends) + sum(
        n * width for n, width in zip([*run, len(ids)], widths, strict=True)
    )


@given(
    st.lists(st.lists(st.integers(0, 1), min_size=5, max_size=5), min_size=1, max_size=8),
    st.integers(1, 4),
    st.integers(1, 90),
)
def test_no_other_cut_is_cheaper(rows: list[list[int]], limit: int, widen: int) -> None:
    """Every choice of columns, tried one by one; rows widened so that stages can pay."""
    ids = np.array(rows).repeat(widen, axis=1)
    every = [c * widen for c in range(1, limit + 1)]
    choices = [ends for n in range(len(every) + 1) for ends in combinations(every, n)]
    found = stages(ids, limit * widen)
    assert cost(ids, found) == min(cost(ids, ends) for ends in choices)


def test_rows_of_one_prompt_are_not_parted() -> None:
    """Longest first would take one of each prompt in turn."""
    sequences = [((p,) * 9, (1,) * n) for p in (1, 2) for n in (6, 4, 2)]
    lengths = whole_lengths(sequences)
    assert lengths == [15] * 6
    assert micro_batches(lengths, padded_tokens=45) == [[0, 1, 2], [3, 4, 5]]


# -- no number changes -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("model") / "base"))


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever can be shared is: batches of tests are small."""
    monkeypatch.setattr(shared_prefix, "STAGE", 0)


def grouped(texts: int = 2, problems: int = 2, answers: int = 3) -> list[TrainingSample]:
    """Samples that share texts and prompts; prompts and answers of unequal lengths."""
    random = Random(3)
    samples: list[TrainingSample] = []
    for t in range(texts):
        for p in range(problems):
            prompt = (*range(2, 8), 9 + t, *(11 + p,) * (1 + p))
            samples += (replace(random_sample(random), prompt_ids=prompt) for _ in range(answers))
    return samples


def ragged(samples: Sequence[TrainingSample]) -> tuple[torch.Tensor, torch.Tensor, int]:
    rows = [[*s.prompt_ids, *s.completion_ids_T] for s in samples]
    return *aligned(rows), min(len(s.prompt_ids) for s in samples) - 1


@pytest.mark.usefixtures("always")
def test_logits_are_those_of_one_pass(model: str) -> None:
    policy = AutoModelForCausalLM.from_pretrained(model)
    ids, mask, limit = ragged(grouped())
    assert stages(ids.numpy(), limit) == [6, 7]
    seen: list[tuple[int, ...]] = []
    policy.model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    start, output = forward(policy, ids, mask, limit)
    assert (start, seen) == (7, [(1, 6), (2, 1), (12, ids.shape[1] - 7)])
    whole = policy(input_ids=ids, attention_mask=mask).logits[:, start:]
    there = mask[:, start:] == 1
    torch.testing.assert_close(output.logits[there], whole[there], atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("llama", [False, True], ids=["qwen3", "llama"])
@pytest.mark.parametrize("train", ["full", "lora"])
def test_loss_and_gradient_are_the_papers(train: str, llama: bool, tmp_path: Path) -> None:
    """Of the oracle, which runs one sequence after another; the KL's base pass is shared too."""
    config = run_config(train, temperature=0.7, kl_coefficient=0.1)
    assert_agrees(config, tmp_path, grouped(), llama=llama)


def test_scores_are_the_same(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = grouped()
    prompts = [s.prompt_ids for s in samples]
    completions = [s.completion_ids_T for s in samples]

    def scores() -> tuple[list[list[float]], float]:
        with closing(GrpoSlow(Policy(model), run_config("lora", learning_rate=0.05))) as slow:
            slow.update(samples)
            found = slow.logprobs(prompts, completions, temperature=0.7)
            return found, slow.kl_to_base(prompts, completions)

    apart = scores()
    monkeypatch.setattr(shared_prefix, "STAGE", 0)
    shared = scores()
    assert apart[1] > 1e-3
    assert shared[1] == pytest.approx(apart[1], rel=1e-4)
    for ours, theirs in zip(shared[0], apart[0], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_distillation_is_the_same(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [
        Pair(s.prompt_ids[:4] + s.prompt_ids[-2:], s.prompt_ids, s.completion_ids_T)
        for s in grouped()
    ]

    def step() -> dict[str, float]:
        with closing(Distiller(Policy(model), run_config("lora"))) as one:
            one.distill(pairs)
            metrics = one.distill(pairs).metrics
            return {name: metrics[f"distill/{name}"] for name in ("kl", "grad_norm")}

    apart = step()
    monkeypatch.setattr(shared_prefix, "STAGE", 0)
    assert step() == pytest.approx(apart, rel=1e-3)


# -- where it is not done ----------------------------------------------------------------------


@pytest.mark.usefixtures("always")
def test_a_model_that_overlooks_the_cache_is_refused(model: str) -> None:
    class Forgetful:
        def __init__(self, inner: Any) -> None:
            self.inner, self.config = inner, inner.config

        def __call__(self, *, past_key_values: Any = None, attention_mask: Any, **kw: Any) -> Any:
            return self.inner(**kw)

    policy = Forgetful(AutoModelForCausalLM.from_pretrained(model))
    ids, mask, limit = ragged(grouped())
    with pytest.raises(TrainerError, match="a Forgetful was handed the keys and values of 7 token"):
        forward(policy, ids, mask, limit)


@pytest.mark.usefixtures("always")
def test_layers_that_forget_are_run_in_one_pass(model: str) -> None:
    """A window slides over the tokens: what it has left behind is not kept."""
    kinds = ["full_attention", "sliding_attention"]
    config = Qwen3Config.from_pretrained(model, sliding_window=4, layer_types=kinds)
    ids, mask, limit = ragged(grouped())
    assert forward(Qwen3ForCausalLM(config), ids, mask, limit)[0] == 0
