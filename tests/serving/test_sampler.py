from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from fst_agents.serving.sampler import Row, draw, left_pad, nucleus, sample
from fst_agents.types import Sampling


def text_of(token_ids: Sequence[int]) -> str:
    return "".join(chr(i) for i in token_ids)


def run(model: Any, prompts: list[tuple[int, ...]], seed: int, **asked: Any) -> list[Row]:
    return sample(
        model,
        prompts,
        Sampling(**asked),
        eos_token_ids=(256,),
        decode=text_of,
        generator=torch.Generator().manual_seed(seed),
        deadline=time.monotonic() + 30,
    )


@pytest.fixture
def model(tied: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(str(tied), dtype=torch.float32).eval()


def test_nucleus_keeps_the_likeliest_tokens_and_renormalises() -> None:
    """Of 0.5, 0.3, 0.2 the first two reach 0.7; renormalised 0.5/0.8 = 0.625 and 0.375."""
    kept = nucleus(torch.tensor([[0.2, 0.5, 0.3]]).log(), 0.7).exp()
    assert kept[0].tolist() == pytest.approx([0.0, 0.625, 0.375])


def test_nucleus_keeps_at_least_one_token() -> None:
    assert nucleus(torch.tensor([[0.6, 0.4]]).log(), 1e-9).exp()[0].tolist() == [1.0, 0.0]


def test_draw_reports_the_tempered_distribution() -> None:
    """Logits 0 and ln 3 at temperature 0.5 double to 0 and ln 9: probabilities 0.1 and 0.9."""
    logits = torch.tensor([[0.0, math.log(3)]]).expand(4000, 2)
    generator = torch.Generator().manual_seed(0)
    ids, logprobs = draw(logits, Sampling(temperature=0.5), generator)
    assert ids.float().mean().item() == pytest.approx(0.9, abs=0.02)
    assert logprobs[ids == 1][0].item() == pytest.approx(math.log(0.9), abs=1e-6)
    assert logprobs[ids == 0][0].item() == pytest.approx(math.log(0.1), abs=1e-6)


def test_padding_is_on_the_left() -> None:
    ids, mask = left_pad([(5, 6, 7), (8,)], pad=0)
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_equal_seeds_and_batches_give_equal_samples(model: Any) -> None:
    prompts = [(1, 2, 3), (4, 5), (1, 2, 3)]
    first, again = (run(model, prompts, seed=3, max_tokens=9) for _ in range(2))
    assert [r.token_ids for r in first] == [r.token_ids for r in again]
    assert [r.token_ids for r in run(model, prompts, 4, max_tokens=9)] != [
        r.token_ids for r in first
    ]


def test_sampling_leaves_the_global_generator_alone(model: Any) -> None:
    before = torch.get_rng_state()
    run(model, [(1, 2)], seed=0, max_tokens=4)
    assert torch.equal(before, torch.get_rng_state())


def test_rows_end_at_the_end_of_sequence_and_others_go_on(model: Any) -> None:
    """A bias towards the end of sequence makes rows end at different lengths."""
    head = model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(258))
    head.bias.data[256] = 9.0
    rows = run(model, [(i, i + 1) for i in range(24)], seed=0, max_tokens=12)
    lengths = {len(r.token_ids) for r in rows if r.finish_reason == "stop"}
    assert len(lengths) > 1
    for row in rows:
        assert (row.finish_reason == "stop") == (row.token_ids[-1] == 256)
        assert 256 not in row.token_ids[:-1]


def test_a_deadline_leaves_rows_unfinished(model: Any) -> None:
    rows = sample(
        model,
        [(1, 2)],
        Sampling(max_tokens=4),
        eos_token_ids=(256,),
        decode=text_of,
        generator=torch.Generator(),
        deadline=time.monotonic() - 1,
    )
    assert [r.finish_reason for r in rows] == [None]


def test_a_stop_string_ends_a_row_as_soon_as_it_is_there(model: Any) -> None:
    rows = run(model, [(i,) for i in range(48)], seed=0, max_tokens=30, stop=("a", "e"))
    stopped = [text_of(r.token_ids) for r in rows if r.token_ids[-1] in (97, 101)]
    assert stopped
    assert not any("a" in text[:-1] or "e" in text[:-1] for text in stopped)
    assert all(r.finish_reason == "stop" for r in rows if r.token_ids[-1] in (97, 101))
