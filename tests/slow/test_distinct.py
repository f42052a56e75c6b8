"""Equal sequences are computed once: what is added up, and that the loss does not change."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fst_agents.types import TrainingSample
from optimizers.slow_batches import collate, distinct
from tests.slow.oracle import random_sample, run_config
from tests.slow.test_loss import assert_agrees

SEQUENCES = [random_sample(Random(n)) for n in range(3)]


def samples_of() -> st.SearchStrategy[list[TrainingSample]]:
    number = st.floats(-3, 3)
    weight = st.floats(0.001, 1)
    one = st.builds(
        lambda sequence, advantage, weight: replace(sequence, advantage=advantage, weight=weight),
        st.sampled_from(SEQUENCES), number, weight,
    )  # fmt: skip
    return st.lists(one, max_size=12)


def key(sample: TrainingSample) -> tuple[object, ...]:
    return (sample.prompt_ids, sample.completion_ids_T, sample.loss_mask_T, sample.logprobs_T)


@given(samples_of())
def test_nothing_is_lost_or_moved(samples: list[TrainingSample]) -> None:
    """Per sequence: how many there were, their weights, and their weights × advantages."""
    found = distinct(samples)
    assert [key(row.sample) for row in found] == list(dict.fromkeys(map(key, samples)))
    for row in found:
        same = [s for s in samples if key(s) == key(row.sample)]
        assert row.times == len(same)
        assert row.sample.weight == pytest.approx(math.fsum(s.weight for s in same))
        force = math.fsum(s.weight * s.advantage for s in same)
        assert row.sample.weight * row.sample.advantage == pytest.approx(force, abs=1e-9)


@pytest.mark.parametrize(
    "change",
    [{"prompt_ids": (9, 9)}, {"logprobs_T": (-9.0,)}, {"loss_mask_T": (0,)}],
    ids=lambda change: next(iter(change)),
)
def test_another_prompt_log_probability_or_mask_is_another_sequence(
    change: dict[str, tuple[float, ...]],
) -> None:
    one = replace(
        SEQUENCES[0], completion_ids_T=(3,), logprobs_T=(-1.0,), loss_mask_T=(1,)
    )  # a single token, so that each change is whole
    assert [row.times for row in distinct([one, replace(one, **change), one])] == [2, 1]


@pytest.mark.parametrize("train", ["full", "lora"])
def test_repeated_samples_have_the_papers_loss_and_gradient(train: str, tmp_path: Path) -> None:
    """Of seven samples three are one sequence, with advantages of both signs, and the token counts
    are those of seven."""
    random = Random(5)
    first, *rest = (random_sample(random) for _ in range(5))
    again = [replace(first, advantage=a, weight=w) for a, w in ((-1.5, 0.02), (0.5, 0.07))]
    samples = [first, *rest, *again]
    assert len(collate(distinct(samples))["copies"]) == 5
    numbers = assert_agrees(run_config(train, kl_coefficient=0.3), tmp_path, samples)
    assert numbers["tokens"] == sum(sum(s.loss_mask_T) for s in samples)
