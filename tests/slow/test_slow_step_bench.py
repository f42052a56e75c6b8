"""The benchmark of the slow step runs both sides and says what was promised."""

from __future__ import annotations

from typing import Literal

import pytest

from experiments.bench.slow_step import run


@pytest.mark.parametrize("train", ["lora", "full"])
def test_the_benchmark_times_both_sides(train: Literal["lora", "full"]) -> None:
    result = run(pairs=1, train=train)
    assert set(result) == {"bench", "ratio", "ours", "peer", "unit", "pairs"}
    assert result["pairs"] == 1
    assert result["ratio"]["median"] == pytest.approx(result["ours"] / result["peer"])
