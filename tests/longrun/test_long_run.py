"""A long run holds no more, and a late step costs no more, than an early one."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from long_run import (  # pyright: ignore[reportMissingImports]
    IO,
    STEPS_PER_CYCLE,
    dearer,
    growth,
    long_run,
    too_much,
)

from fst_agents.run_dir import RunDir

pytestmark = pytest.mark.skipif(not IO.exists(), reason="reads what a thread has done from /proc")


@pytest.mark.parametrize("steps", [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_nothing_grows(tmp_path: Path, steps: int) -> None:
    readings = long_run(tmp_path, steps)
    print({**growth(readings), **dearer(readings)}, *readings, sep="\n")
    assert readings[-1].step == steps
    assert too_much(readings) == {}
    run = RunDir.open(tmp_path / "run")
    cycles = steps // STEPS_PER_CYCLE
    assert len(run.rollout_files()) == steps + cycles
    assert len(run.populations()) == cycles
    assert len(list(run.checkpoint_folder.iterdir())) == 2
    assert len(list((run.path / "policy").iterdir())) == 3
    assert (run.path / "state.json").stat().st_size < 5_000
    assert (run.path / "tracking.state.json").stat().st_size < 1_000


def test_what_grows_is_found(tmp_path: Path) -> None:
    """Each step leaves an object, memory, an open file and a thread, and rewrites a history."""
    kept: list[Any] = []
    woken = threading.Event()

    def leak(step: int) -> None:
        kept.append(([step], os.urandom(50_000), (tmp_path / "open").open("w")))
        threading.Thread(target=woken.wait, daemon=True).start()
        (tmp_path / "history").write_text("." * 1000 * step)

    try:
        readings = long_run(tmp_path, 160, leak)
    finally:
        woken.set()
        for _, _, file in kept:
            file.close()
    found = {"objects", "memory", "descriptors", "threads", "written"}
    assert too_much(readings).keys() >= found
