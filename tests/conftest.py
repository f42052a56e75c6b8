"""Before anything else: what libraries read from the environment once, when they are loaded."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest
from hypothesis import settings

# No test fetches anything, however it is started.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

# Tests run side by side, on tensors so small that a second thread only spins.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Ray clusters of the tests answer nobody else.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)

# A busy machine is no defect: pytest-timeout looks after examples that hang.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

LONG = (
    "cli/test_cli.py",
    "studies/test_ray.py",
    "serving/test_host_contract.py",
    "resume/test_stops.py",
    "studies/test_cells.py",
    "serving/test_stranger.py",
    "resume/test_kills.py",
    "cli/test_tasks.py",
    "docs/test_snippets.py",
    "serving/test_vllm_restart.py",
    "wheel/test_wheel.py",
    "studies/test_commands.py",
    "longrun/test_long_run.py",
    "slow/test_slow_step_bench.py",
)
"""Files of few tests that take long. Begun last, one of them would keep a single process busy while
the others have nothing left to do; begun first, the many short files fill the gaps behind them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; the order within a file, and of all other files, stays."""
    here = Path(__file__).parent
    rank = {here / name: place for place, name in enumerate(LONG)}
    if missing := [str(file) for file in rank if not file.is_file()]:
        raise pytest.UsageError(f"LONG of tests/conftest.py names no file: {missing}")
    items.sort(key=lambda item: rank.get(item.path, len(rank)))
