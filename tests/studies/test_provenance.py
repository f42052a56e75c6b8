"""What a page says of where its runs come from."""

from __future__ import annotations

import time

from made_up import ARMS, quick_scope, record

from experiments.studies.provenance import run_facts


def test_a_commit_is_named_once_and_failed_runs_are_not_counted() -> None:
    """A run that was gone on with has two; runs of an installed package have none."""
    scope = quick_scope(seeds=4)
    runs = [record(scope.cell("rl", *unit), ARMS["rl"]) for unit in scope.units[:4]]
    commits = ["b", "a, b", None, "c"]
    runs = [
        run.model_copy(update={"commit": commit}) for run, commit in zip(runs, commits, strict=True)
    ]
    runs[3] = runs[3].model_copy(update={"error": "the server died"})
    facts = run_facts("fst study x", time.monotonic(), {run.key: run for run in runs})
    assert facts["commits of the runs"] == "a, b"
    assert facts["runs"].startswith("3, which took 0.1 hours")
