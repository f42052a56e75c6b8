"""A run that was stopped, anywhere, comes to what the uninterrupted one comes to, exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stops import Fuse, Run, attempt, finish, outcome, small

from fst_agents.config import RunConfig

CONFIGS = {
    "fst": small(),
    "every": small(checkpoint={"every": 5}),
    "stale": small(fast={"max_staleness": 2}),
    "sequential": small(arm="sequential"),
    "rl": small(arm="rl"),
    # Evolves, passes over, evolves again, and ends within a cycle.
    "adaptive": small(fast={"schedule": "adaptive"}, budget={"cycles": 3}),
}


@pytest.fixture(scope="module", params=list(CONFIGS))
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The uninterrupted run."""
    run = attempt(tmp_path_factory.mktemp("whole") / "run", CONFIGS[request.param], Fuse())
    assert finish(run)
    return run


def places(config: RunConfig, path: Path, *, kill: bool) -> int:
    """How many places there are to stop at."""
    fuse = Fuse(kill=kill)
    assert finish(attempt(path, config, fuse))
    return fuse.places


@pytest.mark.parametrize("kill", [True, False], ids=["kill", "error"])
def test_a_stop_anywhere_changes_nothing(whole: Run, tmp_path: Path, kill: bool) -> None:
    """At every so many places, by turns before a call and behind one; errors between the kills."""
    step = 5 if whole.config == CONFIGS["fst"] else 11
    stop_at_every(step, whole, tmp_path, kill=kill, first=0 if kill else step // 2)


@pytest.mark.slow
@pytest.mark.parametrize("whole", ["fst"], indirect=True)
def test_a_kill_at_every_single_place_changes_nothing(whole: Run, tmp_path: Path) -> None:
    stop_at_every(1, whole, tmp_path, kill=True)


def stop_at_every(step: int, whole: Run, folder: Path, *, kill: bool, first: int = 0) -> None:
    """Stop at places that are ``step`` apart, go on, and compare with the whole run."""
    wanted = outcome(whole)
    slow = whole.config.slow
    # A slow step, or one request of a fast phase; with fewer checkpoints, up to a cycle's steps.
    again = slow.batch_size * slow.group_size
    if whole.config.checkpoint.every > 1:
        again *= slow.steps_per_cycle
    count = places(whole.config, folder / "count", kill=kill)
    assert count > 5 * step
    for at in range(first, count, step):
        path = folder / f"{at}"
        stopped = attempt(path, whole.config, Fuse(at, kill=kill))
        assert not finish(stopped), at
        resumed = attempt(path, whole.config, Fuse())
        assert finish(resumed), at
        assert outcome(resumed) == wanted, at
        assert stopped.host.paid + resumed.host.paid - whole.host.paid <= again, at
        assert len(stopped.asked) + len(resumed.asked) - len(whole.asked) <= 1, at


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(stops=st.lists(st.integers(0, 120), min_size=2, max_size=6))
def test_many_stops_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, stops: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("many")
    reference = attempt(folder / "whole", CONFIGS["fst"], Fuse())
    assert finish(reference)
    for at in stops:
        run = attempt(folder / "run", CONFIGS["fst"], Fuse(at))
        if finish(run):
            break
    run = attempt(folder / "run", CONFIGS["fst"], Fuse())
    assert finish(run)
    assert outcome(run) == outcome(reference)
